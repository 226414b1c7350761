"""Datasets of video clips: random clips for training, fixed views for testing.

The random draws of an item depend only on the seed, the epoch and the item's index, not on the order of items, the
number of workers or the process, so an interrupted and resumed run sees the same clips. Clips are uint8;
`models.inputs.Inputs.normalize` makes a network's input of a batch of them.

Shapes: B clips of a batch, V views of a clip, T frames, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from torch_nonlocal._common.text import counted
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.clip_list import Clip, ClipList, OnError, Problems
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.media.decode import read_sampled
from torch_nonlocal.media.frame_times import FrameTimes, frame_times, frames_between
from torch_nonlocal.media.sampling import Schedule, random_clip, uniform_clips
from torch_nonlocal.media.transforms import EvalTransform, TrainTransform, View

_FEWEST_FRAMES = 2  # one frame is an image
_CUT_SECONDS = 1.0  # clips are cut at key frames or whole seconds


class _Videos(Dataset[Any]):
    """Common part of both datasets."""

    def __init__(
        self,
        clips: ClipList,
        sample: tuple[int, int | None],
        on_error: OnError,
        decode_timeout: float | None,
        broken: BrokenClips | None,
        fps: float | None,
    ) -> None:
        Problems(on_error)
        if fps is not None and not fps > 0:
            raise ValueError(f"fps: got {fps}, expected frames per second above 0, or None")
        if not len(clips):
            raise ValueError(f"no clips in {str(clips.root)!r}")
        self.clips = clips
        self.sample = Schedule(*sample)
        self.on_error = on_error
        self.decode_timeout = decode_timeout
        self.fps = fps
        self.broken = BrokenClips() if broken is None else broken
        self._unreadable: set[int] = set()

    def fingerprint(self) -> dict[str, Any]:
        """Label and size of each clip by its name; see `ClipList.fingerprint`."""
        return self.clips.fingerprint()

    def _label(self, video: int) -> int | Tensor:
        """The class of a video; where it can have several, 1.0 for each of its classes and 0.0 for others, (K,)."""
        clip = self.clips.clips[video]
        if not self.clips.is_multi_label:
            return clip.label
        label = torch.zeros(len(self.clips.classes))
        label[list(clip.all_labels)] = 1.0
        return label

    def _read(
        self, video: int, choose: Callable[[int], Sequence[int]], view_of: Callable[[int, int], View]
    ) -> Tensor | None:
        """Views of a video's chosen frames, (V, 3, T, H, W) uint8; None for a broken video, which is reported."""
        if video in self._unreadable:
            return None
        clip = self.clips.clips[video]
        path = clip.path

        def chosen(total: int) -> Sequence[int]:
            check_frames(total, repr(str(path)))
            if self.fps is None and clip.frames is not None:
                first, count = _frames_in_file(clip, total)
                return [first + index for index in choose(count)]
            if self.fps is None and clip.start is None and clip.end is None:
                return choose(total)
            times = frame_times(path, total, time_limit=self.decode_timeout)
            start, end = _span_of_frames(clip, times) or span_in_file(clip, float(times.duration))
            frames = frames_between(path, times, fps=self.fps, start=start, end=end)
            return [frames[index] for index in choose(len(frames))]

        try:
            return _views(path, chosen, view_of, self.decode_timeout)
        except BrokenVideoError as error:
            self.broken.add(path, error)
            if self.on_error == "fail":
                raise
            self._unreadable.add(video)
            return None


