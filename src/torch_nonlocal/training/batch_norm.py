"""Batch norms in training: frozen ones, and statistics taken anew before a test."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from torch_nonlocal.layers import NonLocal

_BatchNorm = nn.modules.batchnorm._BatchNorm


def frozen_norms(model: nn.Module) -> list[nn.Module]:
    """The network's batch norms but for those in non-local blocks, whose scale starts at zero and has to be learned."""
    of_blocks = {id(inner) for block in model.modules() if isinstance(block, NonLocal) for inner in block.modules()}
    return [one for one in model.modules() if isinstance(one, _BatchNorm) and id(one) not in of_blocks]


def fix_weights(norms: Iterable[nn.Module]) -> None:
    """Leave scale and shift of these norms out of training."""
    for norm in norms:
        norm.requires_grad_(False)


def train_mode(model: nn.Module, frozen: Iterable[nn.Module]) -> None:
    """Train mode, but frozen norms normalise with the statistics they have."""
    model.train()
    for norm in frozen:
        norm.eval()


@torch.no_grad()
def take_statistics(model: nn.Module, inputs: Iterable[Any], frozen: Iterable[nn.Module]) -> None:
    """Replace the statistics of the batch norms by plain means over these inputs; leaves the network in eval mode.

    Args:
        model: everything but its batch norms runs in eval mode.
        inputs: what the model is called with; read only if there are statistics to take.
        frozen: norms to leave as they are.

    Reference: Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021 (precise batch norm).
    """
    kept = {id(norm) for norm in frozen}
    batch_norms = [one for one in model.modules() if isinstance(one, _BatchNorm) and one.track_running_stats]
    norms = [one for one in batch_norms if id(one) not in kept]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then takes the plain mean
        norm.train()
    try:
        for one in inputs if norms else ():
            model(one)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
