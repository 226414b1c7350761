"""A trained network on a clip: its blocks, the predicted class, and what contributes to it.

Shapes: B = 1, C channels, T frames, H height, W width; K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common.tensor_files import read_weights
from torch_nonlocal.attention import added_magnitudes, gradient_times_activation, watch
from torch_nonlocal.insertion import blocks
from torch_nonlocal.media.sampling import uniform_clips
from torch_nonlocal.models.inputs import inputs_of
from torch_nonlocal.tasks.action.settings import ActionSettings
from torch_nonlocal.tasks.footage import Choice, evenly, resized
from torch_nonlocal.tasks.viewing import Attended, runs_on
from torch_nonlocal.view.facts import BlockFacts

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_TEST_SIDE = 256 / 224  # short side of the frames in tests, relative to the crop; see `media.EvalTransform`


@dataclass(frozen=True)
class TrainedNetwork:
    """A network of `nonlocal train action`.

    Attributes:
        name: the file, as the user named it.
        model: the network, in eval mode.
        settings: its settings.
        classes: its class names.
        metrics: metrics of the evaluation that chose the weights.
    """

    name: str
    model: nn.Module
    settings: ActionSettings
    classes: tuple[str, ...]
    metrics: dict[str, float]

    @property
    def length(self) -> int:
        """Number of frames of a clip."""
        return self.settings.schedule.length

    @property
    def at_chance(self) -> str:
        """Why the network counts as untrained, from its accuracy; "" if it does not."""
        accuracy, chance = self.metrics.get("accuracy"), 1 / len(self.classes)
        if accuracy is None or accuracy >= chance + 0.1 * (1 - chance):
            return ""
        return f"the network is at chance (validation accuracy {accuracy:.2f} with {len(self.classes)} classes)"

    def frames(self, *, frames: int, start: int, stride: int) -> Choice:
        """Choose the frames of the middle clip as in tests; other numbers than 0 overrule that."""
        length, step = self.settings.schedule
        if start or stride or frames:
            return evenly(frames or length, start=start, stride=stride)

        def choose(total: int) -> list[int]:
            return uniform_clips(total, length, step, 1)[0] if total > 1 else [0]

        return choose


def is_trained(path: Path) -> bool:
    """Whether a path is best.pt of a run or the folder of a run, rather than a file of blocks or a video."""
    if path.is_dir():
        return (path / "checkpoints" / "best.pt").is_file()
    return path.suffix == ".pt" and path.is_file() and read_weights(path).kind == "weights"


def load_trained(path: Path, network: str = "") -> TrainedNetwork:
    """Load a trained network.

    Args:
        path: best.pt of a run, or the folder of the run.
        network: FILE.py:FUNCTION, if the network is defined in a Python file.

    Raises:
        ValueError: the file does not hold weights of this task, or the network has no blocks.
        ImportError: a package is not installed; the message names the extra.
    """
    from torch_nonlocal.tasks.action.trained import read_trained

    model, settings, classes, content = read_trained(path, network)
    if not blocks(model):
        raise ValueError(f"{path}: the network has no non-local blocks to show; it was trained with --non-local none")
    metrics = {name: float(value) for name, value in content["metrics"].items()}
    return TrainedNetwork(str(path), model, settings, classes, metrics)


def attend_trained(trained: TrainedNetwork, clip_THWC: Tensor) -> Attended:
    """Run a trained network on a clip.

    The network sees whole frames, resized as in tests. The evidence of a block is gradient times activation at its
    output for the predicted class.

    Raises:
        ValueError: the network does not run on a clip of this size.
    """
    model = trained.model
    inserted = blocks(model)
    clip_BCTHW = network_input(trained, clip_THWC)
    with runs_on(model, clip_THWC), torch.no_grad(), watch(model) as seen, added_magnitudes(inserted) as added:
        logits_K = model(clip_BCTHW)[0].float()
    scores_K = logits_K.sigmoid() if trained.settings.multi_label else logits_K.softmax(0)
    order = scores_K.argsort(descending=True, stable=True).tolist()
    classes = [(trained.classes[index], float(scores_K[index])) for index in order]
    facts = {}
    for name in seen:
        evidence = gradient_times_activation(model, inserted[name], clip_BCTHW, lambda out: out[0, order[0]])[0]
        facts[name] = BlockFacts(trained.name, classes, evidence.cpu(), added.get(name), trained.at_chance)
    return Attended(dict(seen), facts)


def network_input(trained: TrainedNetwork, clip_THWC: Tensor) -> Tensor:
    """Return a clip as the network's input (1, C, T, H, W): digits as squares of their size, others as in tests."""
    inputs: Any = inputs_of(trained.model)
    crop = trained.settings.crop
    height, width = clip_THWC.shape[1:3]
    if inputs.channels == 1:
        size = (crop, crop)
    else:
        scale = round(crop * _TEST_SIDE) / min(height, width)
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
    frames_THWC = resized(clip_THWC, size)
    if inputs.channels == 1:
        frames_THWC = (frames_THWC.float() @ torch.tensor(_LUMA)).round().to(torch.uint8)[..., None]
    dtype = next(trained.model.parameters()).dtype
    return inputs.normalize(frames_THWC.permute(3, 0, 1, 2)[None]).to(dtype)
