"""Attention of a network on a user's video or images: its trained blocks, or a parameter-free block on its features.

Shapes: T frames, H height, W width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import clip_features
from torch_nonlocal.attention import BlockRecord, probe_geometry, similarity, watch
from torch_nonlocal.insertion import blocks, load_blocks
from torch_nonlocal.models.build import PACKAGED, build
from torch_nonlocal.models.inputs import inputs_of
from torch_nonlocal.tasks.footage import evenly, read_footage
from torch_nonlocal.view.facts import BlockFacts
from torch_nonlocal.view.look import as_frames

CHECKPOINTS = (".safetensors", ".pt", ".pth")
"""Suffixes of checkpoints."""
PACKAGED_AT = "blocks.4"
"""Default module of the packaged network: 112 channels at a sixteenth of the input's size."""


@dataclass(frozen=True)
class Attended:
    """Blocks that ran on a clip.

    Attributes:
        records: their records by name, on the clip as a whole.
        facts: what is known about each of them, by name.
    """

    records: dict[str, BlockRecord]
    facts: dict[str, BlockFacts]

    def named(self, label: str) -> "Attended":
        """Return the same blocks under names that start with a label."""
        return Attended(
            {f"{label}: {name}": record for name, record in self.records.items()},
            {f"{label}: {name}": facts for name, facts in self.facts.items()},
        )


def read_frames(paths: Sequence[Path], *, frames: int, start: int = 0, stride: int = 0, size: int = 272) -> Tensor:
    """Read evenly spaced frames of one video or folder of images, or all of several images: (T, H, W, 3) uint8, RGB.

    Args:
        paths: one video, one folder, or images; images are resized to the size of the first.
        frames: number of frames of a video; all of a shorter video.
        start: index of the first frame of a video.
        stride: distance between two frames; 0 spreads them over the rest of the video.
        size: largest short side in pixels; larger frames are reduced, smaller ones are kept.

    Raises:
        ValueError: no paths, a file that cannot be read, or frames outside the video.
    """
    return read_footage(paths, evenly(frames, start=start, stride=stride), size=size).clip


def attend(
    clip_THWC: Tensor, *, model: str, checkpoint: Path | None, at: str, temperature: float, pretrained: bool
) -> Attended:
    """Run a network of `models.build.build` on a clip, as `attention_records`; images become frames of a clip."""
    records = attention_records(
        clip_THWC, model=model, checkpoint=checkpoint, at=at, temperature=temperature, pretrained=pretrained
    )
    random = not pretrained and model.startswith(("torchvision:", "timm:", "ours:"))
    untrained = (
        "" if not random else "the network has random weights" + (" apart from its blocks" if checkpoint else "")
    )
    name = "EfficientNet-Lite0, ImageNet weights" if model == PACKAGED else model
    name = f"{name}, blocks of {checkpoint.name}" if checkpoint else name
    facts = {place: BlockFacts(network=name, untrained=untrained) for place in records}
    return Attended({place: as_frames(record) for place, record in records.items()}, facts)


def attention_records(
    clip_THWC: Tensor, *, model: str, checkpoint: Path | None, at: str, temperature: float, pretrained: bool
) -> dict[str, BlockRecord]:
    """Record the attention of a network's blocks on a clip; without a checkpoint, that of a parameter-free block.

    The clip is normalized with the network's own mean and std.

    Args:
        clip_THWC: frames (T, H, W, 3), uint8, RGB.
        model: a name that `models.build.build` takes.
        checkpoint: a file of `nl.save_blocks`; None for a parameter-free block.
        at: the module whose features the parameter-free block compares; "" takes the default of "packaged".
        temperature: softmax temperature of the parameter-free block.
        pretrained: load the pretrained weights of torchvision or timm, which download them.

    Returns:
        Records by block name.

    Raises:
        ValueError: an unknown model, a required `at` that is missing or unknown, or a checkpoint that does not fit.
        ImportError: a package that the model needs is not installed.
    """
    network = build(model, pretrained=pretrained).eval()
    if checkpoint is not None:
        return _records_of_blocks(load_blocks(network, checkpoint), clip_THWC)
    at = at or (PACKAGED_AT if model == PACKAGED else "")
    if not at:
        names = ", ".join(name for name, _ in network.named_children())
        raise ValueError(
            f"--at is required without a checkpoint: the module whose features are compared; modules of {model}: "
            f"{names}, and those inside them"
        )
    return {at: similarity_record(network, clip_THWC, at=at, temperature=temperature)}


def similarity_record(model: nn.Module, clip_THWC: Tensor, *, at: str, temperature: float = 0.1) -> BlockRecord:
    """Record a parameter-free gaussian block on a network's features of a clip.

    A 2D network runs on every frame. A 3D network, whose first convolution is a Conv3d, runs on the clip as a whole.

    Args:
        model: a network in eval mode; see `models.inputs.inputs_of` for its normalization.
        clip_THWC: frames (T, H, W, 3), uint8, RGB.
        at: name of the module whose output is compared.
        temperature: of the softmax over cosine similarities, more than 0; smaller is sharper.

    Raises:
        ValueError: no such module, its output is not a map with the axes of the input, or the network does not run on
            a clip of this size.
    """
    size, per_frame = tuple(clip_THWC.shape[:3]), not _is_3d(model)
    with runs_on(model, clip_THWC):
        features = clip_features(model, at, _normalized(model, clip_THWC), per_frame=per_frame)
    geometry = probe_geometry(model, at, size, per_frame=per_frame)
    return similarity(features, input_size=size, temperature=temperature, name=at, geometry=geometry)


def _records_of_blocks(model: nn.Module, clip_THWC: Tensor) -> dict[str, BlockRecord]:
    whole_clip = any(block.dims == 3 for block in blocks(model).values())
    frames_TCHW = _normalized(model, clip_THWC)
    with runs_on(model, clip_THWC), torch.no_grad(), watch(model) as seen:
        model(frames_TCHW.transpose(0, 1).unsqueeze(0) if whole_clip else frames_TCHW)
    return dict(seen)


def _is_3d(model: nn.Module) -> bool:
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    return isinstance(next(convolutions, None), nn.Conv3d)


@contextmanager
def runs_on(model: nn.Module, clip_THWC: Tensor) -> Iterator[None]:
    """Turn what a network raises for a clip of the wrong size into a ValueError of one line."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        frames, height, width = clip_THWC.shape[:3]
        inputs = inputs_of(model)
        trained = f"; it is trained on frames of {inputs.size[1]} x {inputs.size[0]}" if inputs.size else ""
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        clip = f"{frames} frames of {width} x {height}"
        raise ValueError(f"{type(model).__name__} does not run on {clip}: {reason}{trained}") from error


def _normalized(model: nn.Module, clip_THWC: Tensor) -> Tensor:
    """The network's input, one frame per batch item: (T, 3, H, W)."""
    return inputs_of(model).normalize(clip_THWC.permute(0, 3, 1, 2))
