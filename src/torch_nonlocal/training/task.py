"""The task protocol: a task brings data and their order, a model, a loss and an evaluation; `fit` trains it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from torch_nonlocal.training.backbone import last_layer
from torch_nonlocal.training.items import Items
from torch_nonlocal.training.sampler import BatchSampler, ShuffledBatches


class Metric(NamedTuple):
    """The metric that chooses the best checkpoint.

    Attributes:
        name: key in what `Task.evaluate` returns.
        higher_is_better: direction.
    """

    name: str
    higher_is_better: bool = True

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than the best value before; any value is better than None or NaN."""
        if best is None or best != best:
            return True
        return value > best if self.higher_is_better else value < best


class Task:
    """Base class of tasks. Override what differs.

    Args:
        model: trained in place.
        data: map-style data set. `data[index]` returns an item; random draws inside (torch, NumPy, Python) are seeded
            per item and epoch. It may have `set_epoch(epoch)`, which is called before each item.
        about: JSON values that identify the task (model, classes, data). They are saved with the weights, and a run
            resumes only if they are equal.

    Attributes:
        metric: chooses the best checkpoint; None keeps the newest one.
        extra: plain values and tensors that are saved with the weights; they may differ when a run resumes.
    """

    metric: Metric | None = None
    extra: Mapping[str, Any] = {}

    def __init__(self, model: nn.Module, data: Any, *, about: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self.data = data
        self.about: Mapping[str, Any] = about or {}

    def sampler(self, batch_size: int, seed: int) -> BatchSampler:
        """The order of the items; by default a new permutation in each epoch, incomplete batches dropped."""
        return ShuffledBatches(len(self.data), batch_size, seed)

    @staticmethod
    def collate(items: list[Any]) -> Any:
        """A batch of items; torch's default unless overridden. It runs in the loader's workers.

        It is static so that workers receive the function alone and not the model.
        """
        return default_collate(items)

    def prepare(self, batch: Any) -> Any:
        """The batch as `loss` and `inputs` take it, on the device (normalization, for example); default: unchanged."""
        return batch

    def inputs(self, batch: Any) -> Any:
        """The model's input in a prepared batch; default: the batch's first element."""
        return batch[0]

    def loss(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Compute the loss of a prepared batch.

        Args:
            model: the model to call, possibly wrapped in DistributedDataParallel; do not call `self.model`.
            batch: a prepared batch.

        Returns:
            Scalar tensors, means over the batch, with the same names for every batch. "loss" is minimized; all are
            logged.
        """
        raise NotImplementedError

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Metrics of a model in eval mode, without gradients; every process calls it. Default: no metrics."""
        return {}

    def head(self, model: nn.Module) -> Sequence[nn.Module]:
        """The modules that `freeze_backbone` trains besides non-local blocks; default: the last linear layer."""
        return last_layer(model)

    def pictures(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Pictures by tag, (H, W, 3) uint8, for TensorBoard; called after `evaluate` in the main process if it is
        installed, with the same model. Not called for sharded models. Default: none.
        """
        return {}

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer | None:
        """An optimizer for the parameters of `model` that require a gradient; default: the configuration's.

        The learning rate of a group is that of the schedule times the group's "lr_scale" (default 1). The state is
        saved by parameter name.
        """
        return None

    def item_indices(self, batch: Any, requested: Sequence[int]) -> Sequence[int]:
        """The indices of the items in a prepared batch, for messages.

        Override it where the data set replaces or drops items that cannot be read.
        """
        return requested

    def fingerprint(self) -> Items:
        """The items by part ("training", "held out") and name, with a value that changes with the item.

        They are kept in the run folder, and a run resumes only if they are equal, so that held-out items are never
        trained on. Default: what `data.fingerprint()` returns for "training", if it has one.
        """
        return {"training": self.data.fingerprint()} if callable(getattr(self.data, "fingerprint", None)) else {}

    def begin(self, run_dir: Path) -> None:
        """Called in the main process before the first step of each start, after all checks, with the folder locked."""

    def item_name(self, index: int) -> str:
        """The name of an item, for messages."""
        return f"item {index}"


__all__ = ["BatchSampler", "Metric", "Task"]
