"""Stateless sampling order: the batch of a step and the random draws of an item follow from seed, epoch and item.

Step s takes batch s mod n of epoch s div n, whatever ran before; random draws inside the data set are seeded per item
and epoch. Results therefore do not depend on the number of processes or workers, nor on where a run was interrupted.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from torch_nonlocal._common.seeds import mix_seed, seeded
from torch_nonlocal._common.workers import ignore_stop_signals


class Item(NamedTuple):
    """One item of a batch.

    Attributes:
        epoch: passed to the data set's `set_epoch`, if it has one.
        index: position in the data set.
        seed: seed of the random draws inside the data set. An item that occurs twice in an epoch needs two seeds to be
            augmented differently.
    """

    epoch: int
    index: int
    seed: int


class BatchSampler(Protocol):
    """The items of each step's batch. Stateless: the batch follows from the step alone, in any order of calls."""

    items: int
    """Number of items in the data; a resumed run must have as many."""
    batch_size: int
    """Items per batch, over all processes and accumulated parts; the same for every batch."""
    steps_per_epoch: int
    """Batches per epoch, at least 1."""

    def batch(self, step: int) -> Sequence[Item]:
        """The items of a step, counted from 0."""
        ...


class ShuffledBatches:
    """A new random permutation of the items in each epoch, incomplete batches dropped.

    Which items are dropped differs from epoch to epoch.

    Args:
        items: number of items in the data.
        batch_size: items per batch.
        seed: seed of the permutations and of the items' random draws.

    Raises:
        ValueError: if there are fewer items than one batch takes.
    """

    def __init__(self, items: int, batch_size: int, seed: int) -> None:
        if items < batch_size:
            raise ValueError(
                f"batch_size={batch_size}: the training data has {items} items, fewer than one batch; "
                f"expected batch_size={items} or less"
            )
        self.items, self.batch_size, self.seed = items, batch_size, seed
        self.steps_per_epoch = items // batch_size
        self._epoch, self._permutation = -1, torch.empty(0)  # the permutation of the last epoch asked for

    def batch(self, step: int) -> list[Item]:
        """The items of a step, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
            self._epoch, self._permutation = epoch, torch.randperm(self.items, generator=generator)
        chosen = self._permutation[position * self.batch_size : (position + 1) * self.batch_size].tolist()
        return [Item(epoch, index, mix_seed(self.seed, epoch, index)) for index in chosen]


class RankBatchSampler(Sampler[list[Item]]):
    """The parts of the global batches that one process computes, over a range of steps.

    A global batch is split into accumulate x processes parts of equal length; the process of rank r computes part
    a x processes + r for a = 0, 1, ..., accumulate - 1.

    Args:
        batches: the global batches.
        accumulate: parts per process and step.
        processes: number of processes.
        rank: rank of this process.

    Attributes:
        size: items per part.
        start: first step of the range.
        stop: end of the range, exclusive.
        skip: parts to leave out at the beginning.

    Raises:
        ValueError: if the batch size is not a multiple of accumulate x processes.
    """

    def __init__(self, batches: BatchSampler, accumulate: int, processes: int, rank: int) -> None:
        if batches.batch_size % (accumulate * processes):
            raise ValueError(
                f"batch_size={batches.batch_size}: expected a multiple of accumulate x processes = "
                f"{accumulate} x {processes}"
            )
        self._batches, self._accumulate = batches, accumulate
        self._processes, self._rank = processes, rank
        self.size = batches.batch_size // (accumulate * processes)
        self.start, self.stop, self.skip = 0, 0, 0

    def __iter__(self) -> Iterator[list[Item]]:
        return islice(self._parts(), self.skip, None)

    def __len__(self) -> int:
        return max((self.stop - self.start) * self._accumulate - self.skip, 0)

    def _parts(self) -> Iterator[list[Item]]:
        for step in range(self.start, self.stop):
            batch = list(self._batches.batch(step))
            if len(batch) != self._batches.batch_size:
                raise ValueError(
                    f"the sampler returned {len(batch)} items for step {step}, expected {self._batches.batch_size}"
                )
            for part in range(self._accumulate):
                first = (part * self._processes + self._rank) * self.size
                yield batch[first : first + self.size]


class SeededItems(Dataset[Any]):
    """A data set whose random draws are seeded per item; the random states outside are unchanged.

    Args:
        data: map-style data set. If it has `set_epoch`, that is called before each item, because others may read the
            same data at another epoch in between.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, item: Item) -> tuple[int, Any]:
        """The index of an item, and what the data set returns for it."""
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(item.epoch)
        try:
            with seeded(item.seed):
                return item.index, self.data[item.index]
        except Exception as error:
            error.add_note(f"while reading item {item.index} of the training data")
            raise


class _Collate:
    """Collates the items, and keeps their indices beside the batch."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, read: Sequence[tuple[int, Any]]) -> tuple[list[int], Any]:
        return [index for index, _ in read], self._collate([item for _, item in read])


def make_loader(
    data: Any, parts: RankBatchSampler, *, workers: int, collate: Callable[[list[Any]], Any], pin_memory: bool
) -> DataLoader[Any]:
    """A loader of (indices, batch) for each part.

    It has a generator of its own, so that it does not draw from the random state that the model uses.
    """
    return DataLoader(
        SeededItems(data),
        batch_sampler=parts,
        num_workers=workers,
        collate_fn=_Collate(collate),
        pin_memory=pin_memory,
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator().manual_seed(0),
    )
