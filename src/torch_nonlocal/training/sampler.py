"""Which clip is when: the order and the augmentation of every clip follow from (seed, epoch, clip) alone.

Nothing here has a state. Update s takes global batch s mod n of epoch s div n, whatever went before; random draws of
the data set for a clip are seeded for that clip and epoch. So the numbers do not depend on how many processes train,
how many workers read, or where a run was interrupted.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from torch_nonlocal._common.seeds import mix_seed, seeded


class Item(NamedTuple):
    """What a worker is asked for: a clip in an epoch, and the seed of its random draws."""

    epoch: int
    index: int
    seed: int


class ShuffledBatches:
    """The order of the clips.

    Args:
        clips: number of clips.
        batch_size: clips per update.
        seed: another seed gives another order.

    Raises:
        ValueError: fewer clips than one batch takes.
    """

    def __init__(self, clips: int, batch_size: int, seed: int) -> None:
        if clips < batch_size:
            raise ValueError(
                f"batch_size={batch_size}: the training data has {clips} clips, fewer than one batch; "
                f"lower batch_size to {clips} or below"
            )
        self.items, self.batch_size, self.seed = clips, batch_size, seed
        self.steps_per_epoch = clips // batch_size
        """Whole batches; which clips are left over differs from epoch to epoch."""
        self._epoch, self._permutation = -1, torch.empty(0)

    def batch(self, step: int) -> list[Item]:
        """The clips of an update, counted from 0, in order."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
            self._epoch, self._permutation = epoch, torch.randperm(self.items, generator=generator)
        chosen = self._permutation[place * self.batch_size : (place + 1) * self.batch_size].tolist()
        return [Item(epoch, index, mix_seed(self.seed, epoch, index)) for index in chosen]


class RankBatchSampler(Sampler[list[Item]]):
    """The parts of global batches that one process computes, from one update to another.

    A global batch is cut into accumulate x processes runs of equal length; process p takes run p of each of the parts.
    """

    def __init__(self, order: ShuffledBatches, accumulate: int, processes: int, process: int) -> None:
        if order.batch_size % (accumulate * processes):
            raise ValueError(
                f"batch_size={order.batch_size}: expected a multiple of accumulate x processes = "
                f"{accumulate} x {processes}"
            )
        self._order, self._accumulate = order, accumulate
        self._processes, self._process = processes, process
        self.size = order.batch_size // (accumulate * processes)
        """Clips in a part."""
        self.start, self.stop = 0, 0
        """Updates to give, the next time through: start <= update < stop."""

    def __iter__(self) -> Iterator[list[Item]]:
        for step in range(self.start, self.stop):
            batch = self._order.batch(step)
            for part in range(self._accumulate):
                first = (part * self._processes + self._process) * self.size
                yield batch[first : first + self.size]

    def __len__(self) -> int:
        return (self.stop - self.start) * self._accumulate


class SeededClips(Dataset[Any]):
    """A data set whose random draws are seeded for each item; random states around it stay as they were.

    Args:
        data: map-style; if it has `set_epoch`, that is called, in each worker, when another epoch begins.
    """

    def __init__(self, data: Any) -> None:
        self.data = data
        self._epoch: int | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, item: Item) -> tuple[Any, Any, int]:
        """(input, label, index) of an item; the index is the data set's, if it gives one."""
        if item.epoch != self._epoch:
            self._epoch = item.epoch
            if hasattr(self.data, "set_epoch"):
                self.data.set_epoch(item.epoch)
        try:
            with seeded(item.seed):
                got = self.data[item.index]
        except Exception as error:
            error.add_note(f"while reading item {item.index} of the training data")
            raise
        if not isinstance(got, Sequence) or len(got) not in (2, 3):
            raise TypeError(
                f"item {item.index} of the training data is a {type(got).__name__}, "
                "expected (input, label) or (input, label, index)"
            )
        return got[0], got[1], int(got[2]) if len(got) == 3 else item.index


def make_loader(
    data: Any, parts: RankBatchSampler, *, workers: int, collate: Callable[[list[Any]], Any] | None, pin_memory: bool
) -> DataLoader[Any]:
    """A loader of the parts; its own generator keeps it from drawing on the network's random numbers."""
    return DataLoader(
        SeededClips(data),
        batch_sampler=parts,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),
    )
