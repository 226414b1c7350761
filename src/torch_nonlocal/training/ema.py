"""Exponential moving average (EMA) of a model's weights, and weights that are exchanged for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of a model's floating-point parameters and buffers.

    After step t, counted from 1: average <- average + (1 - d) (weights - average), d = min(decay, (1 + t) / (10 + t)).
    The smaller d of the first steps, as in TensorFlow's ExponentialMovingAverage, forgets the untrained weights.

    Args:
        model: the average starts at its current weights.
        decay: in (0, 1).

    Attributes:
        values: the averages by state_dict name; sharded like the model's tensors.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {name: one.clone() for name, one in state_tensors(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Add the weights after step `step`, counted from 1. Integer buffers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, weight in state_tensors(model).items():
            if weight.is_floating_point():
                self.values[name].lerp_(weight, 1 - decay)
            else:
                self.values[name].copy_(weight)


@contextmanager
def restore_state(model: nn.Module) -> Iterator[None]:
    """Restore all parameters and buffers bit for bit on exit, also after an exception."""
    kept = {name: one.clone() for name, one in state_tensors(model).items()}
    try:
        yield
    finally:
        copy_into(model, kept)


@torch.no_grad()
def copy_into(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy tensors into the model's own by state_dict name."""
    for name, one in state_tensors(model).items():
        one.copy_(values[name])


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the model's state_dict, detached but not copied."""
    return {name: one for name, one in model.state_dict().items() if isinstance(one, Tensor)}
