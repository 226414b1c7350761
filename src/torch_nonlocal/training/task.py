"""What `fit` trains: a task brings data, their order, a network, a loss and an evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from torch_nonlocal.training.sampler import Item, ShuffledBatches


class Metric(NamedTuple):
    """The metric that chooses the best checkpoint.

    Attributes:
        name: key in what `Task.evaluate` returns.
        higher_is_better: direction.
    """

    name: str
    higher_is_better: bool = True

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than the best so far; a number is better than NaN, anything than nothing."""
        if best is None or best != best:
            return True
        return value > best if self.higher_is_better else value < best


class BatchSampler(Protocol):
    """Which items form the batch of each step. Stateless: a step's batch follows from the step alone."""

    items: int
    """Number of items in the data; a resumed run must have as many."""
    batch_size: int
    """Items per batch, over all processes and accumulation parts; every batch has as many."""
    steps_per_epoch: int
    """Batches per epoch, at least 1."""

    def batch(self, step: int) -> Sequence[Item]:
        """The items of a step, counted from 0."""
        ...


class Task:
    """Base class of tasks; override what differs.

    Args:
        model: the network, trained in place.
        data: map-style data set; `data[index]` is an item, random draws inside are seeded for each item and epoch.

    Attributes:
        metric: chooses the best checkpoint among what `evaluate` returns; None keeps the newest.
        about: plain JSON values that identify the task (network, classes, data); saved with the weights.
    """

    metric: Metric | None = None

    def __init__(self, model: nn.Module, data: Any, *, about: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self.data = data
        self.about: Mapping[str, Any] = about or {}

    def sampler(self, batch_size: int, seed: int) -> BatchSampler:
        """The order of the items; by default a new permutation each epoch, incomplete batches dropped."""
        return ShuffledBatches(len(self.data), batch_size, seed)

    def collate(self, items: list[Any]) -> Any:
        """A batch from items; PyTorch's default unless overridden. Runs in the loader's workers."""
        return default_collate(items)

    def prepare(self, batch: Any) -> Any:
        """The batch as `loss` takes it, on the device (normalization, say); unchanged by default."""
        return batch

    def inputs(self, batch: Any) -> Any:
        """What the network is called with, of a prepared batch; its first element by default."""
        return batch[0]

    def loss(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Scalars of a prepared batch, means over its items: "loss" is minimized, all are logged.

        Args:
            model: the network, or its DistributedDataParallel wrapper; call this, not `self.model`.
            batch: a prepared batch.
        """
        raise NotImplementedError

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Metrics of the network in eval mode, without gradients; called by every process. {} for none."""
        return {}

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer | None:
        """An optimizer of the task's own; None for the one that the configuration names.

        Learning rates of its groups are `lr * group.get("lr_scale", 1)` times the schedule.
        """
        return None

    def item_name(self, index: int) -> str:
        """The name of an item, for messages."""
        return f"item {index}"
