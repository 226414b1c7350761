"""The folders of a dataset: each is listed once, and links that leave the dataset are not followed.

Only files of unknown suffixes are opened, to look at their first bytes.

Names that are not UTF-8 work: paths keep their bytes, which class names and reports show as escapes.
"""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch_nonlocal._common.files import printable
from torch_nonlocal.data.clip_list import Problems
from torch_nonlocal.data.recordings import STREAMS, stream_of, without_stream
from torch_nonlocal.data.suffixes import (
    LISTS,
    VIDEOS,
    is_animated_webp,
    is_other_name,
    is_video_name,
    starts_like_video,
    suffix_of,
)
from torch_nonlocal.media.frame_names import frame_number

_OTHERS = (
    "flow_u flow_v mask masks seg segmentation normal normals gray grey u v x y left right label labels annotation "
    "annotations gt pose saliency"
)
_STREAMS = STREAMS.union(_OTHERS.split())
"""Names of folders that hold one of several streams of a clip, beside words for images."""

_IMAGES = re.compile(r"^{0}(?:[-_. ]+|$)|[-_. ]+{0}$".format(r"(?:frames?|images?|imgs?|jpe?gs?|pngs?)"))


@dataclass(frozen=True)
class Listing:
    """The visible entries of a folder, sorted by name.

    Attributes:
        path: the folder.
        real: its path without links.
        folders: its folders.
        files: its other entries, regular files or not; broken links are included.
        lists: its regular files, the only ones among `files` that may be lists.
        links: names of those that are links.
        is_whole: False if the folder cannot be read, or a frame in it is not used.
        videos: names of videos, by suffix or, for unknown suffixes, by content.
        left_out: names of files that are no videos, images or lists.
    """

    path: Path
    real: str
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    links: frozenset[str] = frozenset()
    is_whole: bool = True
    videos: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """Number of numbered images."""
        return sum(frame_number(name) is not None for name in self.files)


class Found(NamedTuple):
    """A clip in a folder.

    Attributes:
        path: a video or a folder of frames.
        real: its path without links, equal for two ways to the same clip.
        is_linked: whether `path` contains a link below the root.
    """

    path: Path
    real: str
    is_linked: bool


