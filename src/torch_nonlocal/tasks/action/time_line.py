"""The classes of a long video over time: one prediction per interval.

A window lies around the middle of its interval, and may reach beyond the interval; near the ends of the video it is
moved inside. A uniform clip has one frame of each of equal parts of the interval itself. Shapes: T
frames, V crops, H height, W width.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from torch_nonlocal.data.dataset import check_frames
from torch_nonlocal.media.decode import read_sampled
from torch_nonlocal.media.frame_times import frame_times, frames_between
from torch_nonlocal.media.sampling import uniform_clips
from torch_nonlocal.media.transforms import View
from torch_nonlocal.tasks.action.classifier import ActionClassifier, Prediction
from torch_nonlocal.tasks.action.views_to_predict import ViewOptions

MOST_ROWS = 100_000
_EPSILON = 1e-6  # more than a rounding error, less than a frame
_HELD = 1 << 27  # bytes of frames in memory at a time; reading more at once lists the frames of the file less often


class Interval(NamedTuple):
    """A part of a video in seconds, the frames of its clip, and the number of frames that they were chosen from."""

    start: float
    end: float
    frames: list[int]
    total: int


def time_line(
    model: ActionClassifier,
    path: Path,
    *,
    every: float,
    crops: Any = 3,
    threshold: float = 0.5,
    batch: int = 8,
    on_rows: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Predict the classes of a video over time.

    Args:
        model: a trained network.
        path: a video.
        every: length of an interval in seconds.
        crops: crops of a clip: 1, 3, or "full" for the whole frame.
        threshold: probability from which a class is predicted where a clip can have several.
        batch: crops per forward pass.
        on_rows: called with the number of finished intervals and their total.

    Returns:
        One prediction per interval, with its start and end in seconds.

    Raises:
        BrokenVideoError: (a ValueError) the file cannot be read, has a single frame, or is a
            folder of images, which has no frame rate.
        ValueError: `every` is not above 0, or gives more than 100,000 intervals.
    """
    if not every > 0:
        raise ValueError(f"every: got {every:g}, expected seconds above 0")
    options = ViewOptions(model.settings, model.classes, 1, crops)
    plan = _Plan(path, every, options)
    found: list[Prediction] = []
    while not plan.is_done:
        views: list[View] = []

        def cut(frame_HWC: Tensor, views: list[View] = views) -> Tensor:
            if not views:
                views.append(options.transform.view(*frame_HWC.shape[:2]))
            return views[0].cut(frame_HWC)

        cuts = read_sampled(path, plan.next_frames, cut)
        clips = cuts.split(options.settings.schedule.length)
        items = [(views[0].finish(clip_TVCHW), 0, number) for number, clip_TVCHW in enumerate(clips)]
        probabilities, _ = model.probabilities(items, batch=batch)
        for one, row in zip(plan.take(len(items)), probabilities, strict=True):
            about = {"clip": str(path), "start": one.start, "end": one.end, "note": options.note(one.total)}
            found.append(model.prediction(row, threshold=threshold, **about))
        if on_rows is not None:
            on_rows(len(found), plan.total)
    return found


class _Plan:
    """The intervals of a video. They are known when it is opened, and taken in order, some at a time."""

    def __init__(self, path: Path, every: float, options: ViewOptions) -> None:
        self._path, self._every, self._options = path, every, options
        self._at_a_time = max(1, _HELD // _bytes_of_clip(options))
        self._frames = self._done = 0
        self._intervals: list[Interval] = []

    @property
    def total(self) -> int:
        """Number of intervals."""
        return len(self._intervals)

    @property
    def is_done(self) -> bool:
        """Whether all are taken."""
        return 0 < self.total <= self._done

    def next_frames(self, total: int) -> list[int]:
        """Frames of the next intervals; `total` is the number of frames of the video."""
        if total != self._frames:
            self._frames, self._intervals = total, _intervals(self._path, total, self._every, self._options)
        following = self._intervals[self._done : self._done + self._at_a_time]
        return [frame for one in following for frame in one.frames]

    def take(self, count: int) -> list[Interval]:
        """The next intervals, which are then done."""
        self._done += count
        return self._intervals[self._done - count : self._done]


def _intervals(path: Path, total: int, every: float, options: ViewOptions) -> list[Interval]:
    times = frame_times(path, total)
    seconds = float(times.duration)
    frames = frames_between(path, times, fps=options.settings.fps)
    check_frames(total, repr(str(path)))
    count = ceil(seconds / every - _EPSILON)  # a rounding error is no interval
    if count > MOST_ROWS:
        raise ValueError(
            f"every={every:g} s gives {count:,} intervals of {str(path)!r}: expected at most {MOST_ROWS:,}"
        )
    schedule = options.settings.schedule
    first, last = ([], []) if schedule.is_uniform else uniform_clips(len(frames), *schedule, 2)
    rate = options.settings.fps
    begins = [
        float((times.ticks[frame] - times.ticks[0]) * times.tick) if rate is None else number / rate
        for number, frame in enumerate(frames)
    ]
    found = []
    for number in range(max(count, 1)):
        start, end = number * every, min((number + 1) * every, seconds)
        middle = max(bisect_right(begins, (start + end) / 2) - 1, 0)
        if schedule.is_uniform:
            first_inside, stop = (bisect_left(begins, limit - _EPSILON) for limit in (start, end))
            inside = frames[first_inside:stop] or [frames[middle]]
            (chosen,) = uniform_clips(len(inside), *schedule, 1)
            found.append(Interval(start, end, [inside[index] for index in chosen], len(inside)))
        else:
            shift = min(max(middle - first[-1] // 2, 0), last[0])
            found.append(Interval(start, end, [frames[index + shift] for index in first], len(frames)))
    return found


def _bytes_of_clip(options: ViewOptions) -> int:
    length, _ = options.settings.schedule
    side = ceil(options.settings.crop * 256 / 224)
    return 2 * 3 * 3 * length * side**2  # three crops, or a whole frame of a wide video
