"""Find the clips of a dataset: folders of classes, or the lists that datasets publish."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch_nonlocal._common.collector import paused_collector
from torch_nonlocal._common.files import printable
from torch_nonlocal._common.text import did_you_mean, near_path
from torch_nonlocal.data.clip_list import ClipList, OnError, Problems
from torch_nonlocal.data.dataset_lists import Lists, find_lists, lists_of_file, unused_lists
from torch_nonlocal.data.folders import SPLITS, clips_of_folders, split_folders
from torch_nonlocal.data.listed_clips import clips_of_lists
from torch_nonlocal.data.locate import Locator
from torch_nonlocal.data.recordings import several_streams
from torch_nonlocal.data.suffixes import is_other_name, is_video_name, starts_like_video
from torch_nonlocal.data.tree import Tree

Data = str | os.PathLike[str]


@dataclass(frozen=True)
class Where:
    """Where the clips of lists are.

    Attributes:
        root: folder of the clips that lists name; None for the folder of the data or of the list.
        prefix: start of listed names that is removed before they are looked up.
        fold: number of the split of UCF101 and HMDB51, 1 to 3, or value of the column "fold" whose clips are tested.
    """

    root: Data | None = None
    prefix: str = ""
    fold: int = 1


def find_clips(
    root: Data,
    split: str | None = None,
    *,
    fold: int = 1,
    on_error: OnError = "fail",
    clip_root: Data | None = None,
    prefix: str = "",
) -> ClipList:
    """Find the clips of a dataset and their classes, without reading the videos.

    Supported layouts, tried in this order: lists in the folder (see docs/lists.md for the formats); folders of classes,
    in the root or below train, val and test. A clip is a video file or a folder of numbered images; files of unknown
    suffixes are clips if their first bytes are those of a video. Names in lists are relative to the root (or absolute)
    and are searched below it, never outside.

    If no file lists the class names and at least three of four lines have a numeric class, classes are numbers, and a
    line with another class is an error.

    Args:
        root: the dataset's folder, or a single list, whose clips are below its folder.
        split: "train", "val" or "test"; "val" and "test" substitute for each other if one is missing. None takes all
            clips.
        fold: number of the split of UCF101 and HMDB51, 1 to 3, or value of the column "fold" whose clips are tested.
        on_error: "fail" raises for the first problem; "skip" skips the clip and reports it in `ClipList.problems`.
        clip_root: folder of the clips that lists name, if it is not that of the data.
        prefix: start of listed names that is removed, such as the folder of the clips on another machine.

    Returns:
        The clips, in the deterministic order of their paths or lists. Labels have the same meaning in every split:
        classes are those that the dataset lists, else those of its training clips. With on_error="skip" the list is
        empty if every line is invalid.

    Raises:
        ValueError: no clips, no such split, or a root that is a video; and, with file and line, a class that is
            unknown, out of range or without clips, a path outside the root, a malformed line, a clip in two classes,
            or a name that matches several files; a list whose columns are unclear.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected {', '.join(map(repr, SPLITS))} or None for all")
    where = Where(clip_root, prefix, fold)
    with paused_collector():
        tree, lists = _opened(Path(root), where, Problems(on_error))
        return _clips(Path(root), tree, lists, split, where)


def available_splits(root: Data, *, fold: int = 1) -> tuple[str, ...]:
    """The splits of a dataset: some of "train", "val", "test"; none for plain folders of classes and plain lists.

    Raises:
        ValueError: a list is malformed.
    """
    if not os.path.exists(root) or not (os.path.isdir(root) or os.path.isfile(root)):
        return ()
    tree, lists = _opened(Path(root), Where(fold=fold), Problems("skip"))
    return _splits(tree, lists)


def clips_by_split(root: Data, where: Where, on_error: OnError, others: Mapping[str, Data]) -> dict[str, ClipList]:
    """The clips of each split; all clips as "all" if the dataset does not have a training split and another one.

    Args:
        root: the dataset's folder or list.
        where: where the clips of lists are.
        on_error: as for `find_clips`.
        others: folders or lists of "val" and "test" beside the dataset, whose clips are for training then.

    Raises:
        ValueError: as for `find_clips`.
    """
    with paused_collector():
        tree, lists = _opened(Path(root), where, Problems(on_error))
        splits = _splits(tree, lists)
        if others:
            split = "train" if "train" in splits else None
            train = _clips(Path(root), tree, lists, split, where)
            return {"train": train} | {name: _other(train, other, where, on_error) for name, other in others.items()}
        if "train" not in splits or len(splits) < 2:
            return {"all": _clips(Path(root), tree, lists, None, where)}
        # A tree per split collects its problems.
        return {split: _clips(Path(root), Tree(tree.root, Problems(on_error)), lists, split, where) for split in splits}


