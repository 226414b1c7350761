"""Clips of tracklets: random and augmented for training, evenly spaced for tests.

Random draws are torch's, which `training.sampler` seeds per item. Shapes: T frames, H height, W width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.tracklets.tracklet import TrackletSource
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.media.sampling import random_clip, uniform_clips
from torch_nonlocal.tasks.base import OnError
from torch_nonlocal.tasks.reid.settings import ReidSettings

_REPLACEMENTS = 100
_AREA, _ASPECT, _TRIES = (0.02, 0.4), 0.3, 100
"""Erased share of the picture, and the smallest ratio of its height to its width (Zhong et al., AAAI 2020)."""


class TrainingClips(Dataset[tuple[Tensor, int, int]]):
    """Random clips of training tracklets: (clip (3, T, H, W) uint8, label, index).

    Args:
        source: the tracklets; frames are already resized.
        labels: identity of each tracklet, from 0.
        settings: frames of a clip and augmentation.
        fill: color of erased and padded pixels, R, G and B in [0, 255]: the mean of the network's inputs.
        on_error: "skip" replaces a tracklet that cannot be read by another one, of the same identity if possible.
        broken: receives the tracklets that cannot be read.
    """

    def __init__(
        self,
        source: TrackletSource,
        labels: Sequence[int],
        settings: ReidSettings,
        *,
        fill: Sequence[int] = (0, 0, 0),
        on_error: OnError = "skip",
        broken: BrokenClips | None = None,
    ) -> None:
        self.source, self.labels, self._settings = source, list(labels), settings
        self._fill = torch.tensor(fill, dtype=torch.uint8).view(3, 1, 1, 1)
        self._on_error, self._broken = on_error, BrokenClips() if broken is None else broken

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """One clip.

        Raises:
            BrokenVideoError: it cannot be read, with on_error="fail", or no other one can.
        """
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        for tried in self._tried(index):
            one = self.source.tracklets[tried]
            frames = random_clip(one.length, *self._settings.schedule, generator)
            try:
                clip = self.source.read(tried, frames)
            except BrokenVideoError as error:
                if self._on_error == "fail":
                    raise
                self._broken.add(one.name, error)
            else:
                return self._augmented(clip, generator), self.labels[tried], tried
        raise BrokenVideoError(f"{len(self._tried(index))} tracklets in a row cannot be read", "damaged")

    def _tried(self, index: int) -> list[int]:
        """The tracklets that are read in turn until one can be read."""
        if self._on_error == "fail":
            return [index]
        same = [i for i, label in enumerate(self.labels) if label == self.labels[index] and i != index]
        following = [(index + step) % len(self) for step in range(1, _REPLACEMENTS)]
        return list(dict.fromkeys([index, *same, *following]))

    def fingerprint(self) -> dict[str, Any]:
        """Identity, camera and length of each tracklet by its name."""
        return fingerprint(self.source)

    def _augmented(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        settings = self._settings

        def draw() -> float:
            return float(torch.rand((), generator=generator))

        if settings.flip and draw() < 0.5:
            clip = clip.flip(-1)
        if settings.pad:
            height, width = clip.shape[-2:]
            padded = self._fill.expand(3, clip.shape[1], height + 2 * settings.pad, width + 2 * settings.pad).clone()
            padded[..., settings.pad : settings.pad + height, settings.pad : settings.pad + width] = clip
            top, left = (int(draw() * (2 * settings.pad + 1)) for _ in range(2))
            clip = padded[..., top : top + height, left : left + width]
        clip = clip.clone(memory_format=torch.contiguous_format)
        if draw() < settings.erase:
            self._erase(clip, draw)
        return clip

    def _erase(self, clip: Tensor, draw: Any) -> None:
        """Erase a random rectangle, in place.

        Reference: Zhong et al., Random erasing data augmentation, AAAI 2020, algorithm 1.
        """
        height, width = clip.shape[-2:]
        for _ in range(_TRIES):
            area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * draw())
            aspect = _ASPECT + (1 / _ASPECT - _ASPECT) * draw()
            rows, columns = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if rows < height and columns < width:
                top, left = int(draw() * (height - rows + 1)), int(draw() * (width - columns + 1))
                clip[..., top : top + rows, left : left + columns] = self._fill
                return


class TrackletViews(Dataset[tuple[Tensor, int] | None]):
    """Evenly spaced clips of tracklets: (clip (3, T, H, W) uint8, position in `indices`); None if it cannot be read.

    Args:
        source: the tracklets.
        indices: those that are read.
        settings: frames of a clip.
        views: clips per tracklet; a tracklet of one frame has one.
        on_error: "skip" or "fail" for tracklets that cannot be read.
        broken: receives the tracklets that cannot be read.

    Attributes:
        views: number of clips of each tracklet.
    """

    def __init__(
        self,
        source: TrackletSource,
        indices: Sequence[int],
        settings: ReidSettings,
        *,
        views: int,
        on_error: OnError = "skip",
        broken: BrokenClips | None = None,
    ) -> None:
        self._source, self._indices, self._settings = source, list(indices), settings
        self._on_error, self._broken = on_error, BrokenClips() if broken is None else broken
        lengths = [source.tracklets[index].length for index in self._indices]
        self.views = [1 if length == 1 else views for length in lengths]
        self._items = [(number, view) for number, count in enumerate(self.views) for view in range(count)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, item: int) -> tuple[Tensor, int] | None:
        """One clip.

        Raises:
            BrokenVideoError: it cannot be read, with on_error="fail".
        """
        number, view = self._items[item]
        index = self._indices[number]
        one = self._source.tracklets[index]
        try:
            if one.length < 1:
                raise BrokenVideoError(f"tracklet {one.name} has no frames", "too short")
            frames = uniform_clips(one.length, *self._settings.schedule, self.views[number])[view]
            return self._source.read(index, frames), number
        except BrokenVideoError as error:
            if self._on_error == "fail":
                raise
            self._broken.add(one.name, error)
            return None


def collate_views(items: Sequence[tuple[Tensor, int] | None]) -> tuple[Tensor, Tensor]:
    """Clips (B, 3, T, H, W) and positions (B,), without those that could not be read; B may be 0."""
    kept = [item for item in items if item is not None]
    if not kept:
        return torch.empty(0), torch.empty(0, dtype=torch.int64)
    clips, numbers = default_collate(kept)
    return clips, numbers


def fingerprint(source: TrackletSource) -> dict[str, Any]:
    """Identity, camera and length of each tracklet by its name."""
    return {one.name: [one.identity, one.camera, one.length] for one in source.tracklets}
