"""Datasets as folders: one folder per class, optionally below a folder per split."""

from __future__ import annotations

from pathlib import Path

from torch_nonlocal._common.files import encodable
from torch_nonlocal.data.clip_list import Clip, ClipList, Problems
from torch_nonlocal.data.suffixes import VIDEOS
from torch_nonlocal.data.tree import Found, Tree

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing"),
}
"""Names of the folder or list of each split."""

_SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}

LAYOUT = "expected ROOT/CLASS/clip.mp4, ROOT/train/CLASS/clip.mp4 (and val or test), or lists such as ROOT/train.csv"


def split_named(name: str) -> str:
    """The split that a folder, list or cell names; "" for another name."""
    return _SPLIT_OF.get(name.lower(), "")


def split_folders(tree: Tree) -> dict[str, Path]:
    """The folders of the splits, by split. A folder "train" that contains clips is a class, not a split."""
    found = {}
    by_name = {folder.name.lower(): folder for folder in tree.folders(tree.root)}
    for split, names in SPLITS.items():
        for name in names:
            folder = by_name.get(name)
            if folder is not None and split not in found and _holds_classes(tree, folder):
                found[split] = folder
    return found


def _holds_classes(tree: Tree, folder: Path) -> bool:
    inside = tree.listing(folder)
    if not inside.is_whole:  # unreadable: its name decides, so that another split does not take its place
        return True
    return not inside.videos and any(not tree.listing(one).frames for one in tree.folders(folder))


def clips_of_folders(tree: Tree, splits: dict[str, Path], split: str | None, problems: Problems) -> ClipList:
    """The clips of one split, or of all splits.

    A clip that links lead to more than once is used once, at its own path if it has one.

    Args:
        tree: the dataset's folders.
        splits: result of `split_folders`; empty if the classes are in the root.
        split: a key of `splits`; None for all.
        problems: collects classes without clips, and links that put a clip into a second class.

    Raises:
        ValueError: no folders of classes, or no clips.
    """
    root = tree.root
    tops = list(splits.values()) or [root]
    classes = tuple(sorted({encodable(folder.name) for top in tops for folder in tree.folders(top)}))
    if not classes:
        loose = len(tree.listing(root).videos)
        clips = f"{loose} clips but no folders of classes" if loose else "no clips"
        raise ValueError(f"{str(root)!r} has {clips}: {LAYOUT}")
    numbers = {name: number for number, name in enumerate(classes)}
    found: list[tuple[Found, int]] = []
    for top in [splits[split]] if split else tops:
        for folder in tree.folders(top):
            inside = tree.clips(folder)
            if not inside and tree.listing(folder).is_whole:
                problems.add(_empty_class(tree, folder))
            found += [(clip, numbers[encodable(folder.name)]) for clip in inside]
    clips = _once(found, classes, problems)
    if not clips:
        first = f"; {problems.found[0]}" if problems.found else ""
        raise ValueError(f"{str(root)!r} has no clips: {LAYOUT}; suffixes of clips: {', '.join(sorted(VIDEOS))}{first}")
    return ClipList(root, classes, clips, tuple(problems.found), left_out=tree.left_out)


def _once(found: list[tuple[Found, int]], classes: tuple[str, ...], problems: Problems) -> tuple[Clip, ...]:
    chosen: dict[str, tuple[Path, int]] = {}
    for clip, label in sorted(found, key=lambda one: one[0].is_linked):  # stable
        path, other = chosen.setdefault(clip.real, (clip.path, label))
        if other != label:
            both = f"{classes[label]!r}, and {str(path)!r} in {classes[other]!r}"
            problems.add(f"{str(clip.path)!r} is a link to a clip of another class: it is in {both}; it is used once")
    return tuple(Clip(clip.path, label) for clip, label in found if chosen[clip.real][0] == clip.path)


def _empty_class(tree: Tree, folder: Path) -> str:
    pictures = tree.listing(folder).frames
    hint = f"; it has {pictures} images: expected one folder of frames per clip" if pictures else ""
    return f"class {folder.name!r} is empty: no clip in {str(folder)!r}{hint}"
