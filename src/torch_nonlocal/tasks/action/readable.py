"""Check before training that clips can be read, so that a mistake shows in seconds and not after an epoch."""

from torch_nonlocal.data.dataset import ViewDataset
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.media.frame_folders import frame_files
from torch_nonlocal.media.frame_times import frame_rate

_FIRST = 8  # clips tried first, spread over the list


def check_readable(views: ViewDataset, what: str, *, all_of_them: bool) -> None:
    """Read one clip as training does; with `all_of_them`, also open every clip.

    Args:
        views: one view per clip, with on_error="skip".
        what: description of the clips, such as "validation".
        all_of_them: whether every clip must open.

    Raises:
        ValueError: no clip can be read, or one does not open.
    """
    clips = views.clips
    if all_of_them:
        for clip in clips.clips:
            if clip.path.is_dir():
                frame_files(clip.path)
            else:
                frame_rate(clip.path)
    total = len(clips)
    spread = [number * total // _FIRST for number in range(_FIRST)]
    for index in dict.fromkeys([*spread, *range(total)]):
        if views[index] is not None:
            return
    entry = views.broken.entries()[0]
    raise BrokenVideoError(f"none of the {total} {what} clips can be read; the first: {entry.reason}", "unreadable")
