"""The normalisation after W_z, zero-initialised so that the block starts as the identity."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

NormKind = Literal["batch", "group", "layer"]
NORMS: tuple[NormKind | None, ...] = (*get_args(NormKind), None)
_BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of each position of a channels-first map (B, C, *size)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, *size) -> the same shape."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def zero_norm(
    kind: NormKind | None, channels: int, dims: int, *, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module:
    """A norm whose weight and bias are zero; `nn.Identity` for None.

    Raises:
        ValueError: an unknown kind.
    """
    if kind is None:
        return nn.Identity()
    if kind == "batch":
        norm: nn.Module = _BATCH_NORMS[dims](channels, device=device, dtype=dtype)
    elif kind == "group":
        # 32 groups (Wu and He, Group Normalization, ECCV 2018) where they divide the channels, else the next best.
        groups = next(count for count in range(min(32, channels), 0, -1) if channels % count == 0)
        norm = nn.GroupNorm(groups, channels, device=device, dtype=dtype)
    elif kind == "layer":
        norm = ChannelLayerNorm(channels, device=device, dtype=dtype)
    else:
        raise ValueError(f"norm={kind!r}: expected one of {', '.join(map(repr, NORMS))}")
    for parameter in norm.parameters():
        nn.init.zeros_(parameter)
    return norm
