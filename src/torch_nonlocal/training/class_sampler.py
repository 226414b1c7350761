"""Batches that draw each class with a given share, stateless as those of `sampler`."""

from collections.abc import Sequence

import torch

from torch_nonlocal._common.seeds import mix_seed
from torch_nonlocal.training.sampler import Item, ShuffledBatches

_REPEATED = 1 << 20  # more than any number of epochs


class ClassBatches(ShuffledBatches):
    """Batches that draw each class with a given share; an epoch has as many items as with `ShuffledBatches`.

    In an epoch of M items, a class with the share s is drawn M s times, rounded up or down so that the expected number
    is exact. Within a class, no item is drawn once more than another. The order is a random permutation.

    The k-th further draw of an item in an epoch has the epoch number `epoch + k * 2**20`, so that data sets whose
    random draws follow from the epoch return it with other draws.

    Args:
        labels: class of each item.
        shares: share of each class in the batches; they are divided by their sum.
        batch_size: items per batch.
        seed: seed of the draws and of the items' random draws.

    Raises:
        ValueError: if there are fewer items than one batch takes, or a class without items has a share.
    """

    def __init__(self, labels: Sequence[int], shares: Sequence[float], batch_size: int, seed: int) -> None:
        super().__init__(len(labels), batch_size, seed)
        self._members = [torch.tensor([i for i, one in enumerate(labels) if one == c]) for c in range(len(shares))]
        empty = [label for label, members in enumerate(self._members) if not len(members) and shares[label]]
        if empty:
            raise ValueError(f"shares: class {empty[0]} has no items, expected the share 0, got {shares[empty[0]]}")
        self._ends = torch.tensor(shares, dtype=torch.float64).cumsum(0)
        self._drawn_epoch, self._drawn = -1, [Item(0, 0, 0)]

    def batch(self, step: int) -> list[Item]:
        """The items of a step, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._drawn_epoch:
            self._drawn_epoch, self._drawn = epoch, self._draw(epoch)
        return self._drawn[position * self.batch_size : (position + 1) * self.batch_size]

    def _draw(self, epoch: int) -> list[Item]:
        """All items of an epoch."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        length = self.steps_per_epoch * self.batch_size
        offset = torch.rand((), dtype=torch.float64, generator=generator)
        ends = (self._ends / self._ends[-1] * length + offset).floor().long().clamp_max(length)
        items = []
        for members, draws in zip(self._members, torch.diff(ends, prepend=torch.zeros(1).long()).tolist(), strict=True):
            for first in range(0, draws, max(len(members), 1)):
                chosen = members[torch.randperm(len(members), generator=generator)[: draws - first]].tolist()
                drawn_as = epoch + first // len(members) * _REPEATED
                items += [Item(drawn_as, index, mix_seed(self.seed, drawn_as, index)) for index in chosen]
        return [items[i] for i in torch.randperm(length, generator=generator).tolist()]
