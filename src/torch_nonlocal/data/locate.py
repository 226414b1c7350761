"""Find the files that lists name: below a folder, never outside."""

from __future__ import annotations

import os
import re
import stat
import sys
from itertools import chain
from pathlib import PurePosixPath

from torch_nonlocal._common.text import excerpt
from torch_nonlocal.data.entries import Entry
from torch_nonlocal.data.suffixes import is_video_name
from torch_nonlocal.data.tree import Tree
from torch_nonlocal.media.frame_names import frame_number

_NORMAL = re.compile(r"[^/\\.\0][^/\\\0]*(?:/[^/\\.\0][^/\\\0]*)*")  # no "..", no empty part, nothing to normalize
_EXACT_NAMES = sys.platform not in ("win32", "darwin")
_DRIVE = re.compile(r"[A-Za-z]:")


class Locator:
    """Find listed names below a folder. The folders are walked once, when a name is not at its listed path.

    Args:
        tree: the folders of the clips.
        description: the folder, for messages.
        prefix: start of listed names that is removed.
    """

    def __init__(self, tree: Tree, description: str, prefix: str = "") -> None:
        self.root = tree.root
        self._top = os.fspath(tree.root).rstrip("/")
        self._tree = tree
        self._description = description
        self._prefix = prefix
        self._real_root = os.path.realpath(tree.root)
        self._names: dict[str, dict[str, bool] | None] = {}  # by folder: its entries, and whether each is a link
        self._by_stem: dict[str, list[PurePosixPath]] | None = None
        self.substitutes: dict[str, str] = {}
        """The listed name of each clip that was found under another suffix, by its path relative to the root."""

    def __call__(self, entry: Entry) -> tuple[str, str, int]:
        """The path of the entry's clip, the problem of its names ("" for none), and which of the names exists.

        The place is -1 for a clip that does not exist, which is at its first name. Problems are names outside the root,
        links that leave it, and names that match several files.
        """
        insides = []
        for name in entry.names:
            inside = self._inside(name)
            if inside is None:
                rule = f"paths in a list are relative to {self._description} and must be below it"
                outside = f"{excerpt(name)!r} is outside {self._top!r}"
                advice = "move the list to a folder above its clips, or give the folder of the clips as root"
                return self._top, f"{entry.where}: {outside}: {rule}; {advice}", -1
            insides.append(inside)
        candidates = ((place, *self._found(inside)) for place, inside in enumerate(insides))
        others = ((place, *self._of_another_suffix(inside)) for place, inside in enumerate(insides))
        for place, found, is_link in chain(candidates, others):
            if not found:
                continue
            path = f"{self._top}/{found[0]}"
            if not self._tree.is_inside(path, is_link=is_link):
                target = f"it leads to {os.path.realpath(path)!r}"
                shown = excerpt(entry.names[place])
                return path, f"{entry.where}: {shown!r} is a link that leaves {self._top!r}: {target}", place
            if len(found) > 1:
                several = f"matches several files: {', '.join(found[:3])}"
                return path, f"{entry.where}: {excerpt(entry.names[place])!r} {several}", place
            return path, "", place
        return f"{self._top}/{insides[0]}", "", -1

    def not_found(self, entry: Entry) -> str:
        """The message for a missing clip: where it is listed, and which names were tried."""
        names = [name if PurePosixPath(name).suffix else f"{name}.*" for name in entry.names]
        return f"{entry.where}: no clip {' or '.join(repr(excerpt(name)) for name in names)} below {self._top!r}"

    def _inside(self, name: str) -> str | None:
        """A name as a normalized path relative to the root; None if it is outside."""
        if self._prefix:
            name = _without(name.replace("\\", "/"), self._prefix.replace("\\", "/"))
        if _NORMAL.fullmatch(name) and name[1:2] != ":":
            return name
        path = name.replace("\\", "/")
        if "\0" in path:
            return None
        path = self._from_root(path) if os.path.isabs(path) else os.path.normpath(path)
        if _leaves(path) or path == "." or os.path.isabs(path) or _DRIVE.match(path):
            return None
        return path

    def _from_root(self, path: str) -> str:
        """An absolute path relative to the root; both may contain symbolic links."""
        relative = os.path.relpath(path, self.root.absolute())
        if _leaves(relative):
            relative = os.path.relpath(path, self._real_root)
        if _leaves(relative):
            folder, name = os.path.split(path)
            relative = os.path.relpath(os.path.join(os.path.realpath(folder), name), self._real_root)
        return relative

    def _found(self, path: str) -> tuple[list[str], bool]:
        """The files that a normalized path may mean, relative to the root, and whether the first is a link."""
        folder, _, base = path.rpartition("/")
        if folder not in self._names:
            self._names[folder] = _names_in(os.path.join(self._top, folder))
        names = self._names[folder]
        if names and (is_link := names.get(base)) is not None:
            is_id = not folder and "." not in base and self._holds_no_frames(path)  # or the folder of a class
            if not is_id or not (matching := self._by_name(path)):
                return [path], is_link
            return matching, os.path.islink(os.path.join(self._top, matching[0]))
        if names is None or not _EXACT_NAMES:  # the folder cannot be listed, or names on the disk may differ in case
            try:
                return [path], stat.S_ISLNK(os.lstat(os.path.join(self._top, path)).st_mode)
            except (OSError, ValueError):
                pass
        matching = self._by_name(path)
        return matching, bool(matching) and os.path.islink(os.path.join(self._top, matching[0]))

    def _by_name(self, path: str) -> list[str]:
        """The clips below the root whose path ends with a listed one, with or without a suffix."""
        if self._by_stem is None:
            self._by_stem = _index(self._tree)
        base = path.rpartition("/")[2]
        stem = base.rpartition(".")[0] or base
        candidates = self._by_stem.get(stem, [])
        if base != stem:
            candidates = [*candidates, *self._by_stem.get(base, ())]
        matching = []
        parts = tuple(path.split("/"))
        for candidate in candidates:
            end = candidate.parts[-len(parts) :]
            if end == parts or (*end[:-1], candidate.stem) == parts:
                matching.append(str(candidate))
        return matching

    def _of_another_suffix(self, path: str) -> tuple[list[str], bool]:
        """The clips whose path differs from that of a listed video in its suffix only, and whether the first is a link.

        A folder of frames has no suffix.
        """
        if not is_video_name(path.rpartition("/")[2]):
            return [], False
        stem = path.rpartition(".")[0]
        found = self._by_name(stem)
        if len(found) == 1:
            self.substitutes[found[0]] = path
        return found, bool(found) and os.path.islink(os.path.join(self._top, found[0]))

    def _holds_no_frames(self, path: str) -> bool:
        """Whether a path is a folder without images, which is no clip."""
        try:
            with os.scandir(os.path.join(self._top, path)) as entries:
                return not any(frame_number(entry.name) is not None for entry in entries)
        except OSError:
            return False


def _names_in(folder: str) -> dict[str, bool] | None:
    """The entries of a folder, and whether each is a link; none if there is no folder, None if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError):
        return None


def _without(name: str, prefix: str) -> str:
    return name[len(prefix) :].lstrip("/") if name.startswith(prefix) else name


def _leaves(path: str) -> bool:
    """Whether a normalized relative path starts with `..`."""
    return path == ".." or path.startswith("../")


def _index(tree: Tree) -> dict[str, list[PurePosixPath]]:
    """All clips below the root, by file name without suffix; a clip and links to it count once."""
    found: dict[str, list[PurePosixPath]] = {}
    known: set[str] = set()
    for path, real, _ in sorted(tree.clips(tree.root), key=lambda clip: clip.is_linked):
        if real not in known:
            known.add(real)
            found.setdefault(path.stem, []).append(PurePosixPath(path.relative_to(tree.root).as_posix()))
    return found
