"""A table of tracklets: CSV or TSV with a row per tracklet, or a row per box of a tracklet in a video."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, cast

from torch_nonlocal._common.collector import paused_collector
from torch_nonlocal._common.files import printable
from torch_nonlocal._common.text import did_you_mean, excerpt, listed
from torch_nonlocal.data.rows import DELIMITERS, table_rows
from torch_nonlocal.data.suffixes import is_video_name
from torch_nonlocal.data.texts import lines_of
from torch_nonlocal.data.tracklets.layout import (
    AUTOMATIC_QUERIES,
    Layout,
    Reader,
    check_split,
    is_picture,
    own_file,
    video_frames,
    with_queries,
)
from torch_nonlocal.data.tracklets.tracklet import Box, Role, Tracklet, TrackletData

_COLUMNS: dict[str, str] = {
    "tracklet": "tracklet track tracklet_id track_id tracklet_name trackid",
    "identity": "identity id person pid person_id identity_id animal individual individual_id subject subject_id",
    "camera": "camera cam camid camera_id cam_id view",
    "frames": "frames files folder images pictures path image picture",
    "video": "video clip film video_path",
    "frame": "frame frame_number frame_id",
    "left": "left x x1 bb_left",
    "top": "top y y1 bb_top",
    "width": "width w bb_width",
    "height": "height h bb_height",
    "split": "split subset part set",
    "role": "role kind",
}
"""Names of columns by their meaning; the first is the usual one."""
_MEANING = {name: column for column, names in _COLUMNS.items() for name in names.split()}
_USUAL = ("tracklets.csv", "tracklets.tsv")
_NEEDED = ("tracklet", "identity", "camera")
_MOST_FILES = 20
_BOX = ("frame", "left", "top", "width", "height")
_SPLITS = {"train": "train", "training": "train", "query": "query", "probe": "query", "gallery": "gallery"}
_SPLITS |= {"test": "test", "testing": "test"}
_ROLES = ("person", "distractor", "junk")
_NO_FRAMES = "expected a column 'frames', or 'video' and, for boxes, all of frame, left, top, width and height"
_NUMBER = re.compile(r"[-+]?\d{1,9}(?:\.\d{0,18})?")
_WHOLE = re.compile(r"[-+]?\d{1,9}(?:\.0{0,18})?")
_MOST_FRAMES = 2**23
_LONGEST_LINE = 2**17  # characters: the names of about 3,000 frames
_HEAD = 2**12  # bytes that hold a header


class _Row(NamedTuple):
    """A row, as many cells as the header has or more, and the places of the columns by their meaning."""

    line: int
    cells: list[str]
    columns: dict[str, int]
    width: int

    def __call__(self, meaning: str) -> str:
        """The cell of a meaning; "" without one."""
        place = self.columns.get(meaning)
        return "" if place is None else self.cells[place]


def table_in(folder: Path) -> Path | None:
    """A file in a folder whose header is that of a table of tracklets; None if there is none."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".csv", ".tsv") and file.is_file())
        for file in files[:_MOST_FILES]:
            with open(file, "rb") as opened:
                first = opened.read(_HEAD).decode("utf-8-sig", "replace").splitlines()[:2]  # "sep=;" may be before it
            for line in first:
                cells = {_MEANING.get(_key(cell)) for mark in DELIMITERS for cell in line.split(mark)}
                if cells >= set(_NEEDED):
                    return file
    except OSError:
        return None
    return None


def _recognizes(root: Path) -> bool:
    return root.is_file() or any((root / name).is_file() for name in _USUAL)


def _read(file: Path, split: int) -> TrackletData:
    """Read a table.

    Raises:
        ValueError: the file is no table, or a column is missing or there twice.
    """
    check_split(split, 1, "table")
    file = own_file(file, *_USUAL) or file
    if not file.is_file():
        raise ValueError(f"there is no table {str(file)!r}")
    reader = Reader(file.parent)
    parts: dict[str, list[Tracklet]] = {"train": [], "query": [], "gallery": [], "test": []}
    with paused_collector():
        rows = _rows(file)
        for part, one in _tracklets(reader, rows):
            parts[part].append(one)
    notes: list[str] = []
    if "split" not in rows[0].columns:
        notes.append(f"{file.name} has no column 'split': all its tracklets are test data")
    train = tuple(parts["train"])
    if parts["query"]:
        query, gallery, index = tuple(parts["query"]), tuple(parts["gallery"] + parts["test"]), None
    else:
        gallery = tuple(parts["test"] + parts["gallery"])
        query, index = with_queries(gallery)
        notes += [AUTOMATIC_QUERIES] if gallery else []
    problems = reader.problems
    return TrackletData("table", file, train, query, gallery, index, problems=problems, notes=tuple(notes))


