"""What a layout is, and what the layouts share: listing folders, choosing queries, random halves."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.text import counted, listed, near_path
from torch_nonlocal.data.fingerprints import content_digest
from torch_nonlocal.data.suffixes import is_video_name
from torch_nonlocal.data.tracklets.tracklet import Problem, Role, Tracklet, TrackletData, camera_numbers
from torch_nonlocal.media.frame_names import PICTURES, in_order

SPLITS = 10
"""Random splits of the sets that are tested on several halves of their identities."""

AUTOMATIC_QUERIES = (
    "no list of queries: the first tracklet of each identity and camera is a query, as long as each query keeps a match"
)


@dataclass(frozen=True)
class Layout:
    """How the files of a set of tracklets are arranged.

    Attributes:
        name: what `find_tracklets(layout=...)` calls it.
        expects: the files and names it expects, in one line.
        recognizes: whether a folder or file has this layout; it reads names only.
        read: reads a folder or file; the second argument is the number of the split, from 0.
        is_generic: whether it fits many sets, so that it is recognized only where no other layout is.
        places: folders and files that only this layout has, for messages about sets that nearly fit.
        picture: the name of a picture, for the same messages; "" if any name does.
    """

    name: str
    expects: str
    recognizes: Callable[[Path], bool]
    read: Callable[[Path, int], TrackletData]
    is_generic: bool = False
    places: tuple[str, ...] = ()
    picture: str = ""


class Listing(NamedTuple):
    """The visible entries of a folder, sorted by name.

    Attributes:
        folders: names of folders.
        pictures: names of pictures.
        videos: names of videos.
        others: names of other files.
    """

    folders: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class Reader:
    """Lists the folders of a set, makes tracklets of their files, and collects problems. No picture is opened.

    Args:
        root: folder of the set; links that lead out of it are reported and not followed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._problems: dict[Problem, None] = {}
        self._real_root = os.path.realpath(root)
        self._inside: dict[str, bool] = {}  # by folder

    def problem(self, kind: str, name: str, reason: str) -> None:
        """Report a problem."""
        self._problems[Problem(kind, printable(name), printable(reason))] = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems so far, each once."""
        return tuple(self._problems)

    def listing(self, folder: Path) -> Listing:
        """List a folder; one that cannot be read, or is outside of the root, is a problem and counts as empty."""
        real = os.path.realpath(folder)
        if not self._is_below(real):
            self._report_link(folder, real)
            return Listing()
        try:
            with os.scandir(folder) as found:
                entries = [entry for entry in found if not entry.name.startswith(".") and self._is_inside(entry)]
                folders = {entry.name for entry in entries if entry.is_dir()}
        except OSError as error:
            self.problem("unreadable folder", self.name_of(folder), f"cannot be read: {error.strerror or error}")
            return Listing()
        files = sorted(entry.name for entry in entries if entry.name not in folders)
        pictures = tuple(name for name in files if is_picture(name))
        videos = tuple(name for name in files if not is_picture(name) and is_video_name(name))
        others = tuple(name for name in files if not is_picture(name) and not is_video_name(name))
        return Listing(tuple(sorted(folders)), pictures, videos, others)

    def name_of(self, path: Path) -> str:
        """A path relative to the root, with forward slashes."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def inside(self, path: str, name: str) -> Path | None:
        """A path from a file of the set; None, and a problem, if it leaves the folder of the set.

        Args:
            path: relative to the root, with either slash.
            name: the tracklet that it belongs to.
        """
        relative = path.replace("\\", "/")
        is_relative = relative and "\0" not in relative and not relative.startswith("/") and ":" not in relative[:2]
        if is_relative and ".." not in relative.split("/"):
            folder, last = os.path.split(os.path.join(self.root, relative))
            if folder not in self._inside:
                self._inside[folder] = self._is_below(os.path.realpath(folder))
            full = os.path.join(folder, last)
            if self._inside[folder] and (not os.path.islink(full) or self._is_below(os.path.realpath(full))):
                return Path(full)
        self.problem(
            "outside", name, f"{path!r} leaves the folder {str(self.root)!r}: expected a relative path below it"
        )
        return None

    def from_pictures(
        self, name: str, identity: str, camera: str, folder: Path, pictures: Sequence[str], role: Role = "person"
    ) -> Tracklet | None:
        """A tracklet of the pictures of a folder, ordered by the numbers in their names; None, and a problem, if none.

        A single picture needs no number.
        """
        try:
            files = tuple(in_order(pictures))
        except ValueError as error:
            self.problem("unclear order", name, str(error))
            return None
        if not files and len(pictures) == 1:
            files = tuple(pictures)
        if not files:
            self.problem("empty tracklet", name, f"{str(folder)!r} has no numbered pictures")
            return None
        for left in sorted(set(pictures) - set(files)):
            self.problem("wrong name", f"{name}/{left}", "expected a name with a number that orders the frames")
        return Tracklet(name, identity, camera, len(files), folder, files, role=role)

    def unique(self, tracklets: Iterable[Tracklet]) -> tuple[Tracklet, ...]:
        """Tracklets without those whose name another one before has; they are problems."""
        found: dict[str, Tracklet] = {}
        for one in tracklets:
            if found.setdefault(one.name, one) is not one:
                self.problem("duplicate tracklet", one.name, "another tracklet has this name; this one is left out")
        return tuple(found.values())

    def _is_inside(self, entry: os.DirEntry[str]) -> bool:
        if not entry.is_symlink():
            return True
        target = os.path.realpath(entry.path)
        if self._is_below(target):
            return True
        self._report_link(Path(entry.path), target)
        return False

    def _report_link(self, link: Path, target: str) -> None:
        where = f"the link leads to {target!r}, outside of {str(self.root)!r}, and is not followed"
        self.problem("outside", self.name_of(link), where)

    def _is_below(self, path: str) -> bool:
        return path == self._real_root or path.startswith(self._real_root.rstrip(os.sep) + os.sep)


