"""How the blocks' attention develops: entropy and reach on a few clips."""

import math
from typing import Any

import torch
from torch import nn

from torch_nonlocal.layers import NonLocal

_LARGEST_MAP = 2**28  # weights a clip: statistics of more take longer than a test should


@torch.no_grad()
def attention_scalars(model: nn.Module, clips: Any, count: int) -> dict[str, float]:
    """Statistics of every block, as means over the clips.

    Args:
        model: in eval mode, on the clips' device; its weights are left as they are.
        clips: what the model is called with, a batch.
        count: clips in it.

    Returns:
        "attention/<place>/entropy" (of uniform, in [0, 1]), ".../on_itself" (share), ".../reach_pixels" and, for clips,
        ".../reach_frames" (in input pixels and frames). Empty for a network without blocks; blocks with more than 2^28
        weights a clip are left out.
    """
    if not any(isinstance(module, NonLocal) for module in model.modules()):
        return {}
    from torch_nonlocal.attention import watch

    with watch(model) as seen:
        model(clips)
    scalars: dict[str, float] = {}
    for name, record in seen.items():
        positions = record.geometry.grid
        if record.weights.keys * math.prod(positions) > _LARGEST_MAP:
            continue
        measured = [record.statistics(batch=i) for i in range(min(count, record.batch_size))]
        for what in ("entropy", "on_itself", "reach_pixels", "reach_frames"):
            values = [getattr(one, what) for one in measured]
            if None not in values:
                scalars[f"attention/{name}/{what}"] = sum(values) / len(values)
    return scalars
