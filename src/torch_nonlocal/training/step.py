"""One optimizer step."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_nonlocal._common.seeds import mix_seed, seed_all
from torch_nonlocal.training.errors import NonFiniteLossError
from torch_nonlocal.training.job import Job
from torch_nonlocal.training.memory_format import batch_channels_last, try_formats
from torch_nonlocal.training.optimizer import gradient_norm, learning_rate_factor, scale_gradients, set_learning_rate
from torch_nonlocal.training.precision import autocast

RESERVED = (
    "step", "steps", "kind", "gradient_norm", "lr", "epoch", "items_per_second", "waiting_for_data", "waited",
    "seconds",
)  # fmt: skip
"""Names in the log that a task's loss cannot use."""


class StepResult(NamedTuple):
    """The outcome of a step, the same in every process except for `waited`.

    Attributes:
        scalars: what the task's loss returned, as means over the batch; "loss" first.
        gradient_norm: before clipping.
        lr: learning rate of the schedule.
        waited: seconds this process waited for data.
        flags: which flags are set in any process.
    """

    scalars: dict[str, float]
    gradient_norm: float
    lr: float
    waited: float
    flags: list[bool]


def train_step(job: Job, parts: Iterator[Any], flags: Callable[[], list[bool]]) -> StepResult:
    """Compute the gradient of one global batch and take a step; if it fails, only batch norm statistics have changed.

    Args:
        job: the run.
        parts: (indices, batch) of this process's parts.
        flags: called once the gradient is computed; the processes exchange the result.

    Raises:
        NonFiniteLossError: if the loss or its gradient is NaN or infinite in any process.
        ValueError: if the task's loss does not return scalars as described in `Task.loss`.
    """
    config, state, scale = job.config, job.state, job.state.scale
    trained = [one for group in state.optimizer.param_groups for one in group["params"]]
    step = state.progress.step
    seed_all(mix_seed(config.seed, step, job.processes.rank, 1))  # dropout follows from the step, not from the past
    lr = config.lr * learning_rate_factor(config, step, job.ends)
    set_learning_rate(state.optimizer, lr)
    waited, computed, indices = 0.0, [], []
    for number in range(config.accumulate):
        before = time.monotonic()
        requested, loaded = next(parts)
        waited += time.monotonic() - before
        last = number == config.accumulate - 1
        batch, scalars = add_gradient(job, loaded, channels_last=bool(state.channels_last), last=last)
        computed.append({name: value.detach().float() for name, value in scalars.items()})
        indices.append(job.task.item_indices(batch, requested))
    names = ["loss", *(name for name in computed[0] if name != "loss")]
    raised = torch.tensor([float(flag) for flag in flags()], device=job.processes.device)
    means = torch.stack([torch.stack([one[name] for one in computed]).mean() for name in names])
    values = job.processes.mean(torch.cat([means, raised])).tolist()
    averaged, agreed = dict(zip(names, values, strict=False)), values[len(names) :]
    job.drop_frozen_gradients()
    norm = gradient_norm(trained).item() / scale.value
    losses = [one["loss"] for one in computed]
    if not math.isfinite(averaged["loss"]):
        raise _not_finite(job, f"the loss is {averaged['loss']}", losses, indices)
    if math.isfinite(norm):
        factor = 1.0 if config.clip_grad is None else min(1.0, config.clip_grad / (norm + 1e-6))
        if factor != scale.value:
            scale_gradients(trained, factor / scale.value)
        state.optimizer.step()
        scale.succeeded()
    elif not scale.overflowed():
        what = f"the loss is {averaged['loss']:.4g} and its gradient has norm {norm}"
        raise _not_finite(job, what, losses, indices)
    state.optimizer.zero_grad()
    return StepResult(averaged, norm, lr, waited, [flag > 0 for flag in agreed])


def add_gradient(job: Job, loaded: Any, *, channels_last: bool, last: bool = True) -> tuple[Any, Mapping[str, Tensor]]:
    """Compute the loss of a loaded part and add its gradient, times the loss scale and over the number of parts.

    Args:
        job: the run.
        loaded: a part of the global batch.
        channels_last: memory format of the batch.
        last: whether it is the last part of the step.

    Returns:
        The prepared batch, and what the task's loss returned.

    Raises:
        ValueError: if the task's loss does not return scalars as described in `Task.loss`.
    """
    batch = job.prepared(loaded)
    if channels_last:
        batch = batch_channels_last(batch)
    with job.distributed.accumulating(last=last):
        with autocast(job.config, job.processes.device):
            scalars = _checked(job.task.loss(job.distributed.wrapped, batch))
        (scalars["loss"] * (job.state.scale.value / job.config.accumulate)).backward()
    return batch, scalars


def choose_memory_format(job: Job, parts: Iterator[Any]) -> tuple[str, Iterator[Any]]:
    """Choose the memory format of a run by a trial on its next part.

    Returns:
        A line with the choice, and the same parts.
    """

    def compute(part: Any, channels_last: bool) -> None:
        add_gradient(job, part[1], channels_last=channels_last)

    job.state.channels_last, line, parts = try_formats(job.model, parts, compute, job.config.seed)
    return line, parts


def _checked(scalars: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    reserved = [name for name in scalars if name in RESERVED]
    if "loss" not in scalars or reserved or any(value.ndim for value in scalars.values()):
        shapes = {name: tuple(value.shape) for name, value in scalars.items()}
        raise ValueError(
            f"the task's loss returned tensors of shapes {shapes}, expected scalars: 'loss' and others, except "
            f"{', '.join(RESERVED)}"
        )
    return scalars


def _not_finite(job: Job, what: str, losses: list[Tensor], indices: list[Sequence[int]]) -> NonFiniteLossError:
    """An error that names the items of the parts with a bad loss; of the whole batch if only the gradient is bad."""
    rows = [(index, not math.isfinite(one)) for one, part in zip(losses, indices, strict=True) for index in part]
    own = torch.full((job.sampler.batch_size // job.processes.count, 2), -1)  # gathering needs equal shapes
    rows = rows[: len(own)]  # fewer if the task dropped items
    own[: len(rows)] = torch.tensor(rows).reshape(-1, 2)
    every = [(index, bad) for index, bad in job.processes.gather(own.to(job.processes.device)).tolist() if index >= 0]
    chosen = [index for index, bad in every if bad] or [index for index, _ in every]
    items = [job.task.item_name(index) for index in chosen]
    step = job.progress.step + 1
    return NonFiniteLossError(
        f"{what} in step {step:,}; items of the batch: {', '.join(items)}. {job.folder.last} is intact. "
        "Check these items; if they are valid, lower lr, set clip_grad, or use precision='no'",
        step=step,
        items=items,
    )
