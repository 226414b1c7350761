"""Clips for a DataLoader: drawn at random for training, in fixed views for testing.

What is drawn for an item depends on the seed, the epoch and the item's index alone: not on the order, the number of
workers or the process, so a run that is interrupted and resumed sees what it would have seen. Clips are uint8;
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

from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.clip_list import ClipList, OnError, Problems
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.media.decode import read_sampled
from torch_nonlocal.media.sampling import Schedule, random_clip, uniform_clips
from torch_nonlocal.media.transforms import EvalTransform, TrainTransform, View

_FEWEST_FRAMES = 2  # one frame is a picture


class _Videos(Dataset[Any]):
    """What both datasets are made of; see there."""

    def __init__(
        self,
        clips: ClipList,
        sample: tuple[int, int],
        on_error: OnError,
        decode_timeout: float | None,
        broken: BrokenClips | None,
    ) -> None:
        Problems(on_error)
        if not len(clips):
            raise ValueError(f"there are no clips in {str(clips.root)!r}")
        self.clips = clips
        self.sample = Schedule(*sample)
        self.on_error = on_error
        self.decode_timeout = decode_timeout
        self.broken = BrokenClips() if broken is None else broken
        self._known: set[int] = set()

    def _read(
        self, video: int, choose: Callable[[int], Sequence[int]], view_of: Callable[[int, int], View]
    ) -> Tensor | None:
        """The views of a video's chosen frames, (V, 3, T, H, W) uint8, or None where it is broken and that was said."""
        if video in self._known:
            return None
        path = self.clips.clips[video].path
        try:
            return _views(path, choose, view_of, self.decode_timeout)
        except BrokenVideoError as error:
            self.broken.add(path, error)
            if self.on_error == "fail":
                raise
            self._known.add(video)
            return None


