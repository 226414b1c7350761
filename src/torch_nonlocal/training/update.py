"""One update of the weights."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_nonlocal._common.seeds import mix_seed, seed_all
from torch_nonlocal.training.errors import NonFiniteLossError
from torch_nonlocal.training.job import Job
from torch_nonlocal.training.optimizer import gradient_norm, scale_gradients, schedule_factor
from torch_nonlocal.training.precision import autocast, input_channels_last


class Updated(NamedTuple):
    """What an update was like, the same in every process.

    Attributes:
        loss: mean over the batch.
        accuracy: part of the clips that were named right; NaN where there are no classes.
        gradient_norm: before it was clipped.
        lr: the learning rate.
        waited: seconds in which this process waited for data.
        flags: which of the flags were up in any process.
    """

    loss: float
    accuracy: float
    gradient_norm: float
    lr: float
    waited: float
    flags: list[bool]


def update(job: Job, batches: Iterator[Any], flags: Callable[[], list[bool]]) -> Updated:
    """Compute the gradient of one global batch and step; nothing but the network's statistics changes if it fails.

    Args:
        job: the run.
        batches: this process's parts.
        flags: asked once the gradient is there; to be agreed on with the other processes.

    Raises:
        NonFiniteLossError: the loss or its gradient is NaN or infinite, in some process.
    """
    config, training, scale = job.config, job.training, job.training.scale
    trained = [one for group in training.optimiser.param_groups for one in group["params"]]
    step = training.progress.step
    seed_all(mix_seed(config.seed, step, job.processes.rank, 1))  # dropout: a matter of the update, not of the past
    lr = config.lr * schedule_factor(config, step, job.steps)
    for group in training.optimiser.param_groups:
        group["lr"] = lr
    waited, losses, accuracies, indices = 0.0, [], [], []
    for part in range(config.accumulate):
        before = time.monotonic()
        inputs, labels, index = next(batches)
        waited += time.monotonic() - before
        inputs, labels = job.inputs(inputs), job.processes.send(labels)
        if config.channels_last:
            inputs = input_channels_last(inputs)
        with job.spread.part(last=part == config.accumulate - 1):
            with autocast(config, job.processes.device):
                output = job.spread.run(inputs)
                loss = job.given.loss(output, labels)
            (loss * (scale.value / config.accumulate)).backward()
        losses.append(loss.detach().float())
        accuracies.append(_accuracy(output, labels, losses[-1]))
        indices.append(index)
    raised = torch.tensor([float(flag) for flag in flags()], device=job.processes.device)
    means = torch.cat([torch.stack([torch.stack(losses).mean(), torch.stack(accuracies).mean()]), raised])
    value, accuracy, *agreed = job.processes.mean(means).tolist()
    norm = gradient_norm(trained).item() / scale.value
    if not math.isfinite(value):
        raise _not_finite(job, f"the loss is {value}", losses, indices)
    if math.isfinite(norm):
        factor = 1.0 if config.clip_grad is None else min(1.0, config.clip_grad / (norm + 1e-6))
        if factor != scale.value:
            scale_gradients(trained, factor / scale.value)
        training.optimiser.step()
        scale.succeeded()
    elif not scale.overflowed():
        raise _not_finite(job, f"the loss is {value:.4g}, its gradient has the norm {norm}", losses, indices)
    training.optimiser.zero_grad()
    return Updated(value, accuracy, norm, lr, waited, [flag > 0 for flag in agreed])


def _not_finite(job: Job, what: str, losses: list[Tensor], indices: list[Tensor]) -> NonFiniteLossError:
    """Names the clips of the parts whose loss is bad; of the whole batch if only the gradient is."""
    rows = [
        (index, not math.isfinite(one)) for one, part in zip(losses, indices, strict=True) for index in part.tolist()
    ]
    own = torch.full((job.config.batch_size // job.processes.count, 2), -1)  # a collate may have left clips out
    own[: len(rows)] = torch.tensor(rows)
    every = [(index, bad) for index, bad in job.processes.gather(own.to(job.processes.device)).tolist() if index >= 0]
    chosen = [index for index, bad in every if bad] or [index for index, _ in every]
    clips = [job.given.names(index) for index in chosen]
    step = job.progress.step + 1
    return NonFiniteLossError(
        f"{what} in update {step:,}, with the clips {', '.join(clips)}. {job.folder.last} is as it was. "
        "Look at these clips; if they are well, lower lr, set clip_grad, or use precision='no'",
        step=step,
        clips=clips,
    )


def _accuracy(output: Any, labels: Any, like: Tensor) -> Tensor:
    """Part of a batch whose highest logit is its label's; NaN where there are no classes."""
    if isinstance(output, Tensor) and output.ndim == 2 and isinstance(labels, Tensor) and labels.dtype == torch.int64:
        return (output.detach().argmax(1) == labels).to(like).mean()
    return torch.full_like(like, math.nan)