class ClipDataset(_Videos):
    """Random clips, randomly cropped and flipped; one item per video.

    A clip that cannot be read is reported to `broken`. With on_error="skip" the next readable one in the list replaces
    it, with its own label and index, independent of the workers.

    Args:
        clips: result of `find_clips`.
        sample: (length, stride) of a clip, such as `parse_schedule("8x8")` or `parse_schedule("uniform-8")`.
        transform: random crop and flip.
        seed: seed of the random draws.
        on_error: "skip", or "fail" to raise for a broken clip.
        decode_timeout: seconds after which a clip counts as broken; None for no limit.
        broken: report of broken clips; None creates one.
        fps: frames per second to which videos are resampled, by the nearest frame in time; None for their own frames.

    Raises:
        ValueError: the list is empty, `fps` is not above 0, or another value of `on_error`.
    """

    def __init__(
        self,
        clips: ClipList,
        sample: tuple[int, int | None],
        transform: TrainTransform,
        *,
        seed: int = 0,
        on_error: OnError = "skip",
        decode_timeout: float | None = 60.0,
        broken: BrokenClips | None = None,
        fps: float | None = None,
    ) -> None:
        super().__init__(clips, sample, on_error, decode_timeout, broken, fps)
        self.transform = transform
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the random draws, in this process and in workers that start later.

        Running workers keep their epoch, since one may be an epoch ahead; `training` calls this method in each worker.
        """
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor, int]:
        """A clip (3, T, H, W) uint8, its label(s), and the index of its video (of the replacement for a broken clip).

        Raises:
            BrokenVideoError: the clip is broken, with on_error="fail"; all clips are broken, with "skip".
        """
        index = _checked(index, len(self))
        for video in (*range(index, len(self)), *range(index)):
            generator = item_generator(self.seed, self.epoch, video)
            views = self._read(
                video,
                lambda total, generator=generator: random_clip(total, *self.sample, generator),
                lambda height, width, generator=generator: self.transform.view(height, width, generator),
            )
            if views is not None:
                return views[0], self._label(video), video
        raise BrokenVideoError(
            f"none of the {len(self)} clips in {str(self.clips.root)!r} can be read; see {self.broken.path}",
            "unreadable",
        )


class ViewDataset(_Videos):
    """Fixed views of every video: clips evenly spaced in time, each in all crops of the transform.

    An item is one clip of one video; `views` consecutive items belong to a video. In the batches of `collate_clips`,
    every crop is a clip; average the scores over equal indices. A video that cannot be read is reported to `broken` and
    omitted from the batches, never replaced.

    Args:
        clips: result of `find_clips`.
        sample: (length, stride) of a clip, as for `ClipDataset`.
        transform: one crop, three crops, or the whole frame.
        views: clips per video; the papers use 10.
        on_error: "skip", or "fail" to raise for a broken clip.
        decode_timeout: seconds after which a clip counts as broken; None for no limit.
        broken: report of broken clips; None creates one.
        fps: frames per second to which videos are resampled, by the nearest frame in time; None for their own frames.

    Raises:
        ValueError: the list is empty, `views` is below 1, `fps` is not above 0, or another value of `on_error`.
    """

    def __init__(
        self,
        clips: ClipList,
        sample: tuple[int, int | None],
        transform: EvalTransform,
        *,
        views: int = 10,
        on_error: OnError = "skip",
        decode_timeout: float | None = 60.0,
        broken: BrokenClips | None = None,
        fps: float | None = None,
    ) -> None:
        super().__init__(clips, sample, on_error, decode_timeout, broken, fps)
        if views < 1:
            raise ValueError(f"views: got {views}, expected 1 or more")
        self.transform = transform
        self.views = views

    def __len__(self) -> int:
        return len(self.clips) * self.views

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor, int] | None:
        """Crops of a clip, (V, 3, T, H, W) uint8, its label(s), and the index of its video; None for a broken clip.

        Raises:
            BrokenVideoError: the clip is broken, with on_error="fail".
        """
        video, view = divmod(_checked(index, len(self)), self.views)
        views = self._read(
            video, lambda total: uniform_clips(total, *self.sample, self.views)[view], self.transform.view
        )
        return None if views is None else (views, self._label(video), video)


def collate_clips(items: Sequence[tuple[Tensor, int | Tensor, int] | None]) -> tuple[Tensor, Tensor, Tensor]:
    """Collate items of either dataset, without the broken ones.

    Args:
        items: (clip, label, index); a clip is (3, T, H, W), or (V, 3, T, H, W) whose crops become clips of the batch.

    Returns:
        Clips (B, 3, T, H, W) uint8, labels (B,) int64, or (B, K) float32 where clips can have several, and indices (B,)
        int64. If all items are broken, B is 0 and the clips have shape (0,).

    Raises:
        ValueError: the clips differ in size ("full" crops of videos of several shapes).
    """
    kept = [item for item in items if item is not None]
    if not kept:
        return torch.empty(0), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    flat: list[tuple[Tensor, int | Tensor, int]] = []
    for clip, label, index in kept:
        flat += [(one, label, index) for one in (clip if clip.ndim == 5 else clip[None])]
    sizes = {tuple(clip.shape) for clip, _, _ in flat}
    if len(sizes) > 1:
        listed = ", ".join(map(str, sorted(sizes)))
        raise ValueError(f"clips of several sizes do not fit in one batch: {listed}; expected batch_size=1")
    clips, labels, indices = default_collate(flat)  # in a worker, writes to memory shared with the main process
    return clips, labels, indices


def check_frames(total: int, name: str) -> None:
    """Check that a video has at least two frames.

    Raises:
        BrokenVideoError: it has fewer.
    """
    if total < _FEWEST_FRAMES:
        raise BrokenVideoError(f"{name} has {counted(total, 'frame')}, expected at least {_FEWEST_FRAMES}", "too short")


def _frames_in_file(clip: Clip, total: int) -> tuple[int, int]:
    """First frame and number of frames of a clip that is a part of a file.

    Raises:
        BrokenVideoError: the file has fewer frames, or the part is a single one.
    """
    first, count = clip.frames or (0, total)
    if count < _FEWEST_FRAMES or first + count > total:
        part = f"the clip has {counted(count, 'frame')} from frame {first}"
        raise BrokenVideoError(f"{str(clip.path)!r} has {counted(total, 'frame')}, and {part}", "too short")
    return first, count


def _span_of_frames(clip: Clip, times: FrameTimes) -> tuple[float, float | None] | None:
    """The span of a clip that is given by its frames, None for its end at the end of the file; None for other clips."""
    if clip.frames is None:
        return None
    first, count = _frames_in_file(clip, len(times.ticks))
    start, *stop = (tick - times.ticks[0] for tick in times.ticks[first : first + count + 1 : count])
    return float(start * times.tick), float(stop[0] * times.tick) if stop else None


def span_in_file(clip: Clip, seconds: float) -> tuple[float | None, float | None]:
    """The span of a clip; none for a file that holds the span only, which is not longer (by up to a second)."""
    is_cut = clip.start and clip.end is not None and seconds <= clip.end - clip.start + _CUT_SECONDS
    return (None, None) if is_cut else (clip.start, clip.end)


def _views(
    path: Path,
    choose: Callable[[int], Sequence[int]],
    view_of: Callable[[int, int], View],
    time_limit: float | None,
) -> Tensor:
    """Decode the chosen frames and cut the views out of each: (V, 3, T, H, W) uint8."""
    views: list[View] = []

    def cut(frame_HWC: Tensor) -> Tensor:
        if not views:
            views.append(view_of(*frame_HWC.shape[:2]))
        return views[0].cut(frame_HWC)

    cut_TVCHW = read_sampled(path, choose, cut, time_limit=time_limit)
    return views[0].finish(cut_TVCHW)


def _checked(index: int, length: int) -> int:
    if not -length <= index < length:
        raise IndexError(f"index: got {index}, expected {-length} <= index < {length}")
    return index % length


def item_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """A random generator for one item of one epoch; neighboring arguments give unrelated generators."""
    digest = hashlib.blake2b(
        f"{seed}/{epoch}/{index}".encode(), digest_size=4
    ).digest()  # CPU generators keep 32 bits of a seed
    return torch.Generator().manual_seed(int.from_bytes(digest))