def _rows(file: Path) -> list[_Row]:
    lines = list(lines_of(file, longest=_LONGEST_LINE))
    if not lines:
        raise ValueError(f"{str(file)!r} is empty: expected a header and a row per tracklet")
    (_, header), *rows = table_rows(file, lines, lambda cell: _key(cell) in _MEANING)
    columns: dict[str, int] = {}
    for place, cell in enumerate(header):
        meaning = _MEANING.get(_key(cell))
        if meaning in columns:
            both = f"{header[columns[meaning]]!r} and {cell!r}"
            raise ValueError(f"{str(file)!r}: the columns {both} may both be the {meaning}; rename one of them")
        if meaning is not None:
            columns[meaning] = place
    for needed in _NEEDED:
        if needed not in columns:
            near = did_you_mean(needed, [cell for cell in header if _key(cell) not in _MEANING])
            shown = excerpt(", ".join(cell.strip() for cell in header))
            raise ValueError(f"{str(file)!r} has no column {needed!r}: got {shown}{'; ' + near if near else ''}")
    boxes = [name for name in _BOX if name in columns]
    if ("frames" not in columns and "video" not in columns) or 0 < len(boxes) < len(_BOX):
        shown = excerpt(", ".join(cell.strip() for cell in header))
        raise ValueError(f"{str(file)!r} has the columns {shown}: {_NO_FRAMES}")
    if not rows:
        raise ValueError(f"{str(file)!r} has a header only: expected a row per tracklet")
    width = len(header)
    return [
        _Row(line, [cell.strip() for cell in cells] + [""] * (width - len(cells)), columns, width)
        for line, cells in rows
    ]


def _key(cell: str) -> str:
    return cell.strip().strip("\"'").lower().replace(" ", "_").replace("-", "_")


def _tracklets(reader: Reader, rows: Sequence[_Row]) -> Iterator[tuple[str, Tracklet]]:
    """The tracklets with their splits, in the order of their first rows; rows with mistakes are problems."""
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        if mistake := _mistake(row):
            reader.problem("wrong row", row("tracklet") or f"line {row.line}", f"line {row.line}: {mistake}")
        else:
            groups.setdefault(row("tracklet"), []).append(row)
    frames = 0
    folders: dict[Path, tuple[str, ...]] = {}
    for name, group in groups.items():
        if not _agree(reader, name, group):
            continue
        first = group[0]
        if not first("video"):
            tracklet = _of_files(reader, name, group, folders)
        elif first("frame"):
            tracklet = _of_boxes(reader, name, group)
        else:
            tracklet = _of_video(reader, name, group)
        if tracklet is not None:
            frames += tracklet.length
            if frames > _MOST_FRAMES:
                raise ValueError(f"the tracklets have more than {_MOST_FRAMES:,} frames, expected a smaller table")
            yield _part(first), tracklet


def _part(row: _Row) -> str:
    return _SPLITS.get(row("split").lower() or "test", "")


def _mistake(row: _Row) -> str:
    if any(row.cells[row.width :]):
        has = f"it has {len(row.cells)} cells, the header {row.width}"
        return f"{has}: expected quotation marks around a cell that holds the separator"
    for needed in _NEEDED:
        if not row(needed):
            return f"no {needed}"
    if not _part(row):
        return f"the split is {excerpt(row('split'))!r}, expected {listed(sorted(set(_SPLITS.values())))}"
    if row("role") and row("role").lower() not in _ROLES:
        return f"the role is {excerpt(row('role'))!r}, expected {listed(_ROLES)}"
    if _part(row) == "query" and row("role").lower() not in ("", "person"):
        return f"the role of a query is {row('role').lower()}, expected person"
    if row("video") and row("frames"):
        return "it has frames and a video, expected one of them"
    if row("frames") and any(map(row, _BOX[1:])):
        return "it has a box in frames, expected the box in a video: the folder of the frames in column 'video'"
    if not row("video"):
        return "" if row("frames") else "no frames and no video"
    if not any(map(row, _BOX)):
        return ""
    frame, _, _, width, height = numbers = [_rounded(row(name)) for name in _BOX]
    for name, number in zip(_BOX, numbers, strict=True):
        if number is None:
            return f"{name} is {excerpt(row(name))!r}, expected a number"
    if not _WHOLE.fullmatch(row("frame")):
        return f"frame is {excerpt(row('frame'))!r}, expected a whole number"
    if not width or not height or width < 1 or height < 1:
        return f"the box is empty: width {row('width')}, height {row('height')}, expected 1 pixel or more"
    return f"frame is {frame}, expected 0 or more" if frame is None or frame < 0 else ""


@lru_cache(maxsize=2**16)
def _rounded(text: str) -> int | None:
    """A number, rounded, as trackers write boxes; None for other text."""
    return round(float(text)) if _NUMBER.fullmatch(text) else None


