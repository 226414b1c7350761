"""The clips of action recognition: a folder or list of videos, or without one the moving digits that are built in."""

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
from torch_nonlocal.tasks.action.network import DIGITS, ActionSettings

DIGIT_EPOCH = 3200
"""Clips of moving digits that count as an epoch; no two epochs share one."""
VALIDATION_DIGITS = 500
TEST_DIGITS = 2000
_TEST_SEED = 1_000_003  # other clips than those that chose the best weights; the handwriting is the same
_FEW = 5  # classes that are named
_SLOWEST, _FASTEST = 1, 3  # of a digit, in pixels a frame

Views = Dataset[tuple[Tensor, int, int] | None]
"""Items (clip (C, T, H, W) or its crops (V, C, T, H, W), label, index), None for a clip that cannot be read."""


class Source(Protocol):
    """Clips to train on and clips held out."""

    classes: tuple[str, ...]
    """Names; a label is an index into them."""
    problems: tuple[str, ...]
    """What was left out of the lists, and classes without clips."""
    summary: str
    """How many clips of which classes are trained on and held out, in a line."""

    def training(self, settings: ActionSettings, seed: int, broken: BrokenClips) -> tuple[Any, Callable[[int], str]]:
        """A data set (clip (C, T, H, W), label, index) to train on, and the names of its clips by index."""
        ...

    def validation(self, settings: ActionSettings, views: int, broken: BrokenClips) -> Views | None:
        """Views of the held-out clips, to choose the best weights by; None if there are none."""
        ...

    def test(self, settings: ActionSettings, views: int, crops: Any, broken: BrokenClips) -> tuple[ClipList, Views]:
        """The held-out clips, and views of them for a test."""
        ...


def source(data: Path | None, settings: ActionSettings, on_error: Any, *, whole: bool = False) -> Source:
    """Where clips come from.

    Args:
        data: a folder or list, as for `data.clips.find_clips`; None for moving digits.
        settings: frames and size of a clip.
        on_error: "skip" or "fail" for clips that cannot be read.
        whole: test on all clips, not on the held-out ones.

    Raises:
        ValueError: data without clips or with one class; the network of the digits for other data.
        ImportError: an extra is not installed.
    """
    if data is None:
        return _Digits(settings)
    if settings.network == DIGITS:
        raise ValueError(f"{data}: network 'digits' is for moving digits alone: expected no --data, or network 'small'")
    return _Videos(data, on_error, whole)


class _Videos:
    def __init__(self, data: Path, on_error: Any, whole: bool) -> None:
        self.on_error = on_error
        self.train_list, self.test_list = train_and_test(data, on_error=on_error)
        self.classes = self.train_list.classes
        self.problems = tuple(dict.fromkeys(self.train_list.problems + self.test_list.problems))
        if len(self.classes) < 2:
            raise ValueError(f"{data}: clips of one class, {', '.join(map(repr, self.classes))}; expected two or more")
        held_out = f"{len(self.test_list)} held out"
        if "train" not in available_splits(data):
            held_out += ", always the same (no split of its own: a fifth of each class)"
        named = ", ".join(self.classes[:_FEW]) + (", ..." if len(self.classes) > _FEW else "")
        clips = f"{len(self.train_list)} clips to train on, {held_out}"
        if whole:
            self.test_list = find_clips(data, on_error=on_error)
            clips = f"{len(self.test_list)} clips"
        self.summary = f"{data}: {clips}; {len(self.classes)} classes: {named}"

    def training(self, settings: ActionSettings, seed: int, broken: BrokenClips) -> tuple[Any, Callable[[int], str]]:
        transform = TrainTransform(crop=settings.crop, flip=settings.flip)
        clips, sample = self.train_list, parse_schedule(settings.frames)
        data = ClipDataset(clips, sample, transform, seed=seed, on_error=self.on_error, broken=broken)
        return data, lambda index: clips.name(clips.clips[index])

    def validation(self, settings: ActionSettings, views: int, broken: BrokenClips) -> Views | None:
        return self.test(settings, views, 1, broken)[1] if len(self.test_list) else None

    def test(self, settings: ActionSettings, views: int, crops: Any, broken: BrokenClips) -> tuple[ClipList, Views]:
        transform = EvalTransform(crop=settings.crop, crops=crops)
        sample, on_error = parse_schedule(settings.frames), self.on_error
        data = ViewDataset(self.test_list, sample, transform, views=views, on_error=on_error, broken=broken)
        return self.test_list, data


class _Digits:
    """Moving digits: T x S clips are T frames of digits that move S to 3 S pixels from one to the next."""

    def __init__(self, settings: ActionSettings) -> None:
        self.classes: tuple[str, ...] = RELATIONS
        self.problems: tuple[str, ...] = ()
        self.summary = f"moving digits: {DIGIT_EPOCH:,} clips an epoch, never the same twice; others are held out"
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
