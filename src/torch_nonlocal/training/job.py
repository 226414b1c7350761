"""A run in this process: model, optimizer, data and state, restored from a checkpoint if there is one."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from torch_nonlocal._common.text import counted
from torch_nonlocal._common.workers import WorkerBatches
from torch_nonlocal.distributed.processes import Processes
from torch_nonlocal.distributed.sharding import DistributedModel
from torch_nonlocal.training import checkpoint
from torch_nonlocal.training.backbone import Backbone
from torch_nonlocal.training.batch_norm import freeze_parameters, frozen_norms, train_mode
from torch_nonlocal.training.config import TrainConfig
from torch_nonlocal.training.ema import EMA
from torch_nonlocal.training.memory_format import convert_weights, planned_format
from torch_nonlocal.training.optimizer import make_optimizer
from torch_nonlocal.training.precision import LossScale
from torch_nonlocal.training.run_folder import RunFolder
from torch_nonlocal.training.sampler import BatchSampler, RankBatchSampler, make_loader
from torch_nonlocal.training.task import Task


class Job:
    """A run in this process.

    Args:
        task: what is trained; its model is moved, converted, sharded and restored in place.
        config: configuration of the run.
        folder: folder of the run.
        processes: the processes that train together.
        sampler: the task's.
        saved: the state to resume from; None for a new run.

    Raises:
        ValueError: if the state belongs to another model or optimizer.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        folder: RunFolder,
        processes: Processes,
        sampler: BatchSampler,
        saved: dict[str, Any] | None,
    ) -> None:
        self.task, self.config, self.folder, self.processes, self.sampler = task, config, folder, processes, sampler
        self.steps = config.steps if config.steps is not None else (config.epochs or 0) * sampler.steps_per_epoch
        self.ends = (*folder.former_ends, self.steps)
        self._frozen = frozen_norms(task.model, task.head(task.model)) if config.freeze_bn else []
        freeze_parameters(self._frozen)
        name = f"freeze_backbone={config.freeze_backbone}"
        self._backbone = Backbone(task.model, task.head(task.model), name=name) if config.freeze_backbone else None
        if self._backbone is not None and config.freeze_backbone < 0:
            for parameter in self._backbone.parameters():
                parameter.requires_grad_(False)
        shard = config.shard or processes.shard_requested
        channels_last = planned_format(config, processes)
        if channels_last is None and saved is not None:
            channels_last = saved.get("channels_last")
        if channels_last and not (shard and processes.count > 1):  # FSDP2 takes contiguous weights only
            convert_weights(task.model, channels_last=True)
        self.distributed = DistributedModel(task.model, processes, shard=shard)
        self.model = self.distributed.model
        self._frozen_at_first = [] if self._backbone is None else self._backbone.parameters()
        self.state = checkpoint.TrainState(
            self.model,
            task.optimizer(self.model) or make_optimizer(self.model, config),
            LossScale(enabled=config.precision == "fp16"),
            EMA(self.model, config.ema) if config.ema is not None else None,
            checkpoint.Progress(items=sampler.items),
            channels_last,
        )
        if saved is not None:
            checkpoint.restore(self.state, saved)
        self.progress = self.state.progress
        self.is_new = saved is None
        if config.compile:
            self.model.compile()

    @property
    def is_over(self) -> bool:
        """Whether no step is left: all are done, or `patience` evaluations in a row had no better metric."""
        return self.progress.step >= self.steps or bool(self.patience_ended)

    @property
    def patience_ended(self) -> str:
        """Why the run ends before its last step, in words; "" if it does not."""
        progress, patience, metric = self.progress, self.config.patience, self.task.metric
        if not patience or metric is None or progress.not_better < patience or progress.step >= self.steps:
            return ""
        best = progress.best or {}
        held = f"best: {best['value']:.4g} after {best['step']:,} steps" if best else "there is no best one"
        since = f"{metric.name} not better in {counted(progress.not_better, 'evaluation')}"
        return f"stopped early after {progress.step:,} of {self.steps:,} steps: {since}; {held}"

    def loader(self, start: int, stop: int, warn: Callable[[str], None] | None = None) -> WorkerBatches:
        """(indices, batch) of this process's parts of the steps start <= step < stop; the same in every call."""
        config, processes = self.config, self.processes
        parts = RankBatchSampler(self.sampler, config.accumulate, processes.count, processes.rank)

        def from_part(number: int) -> Any:
            done, skip = divmod(number, config.accumulate)
            parts.start, parts.stop, parts.skip = start + done, stop, skip
            pin_memory, collate = processes.device.type == "cuda", self.task.collate
            return make_loader(self.task.data, parts, workers=config.workers, collate=collate, pin_memory=pin_memory)

        return WorkerBatches(from_part, warn=warn)

    def prepared(self, batch: Any) -> Any:
        """A loaded batch on this process's device, prepared by the task."""
        return self.task.prepare(self.processes.send(batch))

    @property
    def frozen_steps(self) -> float:
        """Number of steps at the start in which only the last layer and the blocks are trained."""
        epochs = self.config.freeze_backbone
        return math.inf if epochs < 0 else epochs * self.sampler.steps_per_epoch

    def frozen_norms(self, step: int) -> list[nn.Module]:
        """Batch norms that keep their statistics in a step, counted from 0."""
        if self._backbone is None or step >= self.frozen_steps:
            return self._frozen
        return [*self._frozen, *self._backbone.norms]

    def train_mode(self) -> None:
        """Set train mode for the next step; frozen norms stay in eval mode, and frozen weights get no gradient."""
        train_mode(self.model, self.frozen_norms(self.progress.step))
        if self.processes.count == 1:  # DDP requires that the same parameters have a gradient in all steps
            for parameter in self._frozen_at_first:
                parameter.requires_grad_(self.progress.step >= self.frozen_steps)

    def drop_frozen_gradients(self) -> None:
        """Remove the gradients of weights that are not trained in this step."""
        if self.progress.step < self.frozen_steps:
            for parameter in self._frozen_at_first:
                parameter.grad = None

    def save(self) -> None:
        """Write the whole state; all processes must call it.

        Raises:
            CheckpointError: if the disk is full.
        """
        captured = checkpoint.capture(self.state)
        if self.processes.is_main:
            checkpoint.write(self.folder.last, captured)
