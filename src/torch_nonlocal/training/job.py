"""All that belongs to one run in this process, put together and, where there is a checkpoint, restored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from torch_nonlocal.distributed.processes import Processes, Spread
from torch_nonlocal.training import checkpoint as states
from torch_nonlocal.training.batch_norm import fix_weights, frozen_norms, train_mode
from torch_nonlocal.training.config import TrainConfig
from torch_nonlocal.training.ema import Average
from torch_nonlocal.training.optimizer import make_optimiser
from torch_nonlocal.training.precision import LossScale, weights_channels_last
from torch_nonlocal.training.run_folder import RunFolder
from torch_nonlocal.training.sampler import RankBatchSampler, ShuffledBatches, make_loader

Evaluate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class Given:
    """What the caller of `fit` brought; see there."""

    data: Any
    loss: Callable[[Any, Any], Tensor]
    evaluate: Evaluate | None
    collate: Callable[[list[Any]], Any] | None
    names: Callable[[int], str]
    prepare: Callable[[Any], Any]


class Job:
    """A run in this process.

    Args:
        model: moved, laid out, sharded and restored in place.
        given: by the caller.
        config: of the run.
        folder: of the run.
        processes: that train together.
        order: of the clips.
        saved: the state to go on from; None at the start.

    Raises:
        ValueError: the state is of another network.
    """

    def __init__(
        self,
        model: nn.Module,
        given: Given,
        config: TrainConfig,
        folder: RunFolder,
        processes: Processes,
        order: ShuffledBatches,
        saved: dict[str, Any] | None,
    ) -> None:
        self.given, self.config, self.folder, self.processes, self.order = given, config, folder, processes, order
        self.steps = config.steps if config.steps is not None else (config.epochs or 0) * order.steps_per_epoch
        self.frozen = frozen_norms(model) if config.freeze_bn else []
        fix_weights(self.frozen)
        shard = config.shard or processes.asked_to_shard
        if config.channels_last and not (shard and processes.count > 1):  # FSDP2 takes contiguous weights only
            weights_channels_last(model)
        self.spread = Spread(model, processes, shard=shard)
        self.model = self.spread.model
        self.training = states.Training(
            self.model,
            make_optimiser(self.model, config),
            LossScale(enabled=config.precision == "fp16"),
            Average(self.model, config.ema) if config.ema is not None else None,
            states.Progress(clips=order.items),
        )
        if saved is not None:
            states.restore(self.training, saved)
        self.progress = self.training.progress
        self.is_new = saved is None
        if config.compile:
            self.model.compile()

    def loader(self, first: int, stop: int) -> Any:
        """This process's parts of the updates first <= update < stop, with the order and draws they always have."""
        order = ShuffledBatches(self.order.items, self.order.batch_size, self.config.seed)
        parts = RankBatchSampler(order, self.config.accumulate, self.processes.count, self.processes.rank)
        parts.start, parts.stop = first, stop
        pin = self.processes.device.type == "cuda"
        workers, collate = self.config.workers, self.given.collate
        return make_loader(self.given.data, parts, workers=workers, collate=collate, pin_memory=pin)

    def inputs(self, loaded: Any) -> Any:
        """What the model is called with: a loaded batch on this process's device, prepared."""
        return self.given.prepare(self.processes.send(loaded))

    def train_mode(self) -> None:
        """Train mode; frozen norms stay in eval mode."""
        train_mode(self.model, self.frozen)

    def save(self) -> None:
        """Write the whole state; all processes must call it.

        Raises:
            CheckpointError: the disk is full.
        """
        captured = states.capture(self.training)
        if self.processes.is_main:
            states.write(self.folder.last, captured)
