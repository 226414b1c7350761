"""Tests between updates, on weights that may be averaged; training's own are afterwards what they were."""

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.training import checkpoint as states
from torch_nonlocal.training.batch_norm import take_statistics
from torch_nonlocal.training.callbacks.attention import attention_scalars
from torch_nonlocal.training.ema import copy_into, put_back, tensors_of
from torch_nonlocal.training.job import Job
from torch_nonlocal.training.precision import autocast
from torch_nonlocal.training.sampler import Item, SeededClips


class Tests:
    """The tests of a run: after each epoch, or every so many updates, and at the end."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._every = job.config.eval_every or job.order.steps_per_epoch
        self._shown: Any = None

    def is_due(self) -> bool:
        """Whether the weights of now are to be tested and have not been."""
        progress, steps = self._job.progress, self._job.steps
        at_a_test = progress.step % self._every == 0 or progress.step == steps
        return progress.step > 0 and at_a_test and progress.tested != progress.step

    def run(self) -> dict[str, float]:
        """Test, and keep the weights if they are the best so far. Returns what was measured."""
        job = self._job
        average = job.training.average
        job.processes.copy_buffers(job.model)
        borrowed = average is not None or job.config.precise_bn > 0
        with put_back(job.model) if borrowed else nullcontext():
            if average is not None:
                copy_into(job.model, average.values)
            if job.config.precise_bn:
                take_statistics(job.model, self._recent_inputs(), job.frozen)
                job.processes.average_buffers(job.model)
            job.model.eval()
            with torch.no_grad(), autocast(job.config, job.processes.device):
                metrics = {name: float(value) for name, value in (job.given.evaluate or _nothing)(job.model).items()}
                metrics |= self._attention()
            weights = states.whole_on_cpu(tensors_of(job.model))
        job.train_mode()
        if job.processes.is_main:
            self._judge(metrics, weights)
        job.progress.tested = job.progress.step
        return metrics

    def _judge(self, metrics: dict[str, float], weights: dict[str, Tensor]) -> None:
        folder, progress = self._job.folder, self._job.progress
        judged = [name for name in metrics if not name.startswith("attention/")]
        name = "accuracy" if "accuracy" in judged else judged[0] if judged else "step"
        value = metrics.get(name, float(progress.step))
        if progress.best is None or value > progress.best["value"] or math.isnan(progress.best["value"]):
            folder.write_weights(folder.best, weights, step=progress.step, metrics=metrics)
            progress.best = {"step": progress.step, "metric": name, "value": value}
        if self._job.config.keep:
            folder.keep(weights, step=progress.step, metrics=metrics, newest=self._job.config.keep)

    def _recent_inputs(self) -> Iterator[Any]:
        """Batches of the epoch that the last update was in."""
        job, length = self._job, self._job.order.steps_per_epoch
        first = (job.progress.step - 1) // length * length
        for inputs, _, _ in job.loader(first, first + min(job.config.precise_bn, length)):
            yield job.inputs(inputs)

    def _attention(self) -> dict[str, float]:
        """Attention on a few training clips spread over the data set, the same ones at every test and start."""
        job = self._job
        count = min(job.config.attention_clips, job.order.items)
        if not count or not job.processes.is_main or job.spread.sharded:  # one process cannot run a sharded network
            return {}
        if self._shown is None:
            clips, stride = SeededClips(job.given.data), job.order.items // count
            items = [clips[Item(0, i * stride, job.config.seed)] for i in range(count)]
            self._shown = (job.given.collate or torch.utils.data.default_collate)(items)[0]
        return attention_scalars(job.model, job.inputs(self._shown), count)


def _nothing(model: nn.Module) -> Mapping[str, float]:
    return {}
