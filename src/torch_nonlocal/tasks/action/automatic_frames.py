"""The automatic choice of the frames of a clip, `frames="auto"`, from the lengths of the videos.

Clips that were cut around their action are short: 8 frames spread over the whole clip show all of the action, a window
only a part. In long videos the action is anywhere, and frames spread over the video are too far apart to show motion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from torch_nonlocal._common.text import counted
from torch_nonlocal.data.clip_list import Clip, ClipList, sampled
from torch_nonlocal.data.dataset import span_in_file
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.media.lengths import Length, video_length
from torch_nonlocal.media.sampling import parse_schedule

UNIFORM, WINDOW = "uniform-8", "8x8"
"""The frames to choose from."""
_SAMPLED = 32
_SECONDS = 20.0  # a longer clip is long, at any frame rate
_WINDOWS = 10  # a folder of images is long if it has more windows than this, which last 20 s at about 30 fps
_MOST_LONG = 0.25  # share of long clips up to which frames are spread over whole clips


@dataclass(frozen=True)
class AutomaticFrames:
    """A choice.

    Attributes:
        frames: the schedule.
        reason: one line for the start of a run.
    """

    frames: str
    reason: str


def automatic_frames(lengths: Sequence[Length], *, sampled: bool = True) -> AutomaticFrames:
    """Choose uniform clips or windows.

    Uniform clips are chosen unless more than a quarter of the clips are long: more than 20 s, or for folders of images,
    which have no time, more than ten windows of 8x8, 640 frames.

    Args:
        lengths: of clips of the data, as they are read: at their frame rate and between start and end; none if unknown.
        sampled: whether they are a sample, for the reason.
    """
    start = "chosen automatically: "
    if not lengths:
        return AutomaticFrames(WINDOW, f"frames {WINDOW}, {start}the lengths of the clips are unknown")
    window = parse_schedule(WINDOW).span or 1
    frames = [one.frames for one in lengths]
    seconds = [one.seconds for one in lengths if one.seconds is not None]
    lasting = f", {median(seconds):.1f} s" if seconds else ""
    middle = f"{median(frames):,.0f} frames{lasting}"
    most = max(frames)
    long = [one for one in lengths if _is_long(one, window)]
    of = f" ({counted(len(lengths), 'clip')} sampled)" if sampled else ""
    clips = f"the median clip has {middle}, the longest {most:,} frames{of}"
    if len(long) > _MOST_LONG * len(lengths):
        why = f"windows of {window} frames, since 8 frames spread over long clips are too far apart to show motion"
        return AutomaticFrames(WINDOW, f"frames {WINDOW}, {start}{clips}: {why}")
    share = min(window / median(frames), 1.0)
    shown = f"a window of {window} frames shows {share:.0%} of it" if share < 1 else f"a window has {window}"
    return AutomaticFrames(UNIFORM, f"frames {UNIFORM}, {start}{clips}: 8 frames cover a whole clip; {shown}")


def _is_long(one: Length, window: int) -> bool:
    return one.frames > _WINDOWS * window if one.seconds is None else one.seconds > _SECONDS


def sampled_lengths(clips: ClipList, fps: float | None = None) -> list[Length]:
    """Lengths of up to 32 clips of a list, evenly spaced; unreadable ones are left out.

    Args:
        clips: their headers are read; files are not decoded.
        fps: frames per second to which videos are resampled; None for their own.
    """
    found = []
    for clip in sampled(clips, _SAMPLED):
        try:
            length = _used(clip, video_length(clip.path))
        except BrokenVideoError:
            continue
        if fps is not None and length.seconds is not None:
            length = Length(round(length.seconds * fps), length.seconds)
        if length.frames > 0:
            found.append(length)
    return found


def _used(clip: Clip, file: Length) -> Length:
    """The length of the part of a file that a clip has."""
    if clip.frames is not None and file.frames:
        count = clip.frames[1]
        return Length(count, file.seconds and file.seconds * count / file.frames)
    if file.seconds is None:
        return file
    start, end = span_in_file(clip, file.seconds)
    seconds = min(file.seconds if end is None else end, file.seconds) - (start or 0.0)
    return Length(round(file.frames * seconds / file.seconds), seconds)
