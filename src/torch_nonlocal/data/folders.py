"""Datasets as folders: one folder per class, optionally below a folder per split."""

from __future__ import annotations

import os
from pathlib import Path

from torch_nonlocal.data.clip_list import Clip, ClipList, Problems
from torch_nonlocal.media.frame_folders import frame_files

VIDEOS = frozenset(
    [
        ".3gp",
        ".asf",
        ".avi",
        ".flv",
        ".gif",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
        ".y4m",
    ]
)
"""Suffixes of video files; the content is checked when a file is read."""

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Names of the folder or list of each split."""

LAYOUT = "expected ROOT/CLASS/clip.mp4, ROOT/train/CLASS/clip.mp4 (and val or test), or lists such as ROOT/train.csv"


def visible_folders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted by name."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def is_video_name(name: str) -> bool:
    """Whether a file name is that of a video."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEOS


def clips_below(folder: Path) -> list[Path]:
    """Video files and folders of frames at any depth below a folder, sorted by path."""
    found: list[Path] = []
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(here))  # a link to a parent folder would never end
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and os.path.realpath(Path(here, name)) not in seen
        )
        videos = [Path(here, name) for name in names if is_video_name(name)]
        if not videos and Path(here) != folder and frame_files(here, names):
            found.append(Path(here))
            folders.clear()
        found += videos
    return sorted(found)


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits, by split. A folder "train" that contains clips is a class, not a split."""
    found = {}
    by_name = {folder.name.lower(): folder for folder in visible_folders(root)}
    for split, names in SPLITS.items():
        for name in names:
            folder = by_name.get(name)
            if folder is not None and split not in found and _holds_classes(folder):
                found[split] = folder
    return found


def _holds_classes(folder: Path) -> bool:
    inside = visible_folders(folder)
    if any(is_video_name(entry.name) for entry in folder.iterdir() if entry.is_file()):
        return False
    return any(not frame_files(one) for one in inside)


def clips_of_folders(root: Path, splits: dict[str, Path], split: str | None, problems: Problems) -> ClipList:
    """The clips of one split, or of all splits.

    Args:
        root: the dataset's folder.
        splits: result of `split_folders`; empty if the classes are in the root.
        split: a key of `splits`; None for all.
        problems: collects classes without clips.

    Raises:
        ValueError: no folders of classes, or no clips.
    """
    tops = list(splits.values()) or [root]
    classes = tuple(sorted({folder.name for top in tops for folder in visible_folders(top)}))
    if not classes:
        loose = sum(is_video_name(entry.name) for entry in root.iterdir())
        found = f"{loose} clips but no folders of classes" if loose else "no clips"
        raise ValueError(f"{str(root)!r} has {found}: {LAYOUT}")
    clips = []
    for top in [splits[split]] if split else tops:
        for folder in visible_folders(top):
            paths = clips_below(folder)
            if not paths:
                problems.add(_empty_class(folder))
            clips += [Clip(path, classes.index(folder.name)) for path in paths]
    if not clips:
        raise ValueError(f"{str(root)!r} has no clips: {LAYOUT}; suffixes of clips: {', '.join(sorted(VIDEOS))}")
    return ClipList(root, classes, tuple(clips), tuple(problems.found))


def _empty_class(folder: Path) -> str:
    pictures = len(frame_files(folder))
    hint = f"; it has {pictures} images: expected one folder of frames per clip" if pictures else ""
    return f"class {folder.name!r} is empty: no clip in {str(folder)!r}{hint}"