def is_picture(name: str) -> bool:
    """Whether a file name is that of a picture."""
    return os.path.splitext(name)[1].lower() in PICTURES


def check_folder(root: Path, *names: str) -> None:
    """Check that a folder has all of some folders.

    Raises:
        ValueError: the folder or one of them is missing.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {str(root)!r}{near_path(root)}")
    missing = [name for name in names if not (root / name).is_dir()]
    if missing:
        raise ValueError(f"{str(root)!r} has no folder {listed(map(repr, missing))}{near_path(root / missing[0])}")


def own_file(root: Path, *names: str) -> Path | None:
    """The first of some files of a set that exists; None if none does.

    Raises:
        ValueError: it is a link that leads out of the folder of the set.
    """
    file = next((root / name for name in names if (root / name).is_file()), None)
    if file is not None and not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root)):
        raise ValueError(f"the link {str(file)!r} leaves {str(root)!r} and is not followed; copy its target")
    return file


def check_queries(file: Path, query: Iterable[Tracklet]) -> None:
    """Check that a list of queries names persons.

    Raises:
        ValueError: a query is junk or a distractor, which has no match.
    """
    wrong = next((one for one in query if one.role != "person"), None)
    if wrong is not None:
        what = f"{wrong.name}, which is {'junk' if wrong.role == 'junk' else 'a distractor'}"
        raise ValueError(f"{str(file)!r} has the query {what}: expected persons")


def check_split(split: int, splits: int, layout: str) -> None:
    """Check the number of a split.

    Raises:
        ValueError: it is not in [0, splits).
    """
    if splits < 1:
        raise ValueError(f"the list of the splits of {layout} is empty: expected one or more")
    if not 0 <= split < splits:
        raise ValueError(f"split: got {split}, expected 0 to {splits - 1} ({layout} has {counted(splits, 'split')})")


def video_frames(reader: Reader, name: str, video: Path) -> int:
    """The number of frames of a video; 0, and a problem, if it cannot be read."""
    from torch_nonlocal.media.broken import BrokenVideoError

    try:
        status = os.stat(video)
        return _counted_frames(video, status.st_size, status.st_mtime_ns)
    except BrokenVideoError as error:
        reader.problem("broken video", name, str(error))
    except OSError as error:
        reader.problem("broken video", name, f"cannot be read: {error.strerror or error}")
    return 0


@lru_cache(maxsize=2**16)
def _counted_frames(video: Path, size: int, modified: int) -> int:
    """The number of frames of a video of this size and time, counted once for all splits."""
    from torch_nonlocal.media.decode import probe

    return probe(video).frames


def first_picture(folder: Path, depth: int) -> str | None:
    """The name of a picture `depth` folders below a folder, following the first folder of each; None if there is none.

    It looks at a few entries only, whatever the size of the set.
    """
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.startswith("."):
                    continue
                if depth == 0 and is_picture(entry.name):
                    return entry.name
                if depth and entry.is_dir() and (name := first_picture(Path(entry.path), depth - 1)):
                    return name
    except OSError:
        return None
    return None


def first_place(root: Path, *places: str) -> Path:
    """The first of some folders below a root that exists, else the first of them."""
    return next((root / place for place in places if (root / place).is_dir()), root / places[0])


def with_queries(test: Sequence[Tracklet]) -> tuple[tuple[Tracklet, ...], tuple[int, ...]]:
    """Choose the queries of a gallery without a list of queries.

    A query is the first tracklet of each identity and camera, in their order, as long as every query of the identity
    keeps a match that is not a query: a tracklet of another camera. Identities of one camera, which cannot be matched
    in another, have none. In data of a single camera, every tracklet counts as a camera of its own.

    Returns:
        The queries, and their rows in `test`.
    """
    numbers = camera_numbers(test)
    rows_of: dict[str, list[int]] = {}
    for row, one in enumerate(test):
        if one.role == "person":
            rows_of.setdefault(one.identity, []).append(row)
    index = tuple(sorted(row for rows in rows_of.values() for row in _queries_of_one(rows, numbers)))
    return tuple(test[row] for row in index), index


def _queries_of_one(rows: Sequence[int], numbers: Sequence[int]) -> list[int]:
    """The rows of an identity's queries, from all its rows and the camera of each row of the test set."""
    left = Counter(numbers[row] for row in rows)  # tracklets per camera that are not queries
    first: dict[int, int] = {}
    for row in rows:
        first.setdefault(numbers[row], row)
    queries: list[int] = []
    most, total = 0, len(rows)  # the most that are left in the camera of a query; all that are left
    for camera, row in first.items():
        if total - 1 > max(most, left[camera] - 1):
            most, total = max(most, left[camera] - 1), total - 1
            queries.append(row)
    return queries


