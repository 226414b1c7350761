"""Evaluation between steps, optionally with averaged weights and recomputed statistics; training is not affected."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.training.batch_norm import recompute_statistics
from torch_nonlocal.training.callbacks.attention import attention_scalars
from torch_nonlocal.training.checkpoint import full_on_cpu
from torch_nonlocal.training.ema import copy_into, restore_state, state_tensors
from torch_nonlocal.training.job import Job
from torch_nonlocal.training.precision import autocast
from torch_nonlocal.training.sampler import Item, SeededItems
from torch_nonlocal.training.task import Metric

_NEWEST = Metric("step")  # for tasks without a metric


class Evaluator:
    """Evaluates a run after each epoch or every `eval_every` steps, and at its end; keeps the best weights."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._every = job.config.eval_every or job.sampler.steps_per_epoch
        self._attention_batch: Any = None

    def is_due(self) -> bool:
        """Whether the current weights are to be evaluated and have not been."""
        progress, steps = self._job.progress, self._job.steps
        scheduled = progress.step % self._every == 0 or progress.step == steps
        return progress.step > 0 and scheduled and progress.evaluated != progress.step

    def run(self, show: Callable[[Mapping[str, Tensor]], None] | None = None) -> dict[str, float]:
        """Evaluate, write the weights if they are the best so far, and return the metrics.

        Args:
            show: called with the task's pictures of this evaluation; None draws none.

        Raises:
            ValueError: if the task's `evaluate` does not return the task's metric.
        """
        job = self._job
        ema = job.state.ema
        job.processes.copy_buffers(job.model)
        changes_weights = ema is not None or job.config.precise_bn > 0
        with restore_state(job.model) if changes_weights else nullcontext():
            if ema is not None:
                copy_into(job.model, ema.values)
            if job.config.precise_bn:
                recompute_statistics(job.model, self._recent_inputs(), job.frozen_norms(job.progress.step - 1))
                job.processes.average_buffers(job.model)
            job.model.eval()
            with torch.no_grad(), autocast(job.config, job.processes.device):
                metrics = {name: float(value) for name, value in job.task.evaluate(job.model).items()}
                self._check(metrics)
                metrics |= self._attention()
            weights = full_on_cpu(state_tensors(job.model))
            if show is not None and not job.distributed.sharded:
                show(job.task.pictures(job.model))
        job.train_mode()
        is_better, job.progress.best = job.processes.in_main(lambda: self._keep_best(metrics, weights))
        job.progress.not_better = 0 if is_better else job.progress.not_better + 1
        job.progress.evaluated = job.progress.step
        return metrics

    def _check(self, metrics: Mapping[str, float]) -> None:
        metric = self._job.task.metric
        if metric is not None and metric.name not in metrics:
            found = ", ".join(metrics) or "nothing"
            raise ValueError(f"the task's evaluate returned {found}, expected its metric {metric.name!r} among them")

    def _keep_best(self, metrics: dict[str, float], weights: dict[str, Tensor]) -> tuple[bool, dict[str, Any] | None]:
        """Write the weights if they are the best so far; returns whether they are, and the best evaluation."""
        folder, progress = self._job.folder, self._job.progress
        metric = self._job.task.metric or _NEWEST
        value = {"step": float(progress.step), **metrics}[metric.name]
        best = None if folder.lost_best(progress.best, progress.step) else progress.best
        found = progress.best
        is_better = metric.improves(value, None if best is None else best["value"])
        if is_better:
            folder.write_weights(folder.best, weights, step=progress.step, metrics=metrics)
            found = {"step": progress.step, "metric": metric.name, "value": value}
        if self._job.config.keep:
            folder.keep(weights, step=progress.step, metrics=metrics, newest=self._job.config.keep)
        return is_better, found

    def _recent_inputs(self) -> Iterator[Any]:
        """Model inputs from the first batches of the epoch of the last step."""
        job, length = self._job, self._job.sampler.steps_per_epoch
        first = (job.progress.step - 1) // length * length
        with job.loader(first, first + min(job.config.precise_bn, length)) as batches:
            for _, batch in batches:
                yield job.task.inputs(job.prepared(batch))

    def _attention(self) -> dict[str, float]:
        """Attention statistics of a few training items spread over the data, the same ones at every evaluation."""
        job = self._job
        count = min(job.config.attention_items, job.sampler.items)
        if not count or not job.processes.is_main or job.distributed.sharded:  # a sharded model needs all processes
            return {}
        if self._attention_batch is None:
            data = SeededItems(copy.copy(job.task.data))  # `set_epoch` of the training data is not called
            stride = job.sampler.items // count
            items = [data[Item(0, i * stride, job.config.seed)][1] for i in range(count)]
            self._attention_batch = job.task.collate(items)
        return attention_scalars(job.model, job.task.inputs(job.prepared(self._attention_batch)), count)
