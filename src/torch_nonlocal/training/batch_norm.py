"""Batch norms in training: frozen norms, and statistics recomputed before an evaluation."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from torch_nonlocal.layers import Block

BatchNorm = nn.modules.batchnorm._BatchNorm


def frozen_norms(model: nn.Module, head: Iterable[nn.Module] = ()) -> list[nn.Module]:
    """All batch norms except those of non-local blocks, whose weight starts at zero, and of the head, which is new."""
    trained = inside([*blocks_in(model), *head])
    return [one for one in model.modules() if isinstance(one, BatchNorm) and id(one) not in trained]


def blocks_in(model: nn.Module) -> list[nn.Module]:
    """The non-local blocks of a model."""
    return [one for one in model.modules() if isinstance(one, Block)]


def inside(modules: Iterable[nn.Module]) -> set[int]:
    """Identities of modules and of all that they contain."""
    return {id(inner) for module in modules for inner in module.modules()}


def freeze_parameters(norms: Iterable[nn.Module]) -> None:
    """Exclude weight and bias of these norms from training."""
    for norm in norms:
        norm.requires_grad_(False)


def train_mode(model: nn.Module, frozen: Iterable[nn.Module]) -> None:
    """Set train mode; frozen norms stay in eval mode and normalize with their running statistics."""
    model.train()
    for norm in frozen:
        norm.eval()


@torch.no_grad()
def recompute_statistics(model: nn.Module, inputs: Iterable[Any], frozen: Iterable[nn.Module]) -> None:
    """Replace the running statistics of batch norms by their means over batches; leaves the model in eval mode.

    Args:
        model: all modules except its batch norms run in eval mode.
        inputs: model inputs, one per batch; not read if there are no statistics to compute.
        frozen: norms that keep their statistics.

    Reference: Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021 (precise batch norm).
    """
    kept = {id(norm) for norm in frozen}
    batch_norms = [one for one in model.modules() if isinstance(one, BatchNorm) and one.track_running_stats]
    norms = [one for one in batch_norms if id(one) not in kept]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # None makes torch compute the cumulative mean
        norm.train()
    try:
        for one in inputs if norms else ():
            model(one)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
