"""Check a dataset before training by decoding every clip once."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch_nonlocal._common.text import counted
from torch_nonlocal.data.clip_list import Clip, ClipList
from torch_nonlocal.media.broken import BrokenVideoError, Deadline
from torch_nonlocal.media.frame_folders import frame_files
from torch_nonlocal.media.inspect import Inspection, inspect_video

_CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class ClipReport:
    """Result of the check of one clip.

    Attributes:
        path: path of the clip, as in the list.
        label: index of its class.
        kind: "good", "too short", or the kind of problem ("damaged", "empty", "audio only", "missing", ...).
        reason: description of the problem; "" for a good clip.
        frames: number of frames; 0 for an unreadable clip.
        height: height of a frame, in pixels; 0 for an unreadable clip.
        width: width of a frame, in pixels; 0 for an unreadable clip.
        seconds: duration; None for a folder of frames or an unreadable clip.
        digest: hash of the file's bytes, equal for copies; "" for an unreadable clip.
    """

    path: str
    label: int
    kind: str
    reason: str
    frames: int
    height: int
    width: int
    seconds: float | None
    digest: str


@dataclass(frozen=True)
class CheckReport:
    """Result of the check of a dataset.

    Attributes:
        root: folder of the dataset.
        classes: class names.
        clips: one report per clip, in the order of the list.
        problems: skipped entries of the lists, and empty classes.
        left_out: files in the folders of classes that are no clips, with the reason.
        recognized: how the lists were read; "" for folders.
        notes: lines about the clips, those of `ClipList.notes`.
    """

    root: str
    classes: tuple[str, ...]
    clips: tuple[ClipReport, ...]
    problems: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    recognized: str = ""
    notes: tuple[str, ...] = ()

    @property
    def good(self) -> tuple[ClipReport, ...]:
        """Clips that can be used for training."""
        return tuple(clip for clip in self.clips if clip.kind == "good")

    @property
    def broken(self) -> tuple[ClipReport, ...]:
        """Clips that are unreadable or too short."""
        return tuple(clip for clip in self.clips if clip.kind != "good")

    @property
    def unreadable_classes(self) -> tuple[str, ...]:
        """Names of the classes that have clips, of which none is good."""
        good = self.counts()
        tried = {clip.label for clip in self.clips}
        return tuple(name for label, name in enumerate(self.classes) if label in tried and not good[name])

    @property
    def duplicates(self) -> tuple[tuple[ClipReport, ...], ...]:
        """Groups of clips with identical bytes; clips that are parts of one file are in a group if it has a copy."""
        groups: dict[str, list[ClipReport]] = {}
        for clip in self.clips:
            if clip.digest:
                groups.setdefault(clip.digest, []).append(clip)
        return tuple(tuple(group) for group in groups.values() if len({clip.path for clip in group}) > 1)

    @property
    def contradictions(self) -> tuple[tuple[ClipReport, ...], ...]:
        """Groups of duplicates that are in different classes."""
        return tuple(group for group in self.duplicates if len({clip.label for clip in group}) > 1)

    def counts(self) -> dict[str, int]:
        """Number of good clips of each class."""
        counts = Counter(clip.label for clip in self.good)
        return {name: counts[label] for label, name in enumerate(self.classes)}

    def balance(self) -> float:
        """Ratio of good clips in the smallest to the largest class, 0 to 1; 1 is balanced."""
        counts = self.counts().values()
        return min(counts) / max(counts) if counts and max(counts) else 0.0

    def sizes(self) -> dict[str, int]:
        """Number of good clips of each size, "width x height", most frequent first."""
        return dict(Counter(f"{clip.width} x {clip.height}" for clip in self.good).most_common())

    def seconds(self) -> tuple[float, float, float] | None:
        """Shortest, median and longest duration of the good clips; None if no duration is known."""
        known = [clip.seconds for clip in self.good if clip.seconds is not None]
        return (min(known), statistics.median(known), max(known)) if known else None

    def rates(self) -> tuple[float, float, float] | None:
        """Lowest, median and highest average frames per second of the good clips; None if no duration is known."""
        known = [clip.frames / clip.seconds for clip in self.good if clip.seconds]
        return (min(known), statistics.median(known), max(known)) if known else None

    def frames(self) -> tuple[int, float, int] | None:
        """Smallest, median and largest number of frames of the good clips; None without good clips."""
        known = [clip.frames for clip in self.good]
        return (min(known), statistics.median(known), max(known)) if known else None

    def to_json(self) -> str:
        """The whole report as JSON, with the summary that `nonlocal data check` prints."""
        content: dict[str, Any] = {
            "root": self.root,
            "clips": len(self.clips),
            "good": len(self.good),
            "broken": [asdict(clip) for clip in self.broken],
            "problems": self.problems,
            "left_out": self.left_out,
            "recognized": self.recognized,
            "notes": self.notes,
            "unreadable_classes": self.unreadable_classes,
            "duplicates": [[clip.path for clip in group] for group in self.duplicates],
            "contradictions": [[clip.path for clip in group] for group in self.contradictions],
            "classes": self.counts(),
            "balance": self.balance(),
            "sizes": self.sizes(),
            "seconds": self.seconds(),
            "frames": self.frames(),
            "frames_per_second": self.rates(),
            "files": [asdict(clip) for clip in self.clips],
        }
        text = json.dumps(content, indent=1, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode()  # JSON has the same escapes for undecodable bytes


def check_clips(
    clips: ClipList,
    *,
    workers: int | None = None,
    min_frames: int = 2,
    time_limit: float | None = 60.0,
    progress: Callable[[], None] = lambda: None,
) -> CheckReport:
    """Decode every clip completely.

    Args:
        clips: result of `find_clips`; its problems are included in the report.
        workers: number of files decoded in parallel; None for one per processor.
        min_frames: clips with fewer frames are "too short".
        time_limit: seconds after which a clip counts as broken; None for no limit.
        progress: called after each clip.

    Raises:
        ValueError: a number is out of range.
        ImportError: PyAV (for folders of frames, Pillow) is not installed.
    """
    workers = len(os.sched_getaffinity(0)) if workers is None and hasattr(os, "sched_getaffinity") else workers
    workers = workers or os.cpu_count() or 1
    if workers < 1:
        raise ValueError(f"workers: got {workers}, expected 1 or more")
    if min_frames < 1:
        raise ValueError(f"min_frames: got {min_frames}, expected 1 or more")
    if time_limit is not None and time_limit <= 0:
        raise ValueError(f"time_limit: got {time_limit}, expected more than 0 seconds, or None")

    def check(clip: Clip) -> ClipReport:
        report = _check_clip(clip, min_frames, time_limit)
        progress()
        return report

    with ThreadPoolExecutor(workers) as pool:  # FFmpeg releases the global interpreter lock
        reports = tuple(pool.map(check, clips.clips))
    about = clips.problems, clips.left_out, clips.recognized, clips.notes
    return CheckReport(str(clips.root), clips.classes, reports, *about)


def _check_clip(clip: Clip, min_frames: int, time_limit: float | None) -> ClipReport:
    kind, reason, seen, digest = "good", "", Inspection(0, 0, 0, None), ""
    deadline = Deadline(clip.path, time_limit)
    try:
        seen = inspect_video(clip.path, time_limit=time_limit)
        if seen.frames < min_frames:
            kind = "too short"
            reason = f"{str(clip.path)!r} has {counted(seen.frames, 'frame')}, expected at least {min_frames}"
        digest = _digest(clip.path, deadline)
    except BrokenVideoError as error:
        kind, reason = error.kind, str(error)
    return ClipReport(str(clip.path), clip.label, kind, reason, *seen, digest)


def _digest(path: Path, deadline: Deadline) -> str:
    """Hash of a readable file, or of all frames of a readable folder."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for file in frame_files(path) if path.is_dir() else [path]:
            with file.open("rb") as opened:
                while chunk := opened.read(_CHUNK):
                    deadline.check()
                    digest.update(chunk)
    except OSError as error:
        raise BrokenVideoError(f"{str(path)!r} cannot be read: {error.strerror or error}", "unreadable") from error
    return digest.hexdigest()
