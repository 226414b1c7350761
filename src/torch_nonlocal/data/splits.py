"""The splits of a dataset: which clips train, which choose the weights, and which are tested."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch_nonlocal.data.clip_list import ClipList, OnError, fingerprints, split_clips
from torch_nonlocal.data.find import Data, Where, clips_by_split
from torch_nonlocal.data.fingerprints import content_digests
from torch_nonlocal.data.leaks import find_leaks
from torch_nonlocal.data.recordings import group_pattern

FRACTION = 0.2
"""Held-out fraction of data without a split."""


@dataclass(frozen=True)
class Splits:
    """Clips by split.

    Attributes:
        lists: the clips of "train" and, where the data have them, "val" and "test"; all have the same classes. Data
            without a split have "train" and "val", the held-out fraction.
        source: one line that describes how the clips were assigned.
        is_automatic: whether the data had no split.
        fingerprints: the fingerprint of each clip of each list, in order.
        leaks: one message per clip that is in both "train" and a held-out split, itself or as a copy.
        notes: how lists were read, the notes of the clips, and recordings on both sides of the data's own split.
    """

    lists: dict[str, ClipList]
    source: str
    is_automatic: bool
    fingerprints: dict[str, tuple[str, ...]]
    leaks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    _known: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def train(self) -> ClipList:
        """Clips to train on."""
        return self.lists["train"]

    @property
    def validation(self) -> ClipList:
        """Clips that choose the weights: "val", else "test"; empty if nothing is held out."""
        return self.lists.get("val") or self.lists.get("test") or replace(self.train, clips=())

    @property
    def testing(self) -> ClipList:
        """Clips to test on: "test", else "val"; empty if nothing is held out."""
        return self.lists.get("test") or self.lists.get("val") or replace(self.train, clips=())

    def record(self) -> dict[str, str]:
        """The split of each fingerprint, including `known`: to be kept in the run and given to `assign` next time.

        A clip that was ever trained on stays "train".
        """
        record: dict[str, str] = {}
        for split in ("test", "val", "train"):
            record.update(dict.fromkeys(self.fingerprints.get(split, ()), split))
        for one, split in self._known.items():
            if split == "train" or one not in record:
                record[one] = split
        return record


def assign(
    data: Data,
    *,
    val: Data | None = None,
    test: Data | None = None,
    clip_root: Data | None = None,
    prefix: str = "",
    fold: int = 1,
    fraction: float = FRACTION,
    seed: int = 0,
    group: str = "",
    known: Mapping[str, str] | None = None,
    on_error: OnError = "fail",
) -> Splits:
    """Find the clips of a dataset and assign them to splits.

    The dataset's own split is used if it has one (folders, lists named after splits, a column "split" or "fold").
    Otherwise a fraction is held out by the rule of `data.held_out`, which depends on the content of the clips and never
    puts copies, or clips of one recording, on both sides.

    Args:
        data: a folder or list, as for `find_clips`.
        val: folder or list of the clips that choose the weights; `data` are training clips then.
        test: folder or list of the clips to test on; `data` are training clips then.
        clip_root: as for `find_clips`.
        prefix: as for `find_clips`.
        fold: as for `find_clips`.
        fraction: held-out fraction of data without a split, more than 0 and less than 1.
        seed: seed of the choice.
        group: pattern of the names of clips that must stay together; see `data.recordings.group_pattern`.
        known: `Splits.record()` of an earlier run. Without a split in the data, clips in it keep their side.
        on_error: "fail" raises for the first problem, which includes clips in both "train" and a held-out split; "skip"
            collects all.

    Raises:
        ValueError: as for `find_clips`; no clips; or an invalid fraction or pattern.
    """
    group_of = group_pattern(group) if group else None
    others = {name: other for name, other in (("val", val), ("test", test)) if other is not None}
    lists = clips_by_split(data, Where(clip_root, prefix, fold), on_error, others)
    for split, clips in lists.items():
        _check_not_empty(data, split, clips)
    is_automatic = "all" in lists
    lines = [line for clips in lists.values() for line in (clips.recognized, *clips.notes) if line]
    notes = tuple(dict.fromkeys(lines))
    if is_automatic:
        clips = lists["all"]
        contents = content_digests([clip.path for clip in clips.clips])
        train, held = split_clips(clips, fraction, seed, group=group_of, known=known, contents=contents)
        digests = {clip: one for clip, one in zip(clips.clips, contents, strict=True)}
        lists = {"train": train, "val": held}
        by_split = {split: [digests[clip] for clip in one.clips] for split, one in lists.items()}
        source = f"no split in the data: about {fraction:.0%} held out by content, copies and recordings together"
        if group_of:
            without = sum(group_of(clips.name(clip)) is None for clip in clips.clips)
            notes += (f"--group {group!r}: {without} of {len(clips)} clips do not match and form groups of their own",)
        if not held.clips and len(train) > 1:
            notes += ("nothing is held out: all clips of a class are copies or of one recording",)
    else:
        by_split = {split: content_digests([clip.path for clip in one.clips]) for split, one in lists.items()}
        source = f"the data's own split ({', '.join(lists)})"
    prints = {split: fingerprints(one, by_split[split]) for split, one in lists.items()}
    leaks, shared = ((), ()) if is_automatic else find_leaks(lists, by_split, group_of)
    if leaks and on_error == "fail":
        raise ValueError(f"{data}: {leaks[0]}")
    return Splits(lists, source, is_automatic, prints, leaks, notes + shared, known or {})


def train_and_test(
    root: Data, *, fraction: float = FRACTION, seed: int = 0, on_error: OnError = "fail"
) -> tuple[ClipList, ClipList]:
    """Training clips and held-out clips: the dataset's own split, else a held-out fraction.

    Args:
        root: as for `find_clips`.
        fraction: as for `assign`.
        seed: as for `assign`.
        on_error: as for `find_clips`.

    Raises:
        ValueError: as for `assign`; with on_error="skip" also if no valid entry is left.
    """
    splits = assign(root, fraction=fraction, seed=seed, on_error=on_error)
    return splits.train, splits.validation


def _check_not_empty(data: Data, split: str, clips: ClipList) -> None:
    if not len(clips):
        where = f"{os.fspath(data)!r}" + (f", split {split!r}" if split != "all" else "")
        reason, *others = clips.problems
        entries = f"all {1 + len(others)} entries are invalid, the first" if others else "its only entry is invalid"
        raise ValueError(f"no clips in {where}: {entries}: {reason}")


def trained_on(clips: ClipList, known: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the clips that a run has trained on, by their content.

    Args:
        clips: clips to test.
        known: `Splits.record()` of the run.
    """
    return tuple(
        clips.name(clip)
        for clip, one in zip(clips.clips, fingerprints(clips), strict=True)
        if known.get(one) == "train"
    )
