"""The normalization after W_z, initialized to zero, so that a new block is the identity."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from torch_nonlocal.layers.identity import zero_initialized

NormKind = Literal["batch", "group", "layer"]
NORMS: tuple[NormKind | None, ...] = (*get_args(NormKind), None)
_BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalization over the channels of each position of a map (B, C, *size)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize a map (B, C, *size). The shape does not change."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def zero_norm(
    kind: NormKind | None, channels: int, dims: int, *, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module:
    """Create a norm with zero weight and bias, or `nn.Identity` for None. `reset_parameters` sets them to zero again.

    Raises:
        ValueError: if `kind` is unknown.
    """
    if kind is None:
        return nn.Identity()
    if kind == "batch":
        norm: nn.Module = _BATCH_NORMS[dims](channels, device=device, dtype=dtype)
    elif kind == "group":
        # 32 groups as in Wu and He, Group Normalization, ECCV 2018, or the largest divisor of the channels below.
        groups = next(count for count in range(min(32, channels), 0, -1) if channels % count == 0)
        norm = nn.GroupNorm(groups, channels, device=device, dtype=dtype)
    elif kind == "layer":
        norm = ChannelLayerNorm(channels, device=device, dtype=dtype)
    else:
        raise ValueError(f"norm={kind!r}: expected one of {', '.join(map(repr, NORMS))}")
    return zero_initialized(norm)
