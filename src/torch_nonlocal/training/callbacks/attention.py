"""Attention statistics of non-local blocks during training."""

import math
from typing import Any

import torch
from torch import nn

from torch_nonlocal.layers.operation import is_observable

_LARGEST_MAP = 2**28  # weights per item; statistics of larger maps take longer than an evaluation should


@torch.no_grad()
def attention_scalars(model: nn.Module, inputs: Any, count: int) -> dict[str, float]:
    """Attention statistics of every block, as means over items.

    Args:
        model: in eval mode, on the device of the inputs; its weights are not changed.
        inputs: model input, a batch.
        count: number of items in the batch.

    Returns:
        "attention/<module>/entropy" (relative to uniform, in [0, 1]), ".../on_itself" (weight of a position on itself,
        in [0, 1]), ".../reach_pixels" and, for clips, ".../reach_frames" (in input pixels and frames). Empty for a
        model without blocks. Blocks with more than 2^28 weights per item are left out.
    """
    if not any(is_observable(module) for module in model.modules()):
        return {}
    from torch_nonlocal.attention import watch

    with watch(model) as seen:
        model(inputs)
    scalars: dict[str, float] = {}
    for name, record in seen.items():
        positions = record.geometry.grid
        if record.weights.keys * math.prod(positions) > _LARGEST_MAP:
            continue
        measured = [record.statistics(batch=i) for i in range(min(count, record.batch_size))]
        for statistic in ("entropy", "on_itself", "reach_pixels", "reach_frames"):
            values = [getattr(one, statistic) for one in measured]
            if None not in values:
                scalars[f"attention/{name}/{statistic}"] = sum(values) / len(values)
    return scalars