def _other(train: ClipList, root: Data, where: Where, on_error: OnError) -> ClipList:
    """The clips of another folder or list, with the labels of the training clips."""
    tree, lists = _opened(Path(root), where, Problems(on_error))
    found = _clips(Path(root), tree, lists, None, where, needs_all_classes=False)
    numbers = {name: number for number, name in enumerate(train.classes)}
    used = sorted({label for clip in found.clips for label in clip.all_labels})
    if unknown := [found.classes[label] for label in used if found.classes[label] not in numbers]:
        hint = did_you_mean(unknown[0], numbers, cutoff=0.6) or f"expected one of {len(numbers)} classes"
        raise ValueError(f"{os.fspath(root)!r} has clips of class {unknown[0]!r}, which is not trained on; {hint}")
    labels = [numbers.get(name, -1) for name in found.classes]
    clips = tuple(
        clip._replace(label=labels[clip.label], labels=tuple(labels[one] for one in clip.labels))
        for clip in found.clips
    )
    return replace(found, classes=train.classes, clips=clips)


def _opened(root: Path, where: Where, problems: Problems) -> tuple[Tree, Lists | None]:
    """The folders of the dataset, and its lists."""
    if not os.path.exists(root):
        raise ValueError(f"no folder or list of clips {str(root)!r}{near_path(root)}")
    if root.is_file():
        if is_video_name(root.name) or (not is_other_name(root.name) and starts_like_video(root)):
            expected = "expected a folder of clips, or a list in text; give the folder above it that holds all classes"
            raise ValueError(f"{str(root)!r} is a video: {expected}")
        tree = Tree(root.parent, problems)
        files = [root.parent / name for name in tree.listing(tree.root).lists]
        return tree, lists_of_file(root, files, where.fold)
    if not root.is_dir():
        raise ValueError(f"{str(root)!r} is neither a folder nor a regular file: expected a folder of clips, or a list")
    if where.root is not None and not os.path.isdir(where.root):
        raise ValueError(f"no folder of clips {os.fspath(where.root)!r}{near_path(where.root)}")
    tree = Tree(root, problems)
    return tree, find_lists(tree, where.fold)


def _splits(tree: Tree, lists: Lists | None) -> tuple[str, ...]:
    return tuple(split_folders(tree)) if lists is None else tuple(split for split in lists.splits if split != "all")


def _clips(
    root: Path,
    tree: Tree,
    lists: Lists | None,
    split: str | None,
    where: Where,
    *,
    needs_all_classes: bool | None = None,
) -> ClipList:
    if lists is None:
        folders = split_folders(tree)
        clips = clips_of_folders(tree, folders, _chosen(split, tuple(folders), root), tree.problems)
        return _with_streams(replace(clips, recognized=printable(unused_lists(tree))))
    tree.listing(tree.root)  # reports links of lists that are not followed
    clip_tree = tree if where.root is None else Tree(Path(where.root), tree.problems)
    description = "the folder of the list" if root.is_file() else "the data folder"
    locate = Locator(clip_tree, description if where.root is None else "the given root", where.prefix)
    chosen = None if "all" in lists.splits else _chosen(split, tuple(lists.splits), root)
    needed = split in (None, "train") if needs_all_classes is None else needs_all_classes
    return _with_streams(clips_of_lists(locate, lists, chosen, tree.problems, needs_all_classes=needed))


def _with_streams(clips: ClipList) -> ClipList:
    """The clips with a line about recordings that have several streams, such as color and depth."""
    root = f"{clips.root}{os.sep}"
    line = several_streams([str(clip.path).removeprefix(root).replace(os.sep, "/") for clip in clips.clips])
    return replace(clips, notes=(*clips.notes, printable(line))) if line else clips


def _chosen(split: str | None, available: tuple[str, ...], root: Path) -> str | None:
    """The split to use; "val" and "test" substitute for each other."""
    if split is None or split in available:
        return split
    substitute = {"val": "test", "test": "val"}.get(split)
    if substitute in available:
        return substitute
    has = f"it has {', '.join(available)}"
    if not available:
        has = "it has no splits; omit the split (training holds out a fifth automatically)"
    raise ValueError(f"{str(root)!r} has no split {split!r}: {has}")
