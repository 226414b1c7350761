"""Optimizer, parameter groups, and the learning rate as a function of the step."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.distributed.sharding import gather_full
from torch_nonlocal.training.config import TrainConfig

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_ONE_CYCLE_START = 25
_ONE_CYCLE_END = 250_000
_STEP_FACTOR = 0.1
_ONE_CYCLE_WARMUP = 0.1
EXTENSION_FACTOR = 0.1
"""Learning rate of an extension, as a fraction of the peak."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: with weight decay, and without (norms, biases, other vectors and scalars).

    Raises:
        ValueError: if the model has no trainable parameter.
    """
    in_norms = {
        id(one) for module in model.modules() if isinstance(module, _NORMS) for one in module.parameters(recurse=False)
    }
    trainable = [one for one in model.parameters() if one.requires_grad]
    if not trainable:
        raise ValueError("the model has no parameter that requires a gradient: nothing to train")
    plain = [one for one in trainable if one.ndim <= 1 or id(one) in in_norms]
    chosen = {id(one) for one in plain}
    decayed = [one for one in trainable if id(one) not in chosen]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW, as configured, over the model's parameter groups."""
    groups = parameter_groups(model, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
    return torch.optim.AdamW(groups, lr=config.lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times the group's "lr_scale" (default 1)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def learning_rate_factor(config: TrainConfig, step: int, ends: Sequence[int]) -> float:
    """Factor of the learning rate at a step, counted from 0, of a run that may have been extended.

    Steps before the first end follow the schedule. The learning rate of steps that are done must not change, and most
    schedules end at 0, where more steps change nothing. Each extension is therefore constant-then-decay: a tenth of the
    peak for half of its steps, then linear to 0. A tenth changes what is learned without undoing it; it is the rate of
    the step schedule after its first milestone.

    Args:
        config: configuration of the run.
        step: number of the step.
        ends: number of steps of the run at first, and after each extension.

    Reference: Haegele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations, 2024.
    """
    if step < ends[0]:
        return schedule_factor(config, step, ends[0])
    start, stop = next((start, stop) for start, stop in pairwise(ends) if step < stop)
    constant = (stop - start) // 2
    return EXTENSION_FACTOR * min(1.0, (stop - step) / (stop - start - constant))


def schedule_factor(config: TrainConfig, step: int, steps: int) -> float:
    """Factor of the learning rate at a step, counted from 0, in a run of `steps` steps.

    Warm-up rises linearly and reaches 1 at its last step.
    """
    rising = round(config.warmup * steps)
    if config.schedule == "one-cycle":
        return _one_cycle(step, steps, rising or max(1, round(_ONE_CYCLE_WARMUP * steps)))
    if step < rising:
        return (step + 1) / rising
    if config.schedule == "cosine":
        return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2
    passed = sum(step >= round(milestone * steps) for milestone in config.milestones)
    return _STEP_FACTOR**passed


def _one_cycle(step: int, steps: int, rising: int) -> float:
    """Smith and Topin, Super-convergence, 2018; with cosine annealing, as torch's OneCycleLR."""
    top = rising - 1
    if step < top:
        return _cosine(1 / _ONE_CYCLE_START, 1.0, step / top)
    return _cosine(1.0, 1 / _ONE_CYCLE_END, (step - top) / max(1, steps - 1 - top))


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, a scalar; for sharded gradients, over all processes."""
    return gather_full(nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None]))


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply all gradients by a factor, in place."""
    for one in parameters:
        if one.grad is not None:
            one.grad.mul_(factor)