def own_cameras(
    tracklets: Sequence[Tracklet], name: Callable[[Tracklet], str] = lambda one: one.name
) -> tuple[tuple[Tracklet, ...], tuple[str, ...]]:
    """Give tracklets without a camera one of their own, and all tracklets if no identity is seen by several cameras.

    Matches in the same camera do not count in re-identification, so that nothing could be matched otherwise.

    Args:
        tracklets: of the test.
        name: name of the camera of a tracklet, another for each.

    Returns:
        The tracklets, and a note if any was changed.
    """
    cameras: dict[str, set[str]] = {}
    for one in tracklets:
        cameras.setdefault(one.identity, set()).add(one.camera)
    if any(len(seen - {""}) > 1 for seen in cameras.values()):
        which, changed = "tracklets without a named camera count", [not one.camera for one in tracklets]
    else:
        why = "no test identity is seen by several named cameras"
        which, changed = f"{why}: tracklets count", [True] * len(tracklets)
    kept = (replace(one, camera=name(one)) if own else one for one, own in zip(tracklets, changed, strict=True))
    return tuple(kept), (f"{which} as cameras of their own",) if any(changed) else ()


def with_distractors(tracklets: Iterable[Tracklet], known: Collection[str]) -> tuple[Tracklet, ...]:
    """Tracklets of the identity 0 as distractors, unless the set numbers persons from 0: then it is a person.

    Args:
        tracklets: of the test.
        known: identities of queries and of training tracklets.
    """
    found = []
    for one in tracklets:
        is_nobody = one.role == "person" and not one.identity.strip("0") and one.identity not in known
        found.append(replace(one, role="distractor") if is_nobody else one)
    return tuple(found)


def queries_in_gallery(
    query: tuple[Tracklet, ...], gallery: Sequence[Tracklet]
) -> tuple[tuple[Tracklet, ...], tuple[int, ...] | None]:
    """Find the queries of a folder of their own in the gallery: tracklets with the same files, by name and content.

    Returns:
        The queries as tracklets of the gallery, and their rows, if the gallery has all of them; else `query` and None.
    """
    rows = {(one.identity, one.camera, one.files): row for row, one in enumerate(gallery) if one.files}
    found = tuple(rows.get((one.identity, one.camera, one.files), -1) for one in query)
    if not query or min(found) < 0 or len(set(found)) < len(found):
        return query, None
    for one, row in zip(query, found, strict=True):
        digests = {content_digest(each.folder / each.files[0]) for each in (one, gallery[row]) if each.folder}
        if len(digests) > 1 or "" in digests:
            return query, None
    return tuple(gallery[row] for row in found), found


def random_half(identities: Iterable[str], split: int, layout: str) -> tuple[set[str], set[str]]:
    """Identities to train on and to test on: a random half each, the same on every machine.

    Args:
        identities: names, in any order.
        split: number of the split; each is another draw.
        layout: name of the layout, part of the seed.

    Returns:
        Training and test identities; of an odd number, the test has one more.
    """
    names = sorted(identities)
    random.Random(f"{layout} {split}").shuffle(names)
    half = len(names) // 2
    return set(names[:half]), set(names[half:])
