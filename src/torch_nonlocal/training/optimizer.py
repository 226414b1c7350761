"""Optimiser, parameter groups, and the learning rate as a function of the update."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.distributed.processes import whole
from torch_nonlocal.training.config import TrainConfig

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_ONE_CYCLE_START = 25
_ONE_CYCLE_END = 250_000
_TENTH = 0.1


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: decayed, and not decayed (norms, biases, other vectors and scalars).

    Raises:
        ValueError: nothing in the model can be trained.
    """
    of_norms = {
        id(one) for module in model.modules() if isinstance(module, _NORMS) for one in module.parameters(recurse=False)
    }
    trainable = [one for one in model.parameters() if one.requires_grad]
    if not trainable:
        raise ValueError("the model has no parameter that requires a gradient: nothing to train")
    plain = [one for one in trainable if one.ndim <= 1 or id(one) in of_norms]
    chosen = {id(one) for one in plain}
    decayed = [one for one in trainable if id(one) not in chosen]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over the model's parameter groups."""
    groups = parameter_groups(model, config.weight_decay)
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
    return torch.optim.AdamW(groups, lr=config.lr)


def schedule_factor(config: TrainConfig, step: int, steps: int) -> float:
    """What the learning rate is multiplied by at an update, counted from 0, of a run of `steps`.

    Warm-up rises linearly and reaches 1 at its last update.
    """
    rising = round(config.warmup * steps)
    if config.schedule == "one-cycle":
        return _one_cycle(step, steps, rising or max(1, round(_TENTH * steps)))
    if step < rising:
        return (step + 1) / rising
    if config.schedule == "cosine":
        return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2
    passed = sum(step >= round(milestone * steps) for milestone in config.milestones)
    return _TENTH**passed


def _one_cycle(step: int, steps: int, rising: int) -> float:
    """Smith and Topin, Super-convergence, 2018; with cosines, as in torch's OneCycleLR."""
    top = rising - 1
    if step < top:
        return _cosine(1 / _ONE_CYCLE_START, 1.0, step / top)
    return _cosine(1.0, 1 / _ONE_CYCLE_END, (step - top) / max(1, steps - 1 - top))


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, a scalar; of sharded ones, over all processes."""
    return whole(nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None]))


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply all gradients in place."""
    for one in parameters:
        if one.grad is not None:
            one.grad.mul_(factor)
