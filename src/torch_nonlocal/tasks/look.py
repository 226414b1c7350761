"""Look at own video or images: a network with trained blocks, or a pretrained one with a parameter-free block."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal._common.capture import clip_features
from torch_nonlocal.attention import BlockRecord, probe_geometry, similarity, watch
from torch_nonlocal.insertion import blocks, load_blocks
from torch_nonlocal.media import probe, read_clip
from torch_nonlocal.models.build import PACKAGED, build
from torch_nonlocal.models.packaged import normalize

CHECKPOINTS = (".safetensors", ".pt", ".pth")
PACKAGED_PLACE = "blocks.4"


def read_inputs(paths: Sequence[Path], *, frames: int, start: int = 0, stride: int = 0, size: int = 272) -> Tensor:
    """Frames of one video, evenly spread, or one frame an image: (T, H, W, 3) uint8, short side at most `size`.

    Args:
        paths: one video, or images.
        frames: how many of a video.
        start: first frame of a video.
        stride: frames from one to the next; 0 spreads them over the rest of the video.
        size: longest allowed short side, in pixels; larger frames are reduced, others kept.

    Raises:
        ValueError: no input, a file that cannot be read, frames outside the video.
    """
    if not paths:
        raise ValueError("give a video or images to look at")
    if len(paths) > 1:
        pictures = [_reduced(read_clip(path, count=1), size) for path in paths]
        height, width = pictures[0].shape[1:3]
        return torch.cat([_resized(picture, (height, width)) for picture in pictures])
    total = probe(paths[0]).frames
    count = min(frames, total)
    step = stride or max(1, (total - start) // max(count, 1))
    return _reduced(read_clip(paths[0], start=start, stride=step, count=count), size)


def look(
    clip_THWC: Tensor, *, model: str, checkpoint: Path | None, at: str, temperature: float, pretrained: bool
) -> dict[str, BlockRecord]:
    """The records of a network's blocks on a clip; without a checkpoint, of a parameter-free block at one place.

    Args:
        clip_THWC: uint8 frames.
        model: a name that `models.named.build` knows.
        checkpoint: a file of `nl.save_blocks`.
        at: where the parameter-free block sits; needless for "packaged".
        temperature: of the parameter-free block.
        pretrained: let torchvision or timm download their weights.

    Raises:
        ValueError: an unknown model, a place that is needed and not given, a wrong checkpoint.
        ImportError: what the model needs is not installed.
    """
    network = build(model, pretrained=pretrained).eval()
    if checkpoint is not None:
        return _watched(load_blocks(network, checkpoint), clip_THWC)
    place = at or (PACKAGED_PLACE if model == PACKAGED else "")
    if not place:
        names = ", ".join(name for name, _ in network.named_children())
        raise ValueError(
            f"--at names the module whose features are compared; {model} has {names}, and those inside them"
        )
    size = tuple(clip_THWC.shape[:3])
    features = clip_features(network, place, normalize(clip_THWC))
    centres = probe_geometry(network, place, size, per_frame=True)
    return {place: similarity(features, input_size=size, temperature=temperature, name=place, geometry=centres)}


def _watched(network: nn.Module, clip_THWC: Tensor) -> dict[str, BlockRecord]:
    whole_clip = any(block.dims == 3 for block in blocks(network).values())
    frames = normalize(clip_THWC)
    with torch.no_grad(), watch(network) as seen:
        network(frames.transpose(0, 1).unsqueeze(0) if whole_clip else frames)
    return dict(seen)


def _reduced(clip_THWC: Tensor, size: int) -> Tensor:
    height, width = clip_THWC.shape[1:3]
    scale = min(1.0, size / min(height, width))
    return clip_THWC if scale == 1.0 else _resized(clip_THWC, (round(height * scale), round(width * scale)))


def _resized(clip_THWC: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(clip_THWC.shape[1:3]) == size:
        return clip_THWC
    planes: Any = clip_THWC.permute(0, 3, 1, 2).float()
    planes = F.interpolate(planes, size, mode="bilinear", antialias=True)
    return planes.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