def _agree(reader: Reader, name: str, group: Sequence[_Row]) -> bool:
    """Whether the rows of a tracklet agree on everything that is not a box."""
    first = group[0]
    for row in group[1:]:
        for column in ("identity", "camera", "split", "role", "video"):
            if row(column) != first(column):
                both = (
                    f"{excerpt(first(column))!r} in line {first.line} and {excerpt(row(column))!r} in line {row.line}"
                )
                reader.problem("duplicate tracklet", name, f"its {column} is {both}; it is left out")
                return False
    return True


def _of_boxes(reader: Reader, name: str, group: Sequence[_Row]) -> Tracklet | None:
    boxes = sorted(Box(*(_rounded(row(column)) or 0 for column in _BOX)) for row in group)
    twice = next((one.frame for one, other in pairwise(boxes) if one.frame == other.frame), None)
    if twice is not None:
        reader.problem(
            "duplicate tracklet", name, f"it has several boxes in frame {twice}, expected one; it is left out"
        )
        return None
    video = _video(reader, name, group[0])
    return video and _tracklet(name, group[0], video, boxes=tuple(boxes), length=len(boxes))


def _of_video(reader: Reader, name: str, group: Sequence[_Row]) -> Tracklet | None:
    if _is_repeated(reader, name, group) or (video := _video(reader, name, group[0])) is None:
        return None
    length = video_frames(reader, name, video)
    return _tracklet(name, group[0], video, length=length) if length else None


def _video(reader: Reader, name: str, row: _Row) -> Path | None:
    video = reader.inside(row("video"), name)
    if video is not None and not video.exists():
        reader.problem("missing video", name, f"there is no {str(video)!r}")
        return None
    return video


def _of_files(
    reader: Reader, name: str, group: Sequence[_Row], folders: dict[Path, tuple[str, ...]]
) -> Tracklet | None:
    """A tracklet of pictures; `folders` holds the frames of whole folders, each of which is ordered once."""
    row, given = group[0], group[0]("frames")
    per_row = [one("frames") for one in group]
    is_list = len(group) > 1 and len(set(per_row)) == len(group) and all(map(is_picture, per_row))
    if not is_list and _is_repeated(reader, name, group):
        return None
    if is_list or ";" in given:
        parts = per_row if is_list else given.split(";")
        files = tuple(part.strip().replace("\\", "/") for part in parts if part.strip())
        paths = [reader.inside(file, name) for file in files]
        if not all(paths):
            return None
        missing = [file for file, path in zip(files, paths, strict=True) if path is None or not path.is_file()]
        if missing or not files:
            reader.problem("missing frame", name, f"there is no file {missing[0]!r}" if missing else "it has no frame")
            return None
        return _tracklet(name, row, reader.root, files=files, length=len(files))
    path = reader.inside(given, name)
    if path is None:
        return None
    if path.is_file() and is_picture(path.name):
        return _tracklet(name, row, path.parent, files=(path.name,), length=1)
    pictures, folder = (), path
    if path in folders:
        return _tracklet(name, row, path, files=folders[path], length=len(folders[path]))
    if path.is_dir():
        pictures = reader.listing(path).pictures
    elif path.parent.is_dir() and any(mark in path.name for mark in "*?["):
        folder = path.parent
        pictures = tuple(fnmatch.filter(reader.listing(folder).pictures, path.name))
    if not pictures:
        is_video = path.is_file() and is_video_name(path.name)
        what = (
            "is a video: expected it in a column 'video'"
            if is_video
            else "is no picture, folder or pattern of pictures"
        )
        reader.problem("empty tracklet", name, f"{given!r} {what}")
        return None
    found = reader.from_pictures(name, row("identity"), row("camera"), folder, pictures)
    if found is None:
        return None
    if folder is path:
        folders[path] = found.files
    return _tracklet(name, row, folder, files=found.files, length=found.length)


def _is_repeated(reader: Reader, name: str, group: Sequence[_Row]) -> bool:
    if len(group) > 1:
        lines = listed(str(row.line) for row in group)
        reader.problem("duplicate tracklet", name, f"lines {lines} have this name, expected one line; it is left out")
    return len(group) > 1


def _tracklet(
    name: str, row: _Row, folder: Path, *, length: int, files: tuple[str, ...] = (), boxes: tuple[Box, ...] = ()
) -> Tracklet:
    role = cast("Role", row("role").lower() or "person")
    return Tracklet(printable(name), row("identity"), row("camera"), length, folder, files, boxes, role)


TABLE = Layout(
    "table",
    "a CSV or TSV file, or a folder with tracklets.csv, with the columns "
    "tracklet, identity, camera, and frames (a folder, a pattern, or files "
    "separated by ;) or video (a file) and, with one row per box, frame, left, top, width, height",
    _recognizes,
    _read,
    places=_USUAL,
)