class Tree:
    """The folders below a dataset's root.

    Args:
        root: the dataset's folder; it may itself be a link.
        problems: collects folders that cannot be read and links that leave the root.
    """

    def __init__(self, root: Path, problems: Problems) -> None:
        self.root = root
        self.problems = problems
        self._real_root = os.path.realpath(root)
        self._listings: dict[str, Listing] = {}
        self._left_out: dict[str, None] = {}
        self._inside: dict[str, bool] = {}

    def listing(self, folder: Path) -> Listing:
        """List a folder; a second call does not read it again.

        Raises:
            ValueError: the root cannot be read.
        """
        key = os.fspath(folder)
        if key not in self._listings:
            self._listings[key] = self._read(folder, os.path.realpath(folder))
        return self._listings[key]

    def folders(self, folder: Path) -> list[Path]:
        """The visible folders in a folder, sorted by name."""
        return [folder / name for name in self.listing(folder).folders]

    def is_inside(self, path: str, *, is_link: bool) -> bool:
        """Whether a path is below the root once its links are followed."""
        if is_link:
            return _is_below(os.path.realpath(path), self._real_root)
        folder = os.path.dirname(path)
        if folder not in self._inside:
            self._inside[folder] = _is_below(os.path.realpath(folder), self._real_root)
        return self._inside[folder]

    @property
    def left_out(self) -> tuple[str, ...]:
        """One line per file that `clips` found to be no clip."""
        return tuple(self._left_out)

    def clips(self, folder: Path) -> list[Found]:
        """Videos and folders of frames at any depth below a folder, sorted by path.

        A folder is entered once: by its own path if it has one below `folder`, else by the first link.
        """
        found: list[Found] = []
        start = os.path.realpath(folder)
        entered: set[str] = set()
        waiting, links = [folder], deque[Path]()
        while waiting or links:
            here = self.listing(waiting.pop() if waiting else links.popleft())
            if here.real in entered or (entered and _is_below(start, here.real)):
                continue  # entered already, or a link to a folder above
            entered.add(here.real)
            if here.path != folder and here.frames and not here.videos:
                found += [Found(here.path, here.real, self._is_linked(here))] if here.is_whole else []
                self._leave_out_below(here)
                continue
            if self._holds_streams(here, is_class=here.path == folder):
                continue
            found += self._videos(here)
            self._left_out.update(dict.fromkeys(_left_out(here)))
            for name in here.folders:
                (links if name in here.links else waiting).append(here.path / name)
        return sorted(found)

    def _leave_out_below(self, here: Listing) -> None:
        """Name the videos and folders of frames in the folders of a clip."""
        waiting = [here.path / name for name in here.folders if name not in here.links]
        while waiting:
            inside = self.listing(waiting.pop(0))
            names = inside.videos or ([""] if inside.frames else [])
            for name in names:
                what = f"{str(inside.path / name)!r} is no clip: it is in the folder of frames {str(here.path)!r}"
                self._left_out[printable(what)] = None
            waiting += [inside.path / name for name in inside.folders if name not in inside.links]

    def _holds_streams(self, here: Listing, *, is_class: bool) -> bool:
        """Whether the folders in a folder hold several streams of one clip, which is a problem.

        Those in the folder of a class ("clip1_rgb", "clip1_depth") are clips if their names tell more than the stream.
        """
        kinds = {name: _IMAGES.sub("", name.lower()) for name in here.folders}
        streams = [
            name for name, kind in kinds.items() if kind in _STREAMS | {""} and self.listing(here.path / name).frames
        ]
        if len(streams) < 2 or not any(kinds[name] for name in streams):
            streams = [] if is_class else self._streams_of_one_name(here)
        if not streams:
            return False
        names = ", ".join(map(repr, streams))
        self.problems.add(
            f"{str(here.path)!r} holds several streams of one clip, {names}: expected the frames of one stream, "
            "directly in the clip's folder; it is not used"
        )
        return True

    def _streams_of_one_name(self, here: Listing) -> list[str]:
        """The folders of frames in a folder if their names differ in the stream only."""
        names = [name for name in here.folders if self.listing(here.path / name).frames]
        is_one = len({without_stream(name) for name in names}) == 1 < len({stream_of(name) for name in names})
        return names if is_one else []

    def _videos(self, here: Listing) -> Iterator[Found]:
        is_linked = self._is_linked(here)
        for name in here.videos:
            path, real = here.path / name, os.path.join(here.real, name)
            if name in here.links:
                yield Found(path, os.path.realpath(path), True)
            else:
                yield Found(path, real, is_linked)

    def _is_linked(self, here: Listing) -> bool:
        return here.real != os.path.normpath(os.path.join(self._real_root, here.path.relative_to(self.root)))

    def _read(self, folder: Path, real: str) -> Listing:
        try:
            with os.scandir(folder) as entries:
                visible = sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)
        except OSError as error:
            message = f"the folder {str(folder)!r} cannot be read: {error.strerror or error}"
            if folder == self.root:
                raise ValueError(message) from error
            self.problems.add(f"{message}; its clips are not used")
            return Listing(folder, real, is_whole=False)
        folders, files, lists, links, is_whole = [], [], [], set(), True
        for entry in visible:
            if entry.is_symlink():
                if not self._may_follow(entry):
                    is_whole = is_whole and frame_number(entry.name) is None
                    continue
                links.add(entry.name)
            mode = _mode(entry)
            (folders if stat.S_ISDIR(mode) else files).append(entry.name)
            if stat.S_ISREG(mode):
                lists.append(entry.name)
        regular = frozenset(lists)
        videos = [name for name in files if is_video_name(name)]
        unknown = [name for name in files if name in regular and not is_video_name(name) and not is_other_name(name)]
        if not any(frame_number(name) is not None for name in files):  # beside frames, other files do not matter
            videos = sorted([*videos, *(name for name in unknown if starts_like_video(folder / name))])
        known = {*videos, *(name for name in files if suffix_of(name) in LISTS or frame_number(name) is not None)}
        left_out = tuple(name for name in files if name not in known)
        kinds = tuple(folders), tuple(files), tuple(lists), frozenset(links)
        return Listing(folder, real, *kinds, is_whole, tuple(videos), left_out)

    def _may_follow(self, entry: os.DirEntry[str]) -> bool:
        target = os.path.realpath(entry.path)
        if _is_below(target, self._real_root) or not os.path.exists(target):  # reading reports a missing target
            return True
        suffix = os.path.splitext(entry.name)[1].lower()
        if stat.S_ISDIR(_mode(entry)) or suffix in VIDEOS | LISTS or frame_number(entry.name) is not None:
            where = f"leaves {str(self.root)!r}: it leads to {target!r} and is not followed"
            self.problems.add(f"the link {entry.path!r} {where}; copy its target, or give a folder above both")
        return False


def _left_out(here: Listing) -> Iterator[str]:
    images = [name for name in here.files if frame_number(name) is not None]
    animated = [name for name in images if suffix_of(name) == ".webp" and is_animated_webp(here.path / name)]
    for name in (*here.left_out, *animated):
        if is_other_name(name):
            why = f"suffix {suffix_of(name)} is not that of a video"
        elif is_animated_webp(here.path / name):
            why = "animated WebP, which FFmpeg does not read; convert it, for example to MP4"
        else:
            why = "its suffix is unknown, and its content does not start like a video"
        yield printable(f"{str(here.path / name)!r} is no clip: {why}")
    if still := len(images) - len(animated):
        expected = "expected one folder of frames per clip"
        yield printable(f"{str(here.path)!r} holds {still} numbered images that are no clip: {expected}")


def _mode(entry: os.DirEntry[str]) -> int:
    """The type of an entry, of the target of a link; 0 if there is no target."""
    try:
        return entry.stat().st_mode
    except OSError:
        return 0


def _is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder or below it; both without links."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
