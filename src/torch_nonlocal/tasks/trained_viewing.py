"""A trained network on a clip: its blocks and, of action recognition, the predicted class and what contributes to it.

The network sees the frames as `nonlocal predict` shows them to it. Shapes: B = 1, C channels, T frames, H height, W
width; K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from torch_nonlocal._common.tensor_files import read_weights
from torch_nonlocal._common.text import counted
from torch_nonlocal.attention import added_magnitudes, gradient_times_activation, watch
from torch_nonlocal.insertion import blocks
from torch_nonlocal.media import BrokenVideoError
from torch_nonlocal.media.frame_times import frame_times, frames_between
from torch_nonlocal.media.sampling import uniform_clips
from torch_nonlocal.models.inputs import inputs_of
from torch_nonlocal.tasks.action.classifier import ActionClassifier
from torch_nonlocal.tasks.action.settings import ActionSettings
from torch_nonlocal.tasks.action.views_to_predict import ViewOptions, preparation
from torch_nonlocal.tasks.footage import Choice, Footage, ViewOf, evenly, shown_crop
from torch_nonlocal.tasks.trained_files import OtherTaskError
from torch_nonlocal.tasks.viewing import Attended, runs_on
from torch_nonlocal.view.facts import BlockFacts

_CLASSES_SHOWN = 3


class Viewed(Protocol):
    """A trained network that is looked at."""

    @property
    def length(self) -> int:
        """Number of frames of a clip."""
        ...

    @property
    def view_of(self) -> ViewOf:
        """The crops that it sees of frames of a size."""
        ...

    def frames(self, path: Path | None, *, frames: int, start: int, stride: int) -> Choice:
        """Choose the frames that are shown of a video or a folder of frames; other numbers than 0 overrule that."""
        ...

    def attend(self, footage: Footage, path: Path | None = None) -> Attended:
        """Run it on what it sees of the footage.

        Args:
            footage: the frames.
            path: the video or folder that they are from; None for images.

        Raises:
            BrokenVideoError: (a ValueError) the file cannot be read.
            ValueError: the network does not run on a clip of this size.
        """
        ...


@dataclass(frozen=True)
class TrainedNetwork:
    """A network of `nonlocal train action`.

    Attributes:
        name: the file, as the user named it.
        model: the network, in eval mode.
        settings: its settings.
        classes: its class names.
        metrics: metrics of the evaluation that chose the weights.
        views: views of a clip that its prediction is averaged over.
        crops: crops of each view: 1, 3 or "full".
    """

    name: str
    model: nn.Module
    settings: ActionSettings
    classes: tuple[str, ...]
    metrics: dict[str, float]
    views: int = 10
    crops: Any = 3

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

    @property
    def view_of(self) -> ViewOf:
        """The crops that it sees of frames of a size."""
        return ViewOptions(self.settings, self.classes, self.views, self.crops).transform.view

    def frames(self, path: Path | None, *, frames: int, start: int, stride: int) -> Choice:
        """Choose the frames of the middle clip as `nonlocal predict` does; other numbers than 0 overrule that."""
        schedule, fps = self.settings.schedule, self.settings.fps
        if start or stride or frames:
            return evenly(frames or schedule.length, start=start, stride=stride)

        def choose(total: int) -> list[int]:
            if total == 1:
                return [0]
            usable: Sequence[int] = range(total)
            if fps is not None and path is not None and not path.is_dir():
                usable = frames_between(path, frame_times(path, total), fps=fps)
            return [usable[index] for index in uniform_clips(len(usable), *schedule, 1)[0]]

        return choose

    def attend(self, footage: Footage, path: Path | None = None) -> Attended:
        """See `attend_trained`."""
        return attend_trained(self, footage, path)

    def described(self, size: tuple[int, int], *, of: int = 1) -> str:
        """Which region of frames of a size it sees, and at which size, as a sentence.

        Args:
            size: height and width of the frames.
            of: number of views and crops that the prediction averages, of which one is shown.
        """
        view = shown_crop(self.view_of, size)
        (_, _, height, width), crop = view.boxes[0], self.settings.crop
        frame = _pixels(size)
        what = f"whole frames of {frame} pixels"
        if (height, width) != size:
            what = f"the square of {_pixels((height, width))} pixels in the middle of frames of {frame}"
        trained = "" if view.size == (crop, crop) else f"; it was trained on random crops of {crop} \u00d7 {crop}"
        middle = " (the middle crop)" if len(self.view_of(*size).boxes) > 1 else ""
        one = f"Shown is one view{middle}; the prediction averages all {of}. In this view, the" if of > 1 else "The"
        return f"{one} network saw {what}, resized to {_pixels(view.size)}{trained}."


class Prediction(NamedTuple):
    """Probabilities of the classes.

    Attributes:
        probabilities: (K,).
        scored: what they were computed from, a sentence.
        views: number of views and crops that they are the mean of.
    """

    probabilities: Tensor
    scored: str
    views: int = 1


def is_trained(path: Path) -> bool:
    """Whether a path is best.pt of a run or the folder of a run, rather than a file of blocks or a video."""
    if path.is_dir():
        return (path / "checkpoints" / "best.pt").is_file()
    return path.suffix == ".pt" and path.is_file() and read_weights(path).kind == "weights"


def load_trained(path: Path, network: str = "", *, views: int = 10, crops: Any = 3) -> Viewed:
    """Load a trained network of action recognition or re-identification.

    Args:
        path: best.pt of a run, or the folder of the run.
        network: FILE.py:FUNCTION, if the network is defined in a Python file.
        views: views of a clip that the prediction of a class is averaged over.
        crops: crops of each view: 1, 3 or "full".

    Raises:
        ValueError: the file does not hold weights of these tasks, the network has no blocks, or views or crops are
            given for re-identification.
        ImportError: a package is not installed; the message names the extra.
    """
    from torch_nonlocal.tasks.action.trained import read_trained

    try:
        model, settings, classes, content = read_trained(path, network)
    except OtherTaskError as error:
        if error.task != "reid":
            raise
        from torch_nonlocal.tasks.reid.trained import embedder_of
        from torch_nonlocal.tasks.reid.viewing import ViewedEmbedder

        if (views, crops) != (10, 3):
            raise ValueError(
                f"{path}: networks of re-identification take no --views and --crops: one clip is shown"
            ) from None
        embedder = embedder_of(error.path, error.content, network)
        _check_blocks(embedder.network, path)
        return ViewedEmbedder(str(path), embedder)
    _check_blocks(model, path)
    metrics = {name: float(value) for name, value in content["metrics"].items()}
    return TrainedNetwork(str(path), model, settings, classes, metrics, views, crops)


def _check_blocks(model: nn.Module, path: Path) -> None:
    if not blocks(model):
        raise ValueError(f"{path}: the network has no non-local blocks to show; it was trained with --non-local none")


def attend_trained(trained: TrainedNetwork, footage: Footage, path: Path | None = None) -> Attended:
    """Run a trained network on what it sees of the footage.

    The evidence of a block is gradient times activation at its output for the predicted class.

    Args:
        trained: the network.
        footage: the frames.
        path: the video or folder of frames that `nonlocal predict` would read; None for images, of which the prediction
            is that of the frames shown.

    Raises:
        BrokenVideoError: (a ValueError) the file cannot be read.
        ValueError: the network does not run on a clip of this size.
    """
    model = trained.model
    inserted = blocks(model)
    cut_CTHW = footage.cut(trained.view_of)
    clip_BCTHW = network_input(trained, cut_CTHW)
    frames_THWC = cut_CTHW.permute(1, 2, 3, 0)
    with runs_on(model, frames_THWC), torch.no_grad(), watch(model) as seen, added_magnitudes(inserted) as added:
        logits_K = model(clip_BCTHW)[0].float()
    shown_K = logits_K.sigmoid() if trained.settings.multi_label else logits_K.softmax(0)
    predicted = _predicted(trained, footage, path, shown_K)
    order = predicted.probabilities.argsort(descending=True, stable=True).tolist()
    classes = [(trained.classes[index], float(predicted.probabilities[index])) for index in order]
    described = trained.described(footage.size, of=predicted.views)
    facts = {}
    for name in seen:
        evidence = gradient_times_activation(model, inserted[name], clip_BCTHW, lambda out: out[0, order[0]])[0]
        facts[name] = BlockFacts(
            trained.name, classes, evidence.cpu(), added.get(name), trained.at_chance, predicted.scored, described
        )
    return Attended(dict(seen), facts)


def network_input(trained: TrainedNetwork, cut_CTHW: Tensor) -> Tensor:
    """Return a crop of a clip, (3, T, H, W) uint8, as the network's input (1, C, T, H, W)."""
    dtype = next(trained.model.parameters()).dtype
    return preparation(inputs_of(trained.model), dtype)(cut_CTHW[None])


