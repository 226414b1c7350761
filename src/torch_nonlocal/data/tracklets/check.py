"""Check a set of tracklets before training: identities, cameras, names, and every frame."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from torch_nonlocal._common.cores import usable_cores
from torch_nonlocal._common.files import encodable, printable
from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.data.fingerprints import content_digest
from torch_nonlocal.data.tracklets.faults import doubtful, persons, unusable
from torch_nonlocal.data.tracklets.tracklet import Problem, Tracklet, TrackletData
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.media.frame_folders import read_picture
from torch_nonlocal.media.inspect import inspect_video


class Part(NamedTuple):
    """Numbers of a part of a set.

    Attributes:
        identities: number of identities, without junk and distractors.
        cameras: number of cameras.
        tracklets: number of tracklets.
        frames: number of frames.
        lengths: shortest, median and longest tracklet, in frames; None for an empty part.
        junk: number of junk tracklets.
        distractors: number of tracklets of distractors.
    """

    identities: int
    cameras: int
    tracklets: int
    frames: int
    lengths: tuple[int, float, int] | None
    junk: int
    distractors: int


@dataclass(frozen=True)
class TrackletCheck:
    """Result of the check of a set of tracklets.

    Attributes:
        root: folder or table.
        layout: name of the layout.
        splits: number of splits of the layout; one of them is checked.
        parts: numbers of "train", "query" and "gallery"; the gallery may contain the queries.
        problems: faults; the data should not be used before they are removed.
        remarks: what is reported and is no fault.
        notes: how the data were read.
    """

    root: str
    layout: str
    splits: int
    parts: dict[str, Part]
    problems: tuple[Problem, ...]
    remarks: tuple[Problem, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """The whole report as JSON."""
        content = asdict(self)
        content["parts"] = {name: part._asdict() for name, part in self.parts.items()}
        content["problems"] = [problem._asdict() for problem in self.problems]
        content["remarks"] = [remark._asdict() for remark in self.remarks]
        return encodable(json.dumps(content, indent=1, ensure_ascii=False))


class _Seen(NamedTuple):
    """What reading a tracklet showed."""

    problem: Problem | None = None
    remark: Problem | None = None


def check_tracklets(
    data: TrackletData,
    *,
    workers: int | None = None,
    time_limit: float | None = 60.0,
    progress: Callable[[], None] = lambda: None,
) -> TrackletCheck:
    """Check the tracklets of a set and read every frame.

    Args:
        data: result of `find_tracklets`; its problems are included in the report.
        workers: number of tracklets read in parallel; None for one per core.
        time_limit: seconds after which a video counts as broken; None for no limit.
        progress: called after each of `files_to_read(data)`.

    Raises:
        ValueError: a number is out of range.
        ImportError: Pillow or, for videos, PyAV is not installed.
    """
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers: got {workers}, expected 1 or more")
    if time_limit is not None and time_limit <= 0:
        raise ValueError(f"time_limit: got {time_limit}, expected more than 0 seconds, or None")
    named = _named(data)
    pictures, videos = _by_kind(named)

    def seen(work: Callable[[], list[_Seen]]) -> list[_Seen]:
        found = work()
        progress()
        return found

    def of_pictures(name: str, one: Tracklet) -> Callable[[], list[_Seen]]:
        return lambda: [_read(name, one)]

    def of_video(video: Path, tracklets: Mapping[str, Tracklet]) -> Callable[[], list[_Seen]]:
        return lambda: _read_video(video, tracklets, time_limit)

    work = [of_pictures(name, one) for name, one in pictures.items()]
    work += [of_video(video, tracklets) for video, tracklets in videos.items()]
    with ThreadPoolExecutor(workers) as pool:  # Pillow and FFmpeg release the global interpreter lock
        results = [one for found in pool.map(seen, work) for one in found]
    problems = [*data.problems, *unusable(data), *_same_names(data), *_same_pictures(named)]
    problems += [one.problem for one in results if one.problem is not None]
    remarks = [*doubtful(data), *_one_frame(named), *(one.remark for one in results if one.remark is not None)]
    parts = {name: _numbers(getattr(data, name)) for name in ("train", "query", "gallery")}
    found = printable(str(data.root)), data.layout, data.splits
    return TrackletCheck(*found, parts, _safe(problems), _safe(remarks), data.notes)


def files_to_read(data: TrackletData) -> int:
    """Number of tracklets of pictures and of videos that `check_tracklets` reads."""
    return sum(map(len, _by_kind(_named(data))))


def _named(data: TrackletData) -> dict[str, Tracklet]:
    """Each tracklet once, by its part and name."""
    found: dict[tuple[str, str], Tracklet] = {}
    query = () if data.query_index is not None else data.query
    for part, tracklets in (("train", data.train), ("query", query), ("gallery", data.gallery)):
        for one in tracklets:
            found.setdefault((part, one.name), one)
    return {f"{part}/{name}": one for (part, name), one in found.items()}


def _by_kind(named: Mapping[str, Tracklet]) -> tuple[dict[str, Tracklet], dict[Path, dict[str, Tracklet]]]:
    """The tracklets of pictures, and those of each video."""
    pictures: dict[str, Tracklet] = {}
    videos: dict[Path, dict[str, Tracklet]] = {}
    for name, one in named.items():
        if one.files or one.folder is None:
            pictures[name] = one
        else:
            videos.setdefault(one.folder, {})[name] = one
    return pictures, videos


def _read(name: str, one: Tracklet) -> _Seen:
    """Read the pictures of a tracklet."""
    folder, sizes, broken = one.folder or Path(), Counter[str](), []
    for file in one.files:
        try:
            height, width, _ = read_picture(folder / file).shape
            sizes[f"{width} x {height}"] += 1
        except BrokenVideoError as error:
            broken.append(str(error))
    problem = remark = None
    if broken:
        problem = Problem("broken frame", name, f"{len(broken)} of {counted(one.length, 'frame')}: {broken[0]}")
    if len(sizes) > 1:
        shown = listed(f"{size} ({count})" for size, count in sizes.most_common())
        remark = Problem("different sizes", name, f"its frames have the sizes {shown}; they are resized to one")
    return _Seen(problem, remark)


def _read_video(video: Path, tracklets: Mapping[str, Tracklet], time_limit: float | None) -> list[_Seen]:
    """Decode a video once and compare the boxes of its tracklets with its frames."""
    try:
        frames, height, width, _ = inspect_video(video, time_limit=time_limit)
    except BrokenVideoError as error:
        return [_Seen(Problem("broken video", name, str(error))) for name in tracklets]
    found = []
    for name, one in tracklets.items():
        for box in one.boxes:
            if box.frame >= frames:
                reason = f"its box in frame {box.frame} has no frame: {str(video)!r} has {counted(frames, 'frame')}"
            elif not (-box.width < box.left < width and -box.height < box.top < height):
                reason = f"its box in frame {box.frame} is outside of the frame of {width} x {height} pixels"
            else:
                continue
            found.append(_Seen(Problem("wrong box", name, reason)))
            break
    return found


def _one_frame(named: Mapping[str, Tracklet]) -> list[Problem]:
    """Tracklets of one frame, in a set that has longer ones."""
    if all(one.length == 1 for one in named.values()):
        return []
    return [Problem("one frame", name, "it has no motion") for name, one in named.items() if one.length == 1]


def _same_names(data: TrackletData) -> list[Problem]:
    found = []
    for part in ("train", "query", "gallery"):
        counts = Counter(one.name for one in getattr(data, part))
        found += [
            Problem("duplicate tracklet", f"{part}/{name}", f"{count} tracklets have this name")
            for name, count in counts.items()
            if count > 1
        ]
    return found


def _same_pictures(named: Mapping[str, Tracklet]) -> list[Problem]:
    """First, middle and last frames that are also the first, middle or last frame of another identity."""
    found: list[Problem] = []
    known: dict[str, tuple[str, Tracklet]] = {}
    for name, one in named.items():
        if one.role != "person":
            continue
        for frame, content in _contents(one):
            other, same = known.setdefault(content, (name, one)) if content else (name, one)
            if same.identity != one.identity:
                reason = f"{frame} of identity {one.identity} is also in {other} of identity {same.identity}"
                found.append(Problem("same picture", name, reason))
                break
    return found


def _contents(one: Tracklet) -> Iterator[tuple[str, str]]:
    """Name and content of the first, middle and last frame, of a whole video of the video; "" if unknown."""
    folder = one.folder or Path()
    if not (one.files or one.boxes):
        yield folder.name, content_digest(folder)
        return
    for at in sorted({0, one.length // 2, one.length - 1}):
        if one.files:
            yield one.files[at], content_digest(folder / one.files[at])
        else:
            frame, *box = one.boxes[at]
            yield f"the box in frame {frame} of {folder.name}", f"{folder}: {frame}: {box}"


def _numbers(tracklets: Sequence[Tracklet]) -> Part:
    lengths = [one.length for one in tracklets]
    roles = Counter(one.role for one in tracklets)
    return Part(
        len(persons(tracklets)),
        len({one.camera for one in tracklets}),
        len(tracklets),
        sum(lengths),
        (min(lengths), statistics.median(lengths), max(lengths)) if lengths else None,
        roles["junk"],
        roles["distractor"],
    )


def _safe(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems with names that are safe to print."""
    return tuple(Problem(*map(printable, problem)) for problem in problems)