class ClipDataset(_Videos):
    """Clips at random places, randomly cropped and flipped; one item for each video.

    A clip that cannot be read is reported to `broken`. With on_error="skip" the next one in the list that can be read
    takes its place, with its own label and index; which one it is does not depend on the workers.

    Args:
        clips: what `find_clips` found.
        sample: (length, stride), such as `parse_schedule("8x8")`.
        transform: crops and flips.
        seed: another seed draws other clips.
        on_error: "skip", or "fail" to raise for a broken clip.
        decode_timeout: seconds after which a clip counts as broken; None waits.
        broken: takes the report; None makes one.

    Raises:
        ValueError: if the list is empty or on_error is something else.
    """

    def __init__(
        self,
        clips: ClipList,
        sample: tuple[int, int],
        transform: TrainTransform,
        *,
        seed: int = 0,
        on_error: OnError = "skip",
        decode_timeout: float | None = 60.0,
        broken: BrokenClips | None = None,
    ) -> None:
        super().__init__(clips, sample, on_error, decode_timeout, broken)
        self.transform = transform
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        """Draws other clips from now on, in this process and in workers that start later.

        Not in those that run: of two workers one may be an epoch ahead. `training` calls it in each.
        """
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """A clip (3, T, H, W) uint8, its label, and the index of its video (another where `index` is broken).

        Raises:
            BrokenVideoError: if it is broken, with on_error="fail"; with "skip", if all clips are.
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
                return views[0], self.clips.clips[video].label, video
        raise BrokenVideoError(
            f"none of the {len(self)} clips in {str(self.clips.root)!r} can be read: {self.broken.path} says why",
            "unreadable",
        )


class ViewDataset(_Videos):
    """Fixed views of every video: clips evenly spaced in time, each in all crops of the transform.

    An item is one clip of one video; `views` items in a row belong to a video. `collate_clips` makes batches of them in
    which every crop is a clip: average the scores over equal indices. A video that cannot be read is reported to
    `broken` and left out of the batches, never replaced.

    Args:
        clips: what `find_clips` found.
        sample: (length, stride) of a clip.
        transform: one crop, three, or the whole frame.
        views: clips of a video: 10 in the papers.
        on_error: "skip", or "fail" to raise for a broken clip.
        decode_timeout: seconds after which a clip counts as broken; None waits.
        broken: takes the report; None makes one.

    Raises:
        ValueError: if the list is empty, `views` is below 1 or on_error is something else.
    """

    def __init__(
        self,
        clips: ClipList,
        sample: tuple[int, int],
        transform: EvalTransform,
        *,
        views: int = 10,
        on_error: OnError = "skip",
        decode_timeout: float | None = 60.0,
        broken: BrokenClips | None = None,
    ) -> None:
        super().__init__(clips, sample, on_error, decode_timeout, broken)
        if views < 1:
            raise ValueError(f"views: got {views}, expected 1 or more")
        self.transform = transform
        self.views = views

    def __len__(self) -> int:
        return len(self.clips) * self.views

    def __getitem__(self, index: int) -> tuple[Tensor, int, int] | None:
        """The crops of a clip, (V, 3, T, H, W) uint8, its label, and the index of its video; None if it is broken.

        Raises:
            BrokenVideoError: if it is broken, with on_error="fail".
        """
        video, view = divmod(_checked(index, len(self)), self.views)
        views = self._read(
            video, lambda total: uniform_clips(total, *self.sample, self.views)[view], self.transform.view
        )
        return None if views is None else (views, self.clips.clips[video].label, video)


def collate_clips(items: Sequence[tuple[Tensor, int, int] | None]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of items of either dataset, without the broken ones.

    Args:
        items: (clip, label, index); a clip is (3, T, H, W), or (V, 3, T, H, W) whose crops become clips of the batch.

    Returns:
        Clips (B, 3, T, H, W) uint8, labels (B,) and indices (B,), int64. B is 0, and clips of shape (0,), if all are
        broken.

    Raises:
        ValueError: if the clips differ in size ("full" crops of videos of several shapes).
    """
    kept = [item for item in items if item is not None]
    if not kept:
        return torch.empty(0), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    flat: list[tuple[Tensor, int, int]] = []
    for clip, label, index in kept:
        flat += [(one, label, index) for one in (clip if clip.ndim == 5 else clip[None])]
    sizes = {tuple(clip.shape) for clip, _, _ in flat}
    if len(sizes) > 1:
        listed = ", ".join(map(str, sorted(sizes)))
        raise ValueError(f"clips of several sizes do not fit in one batch: {listed}; expected batch_size=1")
    clips, labels, indices = default_collate(flat)  # in a worker it writes to memory shared with the main process
    return clips, labels, indices


def _views(
    path: Path,
    choose: Callable[[int], Sequence[int]],
    view_of: Callable[[int, int], View],
    time_limit: float | None,
) -> Tensor:
    """Decodes chosen frames, cutting the views out of each as it comes: (V, 3, T, H, W) uint8."""
    views: list[View] = []

    def chosen(total: int) -> Sequence[int]:
        if total < _FEWEST_FRAMES:
            raise BrokenVideoError(f"{str(path)!r} has {total} frame: a clip has {_FEWEST_FRAMES} or more", "too short")
        return choose(total)

    def cut(frame_HWC: Tensor) -> Tensor:
        if not views:
            views.append(view_of(*frame_HWC.shape[:2]))
        return views[0].cut(frame_HWC)

    cut_TVCHW = read_sampled(path, chosen, cut, time_limit=time_limit)
    return views[0].finish(cut_TVCHW)


def _checked(index: int, length: int) -> int:
    if not -length <= index < length:
        raise IndexError(f"index: got {index}, expected {-length} <= index < {length}")
    return index % length


def item_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """A generator for one item of one epoch; neighbouring numbers give unrelated ones."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=4).digest()  # the CPU's keeps 32 bits
    return torch.Generator().manual_seed(int.from_bytes(digest))
