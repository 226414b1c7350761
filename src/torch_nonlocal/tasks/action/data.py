"""Clips of action recognition: a folder or list of videos, or built-in moving digits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.clip_list import ClipList
from torch_nonlocal.data.clips import available_splits, find_clips, train_and_test
from torch_nonlocal.data.dataset import ClipDataset, ViewDataset
from torch_nonlocal.data.digit_clips import DigitClips
from torch_nonlocal.data.moving_digits import RELATIONS, MovingDigits
from torch_nonlocal.media.sampling import parse_schedule
from torch_nonlocal.media.transforms import EvalTransform, TrainTransform
from torch_nonlocal.tasks.action.settings import DIGITS, ActionSettings

DIGIT_EPOCH = 3200
"""Clips of moving digits per epoch; every epoch has new clips."""
VALIDATION_DIGITS = 500
TEST_DIGITS = 2000
_TEST_SEED = 1_000_003  # other clips than those that choose the best checkpoint; the handwriting is the same
_CLASSES_SHOWN = 5
_SLOWEST, _FASTEST = 1, 3  # speeds of a digit, in pixels per frame

Views = Dataset[tuple[Tensor, int, int] | None]
"""Items (clip (C, T, H, W) or its crops (V, C, T, H, W), label, index); None for a clip that cannot be read."""


class Source(Protocol):
    """Training clips and held-out clips."""

    classes: tuple[str, ...]
    """Class names; a label is an index into them."""
    problems: tuple[str, ...]
    """Problems in the lists of clips, and classes without clips."""
    summary: str
    """One line with the number of training clips, held-out clips and classes."""

    def training(self, settings: ActionSettings, seed: int, broken: BrokenClips) -> tuple[Any, Callable[[int], str]]:
        """A training data set of (clip (C, T, H, W), label, index), and a function from index to name."""
        ...

    def validation(self, settings: ActionSettings, views: int, broken: BrokenClips) -> Views | None:
        """Views of the held-out clips, which choose the best checkpoint; None if there are none."""
        ...

    def test(self, settings: ActionSettings, views: int, crops: Any, broken: BrokenClips) -> tuple[ClipList, Views]:
        """The held-out clips, and their views for testing."""
        ...


def source(data: Path | None, settings: ActionSettings, on_error: Any, *, whole: bool = False) -> Source:
    """Find the clips.

    Args:
        data: a folder or list, as in `data.clips.find_clips`; None for moving digits.
        settings: frames and size of a clip.
        on_error: "skip" or "fail" for clips that cannot be read.
        whole: test on all clips instead of the held-out ones.

    Raises:
        ValueError: the data have no clips or a single class, or the network is for moving digits only.
        ImportError: a package is not installed; the message names the extra.
    """
    if data is None:
        return _Digits(settings)
    if settings.network == DIGITS:
        raise ValueError(f"{data}: network 'digits' takes moving digits only; expected no --data, or network 'small'")
    return _Videos(data, on_error, whole)


class _Videos:
    def __init__(self, data: Path, on_error: Any, whole: bool) -> None:
        self.on_error = on_error
        self.train_list, self.test_list = train_and_test(data, on_error=on_error)
        self.classes = self.train_list.classes
        self.problems = tuple(dict.fromkeys(self.train_list.problems + self.test_list.problems))
        if len(self.classes) < 2:
            raise ValueError(f"{data}: one class, {', '.join(map(repr, self.classes))}; expected two or more classes")
        held_out = f"{len(self.test_list)} held out"
        if "train" not in available_splits(data):
            held_out += " (no split in the data: a fixed fifth of each class)"
        names = ", ".join(self.classes[:_CLASSES_SHOWN]) + (", ..." if len(self.classes) > _CLASSES_SHOWN else "")
        clips = f"{len(self.train_list)} training clips, {held_out}"
        if whole:
            self.test_list = find_clips(data, on_error=on_error)
            clips = f"{len(self.test_list)} clips"
        self.summary = f"{data}: {clips}; {len(self.classes)} classes: {names}"

    def training(self, settings: ActionSettings, seed: int, broken: BrokenClips) -> tuple[Any, Callable[[int], str]]:
        transform = TrainTransform(crop=settings.crop, flip=settings.flip)
        clips, sample = self.train_list, parse_schedule(settings.frames)
        data = ClipDataset(clips, sample, transform, seed=seed, on_error=self.on_error, broken=broken, fps=settings.fps)
        return data, lambda index: clips.name(clips.clips[index])

    def validation(self, settings: ActionSettings, views: int, broken: BrokenClips) -> Views | None:
        return self.test(settings, views, 1, broken)[1] if len(self.test_list) else None

    def test(self, settings: ActionSettings, views: int, crops: Any, broken: BrokenClips) -> tuple[ClipList, Views]:
        transform = EvalTransform(crop=settings.crop, crops=crops)
        sample, on_error = parse_schedule(settings.frames), self.on_error
        options: dict[str, Any] = {"views": views, "on_error": on_error, "broken": broken, "fps": settings.fps}
        data = ViewDataset(self.test_list, sample, transform, **options)
        return self.test_list, data


class _Digits:
    """Moving digits. Clips of schedule T x S have T frames; digits move by S to 3 S pixels per frame."""

    def __init__(self, settings: ActionSettings) -> None:
        self.classes: tuple[str, ...] = RELATIONS
        self.problems: tuple[str, ...] = ()
        self.summary = f"moving digits: {DIGIT_EPOCH:,} new clips per epoch; test clips have other handwriting"
        length, stride = parse_schedule(settings.frames)
        speeds = stride * _SLOWEST, stride * _FASTEST
        field: dict[str, Any] = {"frames": length, "size": settings.crop, "speeds": speeds}
        self.train_digits, self.test_digits = MovingDigits("train", **field), MovingDigits("test", **field)
        self.channels = 1 if settings.network == DIGITS else 3

    def training(self, settings: ActionSettings, seed: int, broken: BrokenClips) -> tuple[Any, Callable[[int], str]]:
        return DigitClips(self.train_digits, DIGIT_EPOCH, channels=self.channels, seed=seed), "digits {}".format

    def validation(self, settings: ActionSettings, views: int, broken: BrokenClips) -> Views | None:
        return DigitClips(self.test_digits, VALIDATION_DIGITS, channels=self.channels)  # pyright: ignore[reportReturnType]

    def test(self, settings: ActionSettings, views: int, crops: Any, broken: BrokenClips) -> tuple[ClipList, Views]:
        data = DigitClips(self.test_digits, TEST_DIGITS, channels=self.channels, seed=_TEST_SEED)
        return data.clip_list(), data  # pyright: ignore[reportReturnType]
