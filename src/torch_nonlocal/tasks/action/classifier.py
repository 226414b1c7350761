"""A trained network of action recognition in use: `nl.load` returns it, `predict` classifies clips."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import evaluating
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.clip_list import OnError
from torch_nonlocal.models.inputs import Inputs, inputs_of
from torch_nonlocal.tasks.action.evaluation import NoClipsError, predict
from torch_nonlocal.tasks.action.settings import ActionSettings
from torch_nonlocal.tasks.action.trained import read_trained
from torch_nonlocal.tasks.action.views_to_predict import FileViews, FrameViews, ViewOptions, preparation

_log = logging.getLogger("torch_nonlocal")

ClipSource = str | os.PathLike[str] | Tensor | Any
"""A video file, a folder of frames, or frames (T, H, W, 3) RGB uint8, as a tensor or a NumPy array."""


@dataclass(frozen=True)
class Prediction:
    """The predicted classes of a clip.

    Attributes:
        classes: all classes, highest probability first.
        probabilities: probability of each of them, by softmax; by sigmoid where a clip can have several classes.
        labels: the predicted classes: the first, or where a clip can have several all from the threshold on.
        clip: path of the clip; "" for frames in memory.
        start: begin of the predicted part in seconds; None for the whole clip.
        end: end of the predicted part in seconds; None for the whole clip.
        note: how frames repeat, if the clip has fewer than the network takes; else "".
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    labels: tuple[str, ...]
    clip: str = ""
    start: float | None = None
    end: float | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """The class with the highest probability."""
        return self.classes[0]

    @property
    def probability(self) -> float:
        """The highest probability."""
        return self.probabilities[0]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The classes with the highest probabilities: (class, probability), highest first."""
        return list(zip(self.classes, self.probabilities, strict=True))[:count]

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {probability:.3f}" for name, probability in self.top())
        return f"{self.clip}: {shown}" if self.clip else shown


def _is_array(clip: object) -> bool:
    """Whether an object is a NumPy array or can be used as one."""
    return hasattr(clip, "__array_interface__")


class ActionClassifier(nn.Module):
    """A trained network with its classes and its preprocessing.

    As a module it is the network: normalized clips (B, C, T, H, W) -> scores (B, classes).

    Args:
        network: the network, whose attribute `inputs` describes its inputs.
        settings: its settings.
        classes: its class names.
    """

    task = "action"

    def __init__(self, network: nn.Module, settings: ActionSettings, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.classes = classes

    @property
    def inputs(self) -> Inputs:
        """Mean and standard deviation of the network's inputs, and the size and the frames it was trained at."""
        side = self.settings.crop
        return replace(inputs_of(self.network), size=(side, side), frames=self.settings.schedule.length)

    @property
    def is_multi_label(self) -> bool:
        """Whether a clip can have several classes."""
        return bool(self.settings.multi_label)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, C, T, H, W), normalized by `inputs` -> scores (B, classes) before softmax or sigmoid."""
        return self.network(clips)

    @overload
    def predict(
        self, clips: ClipSource, *, views: int = ..., crops: Any = ..., threshold: float = ...
    ) -> Prediction: ...
    @overload
    def predict(
        self, clips: Sequence[ClipSource], *, views: int = ..., crops: Any = ..., threshold: float = ...
    ) -> list[Prediction]: ...
    def predict(
        self,
        clips: ClipSource | Sequence[ClipSource],
        *,
        views: int = 10,
        crops: Any = 3,
        threshold: float = 0.5,
    ) -> Prediction | list[Prediction]:
        """Classify one clip or several. Views and probabilities are those of `nonlocal test`.

        Args:
            clips: a video file, a folder of frames, frames (T, H, W, 3) RGB uint8 as a tensor or a NumPy array, or a
                list of these.
            views: clips per video, evenly spaced; the probabilities are averaged over them.
            crops: crops per view: 1, 3, or "full" for the whole frame; moving digits are not cropped.
            threshold: probability from which a class is predicted where a clip can have several.

        Returns:
            A prediction, or a list of them for a list.

        Raises:
            BrokenVideoError: (a ValueError) a file cannot be read or has a single frame.
            ValueError: another shape or dtype of frames, or an invalid number of views or crops.
            ImportError: PyAV or torchvision is not installed; the message names the extra.
        """
        one = isinstance(clips, str | os.PathLike | Tensor) or _is_array(clips)
        given: list[Any] = [clips] if one else list(clips)  # pyright: ignore[reportArgumentType]
        several = [torch.as_tensor(clip) if _is_array(clip) else clip for clip in given]
        found: list[Prediction] = []
        for clip in several:
            how = ViewOptions(self.settings, self.classes, views, crops)
            if isinstance(clip, Tensor):
                data, name = FrameViews([clip], how), ""
            else:
                data, name = FileViews([Path(clip)], how, "fail", BrokenClips()), os.fspath(clip)
            (row,), (total,), _ = self._predict(data)
            found.append(self.prediction(row, clip=name, threshold=threshold, note=how.note(int(total))))
        return found[0] if one else found

    def predict_files(
        self,
        paths: Sequence[Path],
        *,
        views: int = 10,
        crops: Any = 3,
        threshold: float = 0.5,
        batch: int = 8,
        workers: int = 0,
        on_error: OnError = "skip",
        broken: BrokenClips | None = None,
        on_views: Callable[[int, int], None] | None = None,
    ) -> list[Prediction]:
        """Classify files; those that cannot be read are reported to `broken` and have no prediction.

        Args:
            paths: videos and folders of frames, at least one.
            views: as for `predict`.
            crops: as for `predict`.
            threshold: as for `predict`.
            batch: crops per forward pass.
            workers: processes that decode.
            on_error: "skip", or "fail" to raise for a file that cannot be read.
            broken: receives the files that cannot be read.
            on_views: called after each batch with the number of finished views and their total.

        Raises:
            BrokenVideoError: a file cannot be read, with on_error="fail".
        """
        how = ViewOptions(self.settings, self.classes, views, crops)
        data = FileViews(paths, how, on_error, BrokenClips() if broken is None else broken)
        options = {"batch": batch, "workers": workers, "on_views": on_views}
        try:
            probabilities, totals, indices = self._predict(data, **options)
        except NoClipsError:
            return []
        rows = zip(probabilities, totals.tolist(), indices.tolist(), strict=True)
        return [
            self.prediction(row, clip=str(paths[index]), threshold=threshold, note=how.note(total))
            for row, total, index in rows
        ]

    def probabilities(
        self, data: Any, *, batch: int = 8, workers: int = 0, on_views: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Probabilities (N, classes) of the readable clips of a data set of views, and their indices (N,)."""
        probabilities, _, indices = self._predict(data, batch=batch, workers=workers, on_views=on_views)
        return probabilities, indices

    def _predict(
        self, data: Any, *, batch: int = 8, workers: int = 0, on_views: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `probabilities`, with the labels of the views, (N,), between them."""
        parameter = next(self.network.parameters())
        prepare = preparation(self.inputs, parameter.dtype)
        options: dict[str, Any] = {"batch": batch, "workers": workers, "prepare": prepare, "on_views": on_views}
        with evaluating(self.network):
            return predict(self.network, data, multi_label=self.is_multi_label, on_optimized=_log.info, **options)

    def prediction(self, probabilities_K: Tensor, *, threshold: float = 0.5, **about: Any) -> Prediction:
        """The prediction of one row of probabilities."""
        values, order = probabilities_K.sort(descending=True, stable=True)
        classes = tuple(self.classes[index] for index in order.tolist())
        probabilities = tuple(values.tolist())
        count = sum(value >= threshold for value in probabilities) if self.is_multi_label else 1
        return Prediction(classes, probabilities, classes[:count], **about)


def load_classifier(checkpoint: str | os.PathLike[str], *, network: str = "") -> ActionClassifier:
    """Load a trained network; see `torch_nonlocal.load`, which returns it."""
    model, settings, classes, _ = read_trained(Path(checkpoint), network)
    return ActionClassifier(model, settings, classes).eval()
