"""Training data of action recognition: a folder or list of videos, or built-in moving digits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from torch_nonlocal._common.text import listed
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.clip_list import ClipList
from torch_nonlocal.data.dataset import ClipDataset, ViewDataset
from torch_nonlocal.data.digit_clips import DigitClips
from torch_nonlocal.data.moving_digits import RELATIONS, MovingDigits
from torch_nonlocal.data.splits import assign
from torch_nonlocal.media.sampling import parse_schedule
from torch_nonlocal.media.transforms import EvalTransform, TrainTransform
from torch_nonlocal.tasks.action.automatic_frames import automatic_frames, sampled_lengths
from torch_nonlocal.tasks.action.clip_span import check_rates, repeat_lines, span_lines
from torch_nonlocal.tasks.action.readable import check_readable
from torch_nonlocal.tasks.action.run_split import as_before, run_record, without_trained
from torch_nonlocal.tasks.action.settings import AUTO, DIGITS, ActionSettings
from torch_nonlocal.training.items import Items

DIGIT_EPOCH = 3200
"""Clips of moving digits per epoch; every epoch has new clips."""
VALIDATION_DIGITS = 500
TEST_DIGITS = 2000
_TEST_SEED = 1_000_003  # other clips than those that choose the best checkpoint; the handwriting is the same
_CLASSES_SHOWN = 5
_DIGIT_FRAMES = "8x1"
_SLOWEST, _FASTEST = 1, 3  # speeds of a digit, in pixels per frame

Views = Dataset[tuple[Tensor, Any, int] | None]
"""Items (clip (C, T, H, W) or its crops (V, C, T, H, W), label, index); None for a clip that cannot be read."""


class Source(Protocol):
    """Training clips and validation clips."""

    classes: tuple[str, ...]
    """Class names; a label is an index into them."""
    is_multi_label: bool
    """Whether a clip can have several classes."""
    frames: str
    """Schedule of the clips: that of the settings, or the automatic choice."""
    problems: tuple[str, ...]
    """Problems in the lists of clips, and classes without clips."""
    left_out: tuple[str, ...]
    """Files in the folders of classes that are no clips, with the reason."""
    summary: str
    """One line with the number of training clips, validation clips and classes."""
    notes: tuple[str, ...]
    """Further lines about the data for the start of a run."""
    labels: Sequence[tuple[int, ...]]
    """Classes of each training clip; empty for moving digits, which are drawn equally often of each class."""
    record: Mapping[str, str]
    """The split of each clip by its fingerprint: "train", "val" for a clip that chooses the weights, or "test"."""

    def training(self, settings: ActionSettings, seed: int, broken: BrokenClips) -> tuple[Any, Callable[[int], str]]:
        """A training data set of (clip (C, T, H, W), label, index), and a function from index to name."""
        ...

    def validation(self, settings: ActionSettings, views: int, broken: BrokenClips) -> Views | None:
        """Views of the validation clips, which choose the best checkpoint; None if there are none."""
        ...

    def unreadable_classes(self, broken: BrokenClips) -> tuple[str, ...]:
        """Names of the classes none of whose training clips could be read."""
        ...

    def check(self, settings: ActionSettings) -> None:
        """Open the data.

        Raises:
            ValueError: no training clip, or no validation clip, can be read; with on_error="fail", one cannot.
        """
        ...


def source(
    data: Path | None,
    settings: ActionSettings,
    on_error: Any,
    *,
    kept: Items | None = None,
    known: Mapping[str, str] | None = None,
) -> Source:
    """Find the clips.

    Args:
        data: a folder or list, as in `data.clips.find_clips`; None for moving digits.
        settings: frames and size of a clip.
        on_error: "skip" or "fail" for clips that cannot be read.
        kept: the clips of the run to resume: they keep their split, and other clips are left out.
        known: the split of clips by their fingerprint in the run that the initial weights come from.

    Raises:
        ValueError: the data have no clips or a single class, or do not fit the settings.
        ImportError: a package is not installed; the message names the extra.
    """
    if data is None:
        if settings.rand_augment:
            raise ValueError(
                f"rand_augment={settings.rand_augment}: moving digits are drawn anew in every epoch; expected 0 or data"
            )
        return Digits(settings)
    if settings.network == DIGITS:
        raise ValueError(f"{data}: network 'digits' takes moving digits only; expected no --data, or network 'small'")
    return _Videos(data, settings, on_error, kept, known)


class _Videos:
    def __init__(
        self,
        data: Path,
        settings: ActionSettings,
        on_error: Any,
        kept: Items | None,
        known: Mapping[str, str] | None,
    ) -> None:
        self.on_error = on_error
        splits = assign(data, **_places(settings), known=known, on_error=on_error)
        self.train_list, self.validation_list = splits.train, splits.validation
        self.classes = self.train_list.classes
        if len(self.classes) < 2:
            raise ValueError(f"{data}: one class, {', '.join(map(repr, self.classes))}; expected two or more classes")
        notes = [*splits.notes, *splits.leaks]
        if kept is None:
            self.validation_list, line = without_trained(splits)
        else:
            self.train_list, self.validation_list, line = as_before(splits, kept)
        notes += [line] if line else []
        self.is_multi_label = bool(settings.multi_label) or self.train_list.is_multi_label
        if self.is_multi_label and settings.multi_label is not False:
            self.train_list = replace(self.train_list, is_multi_label=True)
            self.validation_list = replace(self.validation_list, is_multi_label=True)
        problems = self.train_list.problems + self.validation_list.problems
        problems += self._classes_without_training(data)
        self.problems = tuple(dict.fromkeys(problems))
        self.left_out = tuple(dict.fromkeys(self.train_list.left_out + self.validation_list.left_out))
        self.record: Mapping[str, str] = run_record(splits, self.train_list, self.validation_list, known or {})
        self.labels: Sequence[tuple[int, ...]] = [clip.all_labels for clip in self.train_list.clips]
        check_rates(self.train_list, settings)
        check_rates(self.validation_list, settings)
        lengths = sampled_lengths(self.train_list, settings.fps)
        if settings.frames == AUTO:
            choice = automatic_frames(lengths)
            settings = replace(settings, frames=choice.frames)
            notes.append(choice.reason)
        self.frames = settings.frames
        notes += [*span_lines(self.train_list, settings), *repeat_lines(lengths, settings.schedule)]
        self.notes = tuple(notes)
        names = ", ".join(self.classes[:_CLASSES_SHOWN]) + (", ..." if len(self.classes) > _CLASSES_SHOWN else "")
        clips = f"{len(self.train_list)} training clips, {len(self.validation_list)} validation clips ({splits.source})"
        self.summary = f"{data}: {clips}; {len(self.classes)} classes: {names}"

    def _classes_without_training(self, data: Path) -> tuple[str, ...]:
        """Problems of validation clips whose class has no training clip."""
        trained = {label for clip in self.train_list.clips for label in clip.all_labels}
        wrong = [clip for clip in self.validation_list.clips if trained.isdisjoint(clip.all_labels)]
        if not wrong:
            return ()
        names = listed([repr(self.classes[label]) for label in sorted({clip.label for clip in wrong})], most=3)
        problem = f"{len(wrong)} of {len(self.validation_list)} validation clips are of classes without training clips"
        if self.on_error == "fail" or len(wrong) == len(self.validation_list):
            raise ValueError(f"{data}: {problem}: {names}; expected the same classes in both")
        return (f"{problem}: {names}",)

    def training(self, settings: ActionSettings, seed: int, broken: BrokenClips) -> tuple[Any, Callable[[int], str]]:
        transform = TrainTransform(crop=settings.crop, flip=settings.flip, rand_augment=settings.rand_augment)
        options: dict[str, Any] = {"seed": seed, "on_error": self.on_error, "broken": broken, "fps": settings.fps}
        clips = self.train_list
        data = ClipDataset(clips, settings.schedule, transform, **options)
        return data, lambda index: clips.name(clips.clips[index])

    def validation(self, settings: ActionSettings, views: int, broken: BrokenClips) -> Views | None:
        if not len(self.validation_list):
            return None
        return views_of(self.validation_list, settings, views, 1, self.on_error, broken)

    def unreadable_classes(self, broken: BrokenClips) -> tuple[str, ...]:
        return broken.unreadable_classes(self.train_list)

    def check(self, settings: ActionSettings) -> None:
        for what, clips in (("training", self.train_list), ("validation", self.validation_list)):
            views = views_of(clips, settings, 1, 1, "skip", BrokenClips()) if len(clips) else None
            if views is not None:
                check_readable(views, what, all_of_them=self.on_error == "fail")


def _places(settings: ActionSettings) -> dict[str, Any]:
    """Arguments of `assign`: where the clips are and how they are split."""
    return {
        "val": settings.val,
        "clip_root": settings.root,
        "prefix": settings.prefix or "",
        "fold": 1 if settings.fold is None else settings.fold,
        "group": settings.group or "",
    }


def views_of(
    clips: ClipList, settings: ActionSettings, views: int, crops: Any, on_error: Any, broken: BrokenClips
) -> ViewDataset:
    """Views of clips for validation and testing."""
    transform = EvalTransform(crop=settings.crop, crops=crops)
    options: dict[str, Any] = {"views": views, "on_error": on_error, "broken": broken, "fps": settings.fps}
    return ViewDataset(clips, settings.schedule, transform, **options)


class Digits:
    """Moving digits. Clips of schedule T x S have T frames; digits move by S to 3 S pixels per frame."""

    def __init__(self, settings: ActionSettings) -> None:
        self.classes: tuple[str, ...] = RELATIONS
        self.is_multi_label = False
        self.problems: tuple[str, ...] = ()
        self.left_out: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.labels: Sequence[tuple[int, ...]] = ()
        self.record: Mapping[str, str] = {}
        self.summary = f"moving digits: {DIGIT_EPOCH:,} new clips per epoch; test clips have other handwriting"
        self.frames = _DIGIT_FRAMES if settings.frames == AUTO else settings.frames
        length, stride = parse_schedule(self.frames)
        if stride is None:
            generated = "moving digits are drawn frame by frame, and have no length of their own"
            raise ValueError(f"frames={self.frames}: {generated}; expected FRAMESxSTRIDE such as {_DIGIT_FRAMES}")
        speeds = stride * _SLOWEST, stride * _FASTEST
        field: dict[str, Any] = {"frames": length, "size": settings.crop, "speeds": speeds}
        self.train_digits, self.test_digits = MovingDigits("train", **field), MovingDigits("test", **field)
        self.channels = 1 if settings.network == DIGITS else 3

    def training(self, settings: ActionSettings, seed: int, broken: BrokenClips) -> tuple[Any, Callable[[int], str]]:
        return DigitClips(self.train_digits, DIGIT_EPOCH, channels=self.channels, seed=seed), "digits {}".format

    def validation(self, settings: ActionSettings, views: int, broken: BrokenClips) -> Views | None:
        return DigitClips(self.test_digits, VALIDATION_DIGITS, channels=self.channels)  # pyright: ignore[reportReturnType]

    def unreadable_classes(self, broken: BrokenClips) -> tuple[str, ...]:
        return ()

    def check(self, settings: ActionSettings) -> None:
        pass

    def test(self) -> tuple[ClipList, Views]:
        """The clips for testing, and the data set that draws them."""
        data = DigitClips(self.test_digits, TEST_DIGITS, channels=self.channels, seed=_TEST_SEED)
        return data.clip_list(), data  # pyright: ignore[reportReturnType]
