"""Clips that a user names one by one: files, folders and patterns."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from torch_nonlocal._common.text import near_path
from torch_nonlocal.data.clip_list import Problems
from torch_nonlocal.data.tree import Tree


def given_clips(names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Find the clips that names stand for, each once, in the order of the names.

    Args:
        names: videos, folders of frames, folders with videos at any depth, or patterns of these such as "*.mp4" and
            "**/*.mp4".

    Returns:
        The clips, and problems: folders that cannot be read, and links that leave a folder.

    Raises:
        ValueError: a name does not exist, a pattern matches nothing, or a folder has no clips.
    """
    if not names:
        raise ValueError("expected a video, a folder or a pattern such as 'clips/*.mp4'")
    problems = Problems("skip")
    found: dict[Path, None] = {}
    for name in names:
        matches = [name] if os.path.lexists(name) else sorted(glob.glob(name, recursive=True))
        if not matches:
            raise ValueError(_not_found(name))
        clips = [clip for match in matches for clip in _clips_at(Path(match), problems)]
        if not clips:
            raise ValueError(f"{name!r} has no clips: expected videos, or folders of numbered images")
        found |= dict.fromkeys(clips)
    return list(found), problems.found


def _clips_at(path: Path, problems: Problems) -> list[Path]:
    if not path.is_dir():
        return [path]
    tree = Tree(path, problems)
    here = tree.listing(path)
    if here.frames and not here.videos:
        return [path]
    return [clip.path for clip in tree.clips(path)]


def _not_found(name: str) -> str:
    if glob.has_magic(name):
        return f"no file matches {name!r}"
    folder = Path(name).parent
    missing = "" if folder.is_dir() else f": there is no folder {str(folder)!r}"
    return f"no file {name!r}{missing}{near_path(name)}"
