"""The training clips of one run on moving digits: every clip is new, and clip i depends on the seed and i only."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from torch_nonlocal.data.moving_digits import Motions, MovingDigits
from torch_nonlocal.training.sampler import Item


class RunClips(Dataset[Motions]):
    """Motions of all clips of a run, drawn ahead (a few integers per clip); `render` draws the pixels of a batch.

    The clips are those of consecutive calls of `MovingDigits.batch` with one generator.

    Args:
        digits: source of the clips.
        steps: number of batches.
        batch_size: clips per batch.
        seed: seed of the generator.
    """

    def __init__(self, digits: MovingDigits, *, steps: int, batch_size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        batches = [digits.draw(batch_size, generator) for _ in range(steps)]
        self._digits = digits
        self._motions = Motions(*(torch.cat(parts) for parts in zip(*batches, strict=True)))

    def __len__(self) -> int:
        return len(self._motions.labels)

    def __getitem__(self, index: int) -> Motions:
        """The motion of one clip, without the batch dimension."""
        return Motions(*(part[index] for part in self._motions))

    def render(self, motions: Sequence[Motions]) -> tuple[Tensor, Tensor]:
        """Clips (B, 1, T, H, W) in [0, 1], and labels (B,)."""
        clips = self._digits.render(Motions(*(torch.stack(parts) for parts in zip(*motions, strict=True))))
        return clips.clips, clips.labels


class ConsecutiveBatches:
    """Items in their order, one epoch per run; see `training.sampler.BatchSampler`.

    Args:
        items: number of items, a multiple of the batch size.
        batch_size: items per batch.
    """

    def __init__(self, items: int, batch_size: int) -> None:
        self.items, self.batch_size = items, batch_size
        self.steps_per_epoch = items // batch_size

    def batch(self, step: int) -> list[Item]:
        """The items of a step, counted from 0."""
        first = step * self.batch_size
        return [Item(0, index, index) for index in range(first, first + self.batch_size)]
