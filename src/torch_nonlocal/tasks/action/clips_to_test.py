"""Which clips a test scores: the split, and the rule for clips that the weights were trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch_nonlocal._common.text import listed
from torch_nonlocal.data.clip_list import ClipList, OnError, fingerprints
from torch_nonlocal.data.clips import available_splits, find_clips
from torch_nonlocal.data.folders import SPLITS
from torch_nonlocal.data.splits import assign
from torch_nonlocal.tasks.action.settings import TestSplit

_NAMES = {"train": "the training clips", "val": "the validation clips", "test": "the test clips"}

_ANYWAY = "--split train or --whole tests them anyway"


@dataclass(frozen=True)
class ClipsToTest:
    """The clips that a test scores.

    Attributes:
        clips: the clips; labels are indices into the classes of the weights.
        subset: what they are of the data, such as "the test clips".
        notes: lines about clips that were trained on or that chose the weights.
        trained_on: names of the clips that the weights were trained on.
        left_out: whether those are left out of `clips`.
    """

    clips: ClipList
    subset: str
    notes: tuple[str, ...]
    trained_on: tuple[str, ...]
    left_out: bool


def clips_to_test(
    data: Path,
    classes: Sequence[str],
    record: Mapping[str, str] | None,
    *,
    split: TestSplit = "auto",
    whole: bool = False,
    on_error: OnError = "skip",
    clip_root: str | None = None,
    prefix: str = "",
    fold: int = 1,
) -> ClipsToTest:
    """Choose the clips to test.

    "auto" is the data's test split, else its validation split, else all clips that the weights were not trained on.
    Clips that the weights were trained on, under any name, are left out and counted; with "train" or `whole` they are
    scored, with a warning.

    Args:
        data: as in training, other data, or the folder of one split.
        classes: of the weights.
        record: split of each clip by fingerprint in the run of the weights; None if unknown.
        split: "auto", "train", "val" or "test".
        whole: take all clips of the data.
        on_error: "skip" or "fail" for clips that cannot be read.
        clip_root: as for `find_clips`.
        prefix: as for `find_clips`.
        fold: as for `find_clips`.

    Raises:
        ValueError: there is no such split, the data have other classes, or all clips were trained on.
    """
    clips, subset = _chosen(
        data, record, split, whole, {"on_error": on_error, "clip_root": clip_root, "prefix": prefix, "fold": fold}
    )
    clips = _relabeled(clips, classes, data)
    prints = fingerprints(clips) if record is not None else ()
    own = [(record or {}).get(one, "") for one in prints]
    trained = tuple(clips.name(clip) for clip, of in zip(clips.clips, own, strict=False) if of == "train")
    knowingly = whole or split == "train"
    notes = []
    if trained:
        counted = f"{len(trained)} of {len(clips)} clips"
        names = listed(trained, most=3)
        if knowingly:
            notes.append(f"warning: the weights were trained on {counted}; the scores are not those of unseen clips")
        elif len(trained) == len(clips):
            of = f"all {len(clips)} clips of {subset}: {names}"
            raise ValueError(f"{data}: the weights were trained on {of}; {_ANYWAY}")
        else:
            notes.append(f"warning: {counted} are left out, because the weights were trained on them: {names}")
            pairs = zip(clips.clips, own, strict=True)
            clips = replace(clips, clips=tuple(clip for clip, of in pairs if of != "train"))
    chose = own.count("val")
    if chose:
        which = "they" if chose == len(clips) else f"{chose} of them"
        notes.append(f"note: {which} chose the weights in training, so the scores are optimistic")
    if record is None:
        unknown = "the weights do not say which clips they were trained on (older versions did not save it)"
        notes.append(f"warning: {unknown}: these clips may be among them")
    return ClipsToTest(clips, subset, tuple(notes), trained, bool(trained) and not knowingly)


def _chosen(
    data: Path, record: Mapping[str, str] | None, split: TestSplit, whole: bool, options: dict[str, Any]
) -> tuple[ClipList, str]:
    """The clips of the split, and what they are of the data."""
    if whole:
        return find_clips(data, None, **options), "all clips"
    splits = available_splits(data, fold=options["fold"])
    if set(splits) - {"train"}:
        used = split if split != "auto" else "test" if "test" in splits else "val"
        if used not in splits:
            raise ValueError(f"{data} has no split {used!r}: it has {', '.join(splits)}")
        return find_clips(data, used, **options), _NAMES[used]
    of_folder = next((name for name, names in SPLITS.items() if data.is_dir() and data.name.lower() in names), None)
    if of_folder is not None and split in ("auto", of_folder):
        return find_clips(data, None, **options), f"{_NAMES[of_folder]} (the folder {data.name})"
    if split == "test":
        raise ValueError(f"{data} has no split 'test'; omit --split to test on the clips that were not trained on")
    if record is None:
        lists = assign(data, **options)
        return (lists.train, _NAMES["train"]) if split == "train" else (lists.validation, "the held-out clips")
    clips = find_clips(data, None, **options)
    if split == "auto":
        seen = [record.get(one) for one in fingerprints(clips)]
        kept = tuple(clip for clip, of in zip(clips.clips, seen, strict=True) if of != "train")
        if not kept:
            raise ValueError(f"{data}: the weights were trained on all {len(clips)} clips; {_ANYWAY}")
        known = any(of is not None for of in seen)
        return replace(clips, clips=kept), "the held-out clips" if known else "all clips"
    chosen = [clip for clip, one in zip(clips.clips, fingerprints(clips), strict=True) if record.get(one) == split]
    if not chosen:
        raise ValueError(f"{data}: none of its {len(clips)} clips is in the split {split!r} of the weights' run")
    return replace(clips, clips=tuple(chosen)), _NAMES[split]


def _relabeled(clips: ClipList, classes: Sequence[str], data: Path) -> ClipList:
    """The clips with labels that are indices into other classes, which must include their own.

    Raises:
        ValueError: the clips have a class that is not among them.
    """
    if clips.classes == tuple(classes):
        return clips
    numbers = {name: number for number, name in enumerate(classes)}
    used = sorted({label for clip in clips.clips for label in clip.all_labels})
    unknown = [clips.classes[label] for label in used if clips.classes[label] not in numbers]
    if unknown:
        raise ValueError(
            f"{data} has {len(clips.classes)} classes ({', '.join(clips.classes[:5])} ...), "
            f"the weights were trained on {len(classes)} ({', '.join(classes[:5])} ...); unknown: {listed(unknown)}"
        )
    to = {label: numbers[clips.classes[label]] for label in used}
    changed = tuple(
        clip._replace(label=to[clip.label], labels=tuple(to[label] for label in clip.labels)) for clip in clips.clips
    )
    return replace(clips, classes=tuple(classes), clips=changed)
