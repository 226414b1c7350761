"""Averaged weights: an exponential moving average beside the trained ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of a network's floating weights and statistics.

    After update t (from 1): average <- average + (1 - d) (weights - average), d = min(decay, (1 + t) / (10 + t)). The
    smaller d of the first updates (as TensorFlow's ExponentialMovingAverage has it) forgets the untrained weights.

    Args:
        model: averaged from its weights of now.
        decay: in (0, 1).

    Attributes:
        values: by name, as in the network's state_dict; sharded as those are.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {name: one.clone() for name, one in tensors_of(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after update `step`, counted from 1; counters are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, weight in tensors_of(model).items():
            if weight.is_floating_point():
                self.values[name].lerp_(weight, 1 - decay)
            else:
                self.values[name].copy_(weight)


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Whatever happens to the network's weights and statistics inside, afterwards they are bit for bit as before."""
    kept = {name: one.clone() for name, one in tensors_of(model).items()}
    try:
        yield
    finally:
        copy_into(model, kept)


@torch.no_grad()
def copy_into(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy tensors, by name, into the network's own."""
    for name, one in tensors_of(model).items():
        one.copy_(values[name])


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the network's state_dict: its own, detached, not copies."""
    return {name: one for name, one in model.state_dict().items() if isinstance(one, Tensor)}