def _predicted(trained: TrainedNetwork, footage: Footage, path: Path | None, shown_K: Tensor) -> Prediction:
    """The probabilities of `nonlocal predict` for a file; for images those of the frames shown."""
    if path is None or footage.total < 2:
        return Prediction(shown_K, "Of the images shown alone; nonlocal predict takes videos and folders of frames.")
    classifier = ActionClassifier(trained.model, trained.settings, trained.classes)
    try:
        found = classifier.predict(path, views=trained.views, crops=trained.crops)
    except BrokenVideoError as error:
        if not path.is_dir():
            raise
        return Prediction(shown_K, f"Of the images shown alone; nonlocal predict does not read them: {error}.")
    by_name = dict(zip(found.classes, found.probabilities, strict=True))
    mean_K = torch.tensor([by_name[name] for name in trained.classes])
    crops = len(trained.view_of(*footage.size).boxes)
    averaged = f"{counted(trained.views, 'view')} of the clip" if trained.views > 1 else "the middle of the clip"
    averaged += f" and {counted(crops, 'crop')} of each" if crops > 1 else ""
    options = "".join(
        f" --{name} {value}" for name, value, usual in (("views", trained.views, 10), ("crops", trained.crops, 3))
        if value != usual
    )  # fmt: skip
    scored = f"From {averaged}, as nonlocal predict{options}"
    if torch.allclose(mean_K, shown_K, atol=1e-4):
        return Prediction(mean_K, f"{scored}.", trained.views * crops)
    order = shown_K.argsort(descending=True, stable=True)[:_CLASSES_SHOWN].tolist()
    alone = ", ".join(f"{trained.classes[index]} {shown_K[index]:.1%}" for index in order)
    return Prediction(mean_K, f"{scored}; on the frames and the region shown alone: {alone}.", trained.views * crops)


def _pixels(size: tuple[int, int]) -> str:
    """Width and height as text."""
    return f"{size[1]} \u00d7 {size[0]}"
