"""How much time a clip covers at the frame rates of the data, and whether videos have too few frames for it."""

from collections.abc import Sequence

from torch_nonlocal._common.text import counted
from torch_nonlocal.data.clip_list import ClipList, sampled
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.media.frame_times import frame_rate
from torch_nonlocal.media.lengths import Length
from torch_nonlocal.media.sampling import Schedule
from torch_nonlocal.tasks.action.settings import ActionSettings

_SAMPLED = 16
DIFFERENT = 1.5
"""Ratio of the highest to the lowest frame rate from which on they are reported as different."""


def span_lines(clips: ClipList, settings: ActionSettings) -> list[str]:
    """Lines with the time that a window spans, and a warning if frame rates differ much; none for uniform clips.

    Args:
        clips: the headers of up to 16 of them are read.
        settings: frames of a clip, and the rate to which videos are resampled.
    """
    span = settings.schedule.span
    if span is None:
        return []
    if settings.fps is not None:
        return [f"a clip spans {span} frames at {settings.fps:g} fps: {span / settings.fps:.1f} s"]
    rates = sorted(_rates(clips))
    if not rates:
        return [f"a clip spans {span} frames"]
    low, high = rates[0], rates[-1]
    if round(low, 2) == round(high, 2):
        return [f"a clip spans {span} frames: {span / low:.1f} s at {low:.4g} fps"]
    both = f"{span / high:.1f} s at {high:.4g} fps to {span / low:.1f} s at {low:.4g} fps"
    lines = [f"a clip spans {span} frames: {both} ({len(rates)} clips sampled)"]
    if high / low >= DIFFERENT:
        middle = rates[len(rates) // 2]
        lines.append(f"warning: the frame rates differ; --fps {middle:.4g} gives all clips the same span")
    return lines


def repeat_lines(lengths: Sequence[Length], schedule: Schedule) -> list[str]:
    """A line about videos with fewer frames than a clip; none if there are none.

    Args:
        lengths: of a sample of the videos.
        schedule: the frames of a clip.
    """
    short = sum(one.frames < schedule.length for one in lengths)
    if not short:
        return []
    few = f"{short} of {counted(len(lengths), 'sampled clip')}"
    return [f"note: {few} have fewer than {counted(schedule.length, 'frame')}: {repeat_rule(schedule)}"]


def repeat_rule(schedule: Schedule) -> str:
    """How frames repeat in a video that has fewer frames than a clip."""
    return "frames repeat in order" if schedule.is_uniform else "they repeat from the start"


def check_rates(clips: ClipList, settings: ActionSettings) -> None:
    """Check that clips can be resampled.

    Raises:
        ValueError: a frame rate is set, and a clip is a folder of images.
    """
    if settings.fps is None:
        return
    for clip in clips.clips:
        if clip.path.is_dir():
            problem = f"{clips.name(clip)!r} is a folder of images, which has no frame rate"
            raise ValueError(f"fps={settings.fps:g}: {problem}; expected no fps, or videos only")


def _rates(clips: ClipList) -> list[float]:
    found = []
    for clip in sampled(clips, _SAMPLED):
        try:
            rate = frame_rate(clip.path)
        except BrokenVideoError:
            continue
        found += [] if rate is None else [rate]
    return found
