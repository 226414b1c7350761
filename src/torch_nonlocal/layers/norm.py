"""The normalization after W_z, initialized to zero, so that a new block is the identity."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from torch_nonlocal.layers.identity import zero_initialized

NormKind = Literal["batch", "group", "layer"]
NORMS: tuple[NormKind | None, ...] = (*get_args(NormKind), None)
_EPSILON, _MOMENTUM = 1e-5, 0.1  # PyTorch's defaults
_BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalization over the channels of each position of a map (B, C, *size)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize a map (B, C, *size). The shape does not change."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def zero_norm(
    kind: NormKind | None,
    channels: int,
    dims: int,
    options: Mapping[str, float] | None = None,
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    """Create a norm with zero weight and bias, or `nn.Identity` for None. `reset_parameters` sets them to zero again.

    Args:
        kind: "batch", "group", "layer" or None.
        channels: channels of the map.
        dims: axes of the map.
        options: "eps", "momentum" (batch) and "num_groups" (group) other than PyTorch's defaults.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: if `kind` is unknown, or an option has an invalid value.
    """
    if kind not in NORMS:
        raise ValueError(f"norm={kind!r}: expected one of {', '.join(map(repr, NORMS))}")
    given = _checked(kind, channels, options)
    if kind is None:
        return nn.Identity()
    if kind == "batch":
        norm: nn.Module = _BATCH_NORMS[dims](channels, **given, device=device, dtype=dtype)
    elif kind == "group":
        groups = int(given.pop("num_groups", _usual_groups(channels)))
        norm = nn.GroupNorm(groups, channels, **given, device=device, dtype=dtype)
    else:
        norm = ChannelLayerNorm(channels, **given, device=device, dtype=dtype)
    return zero_initialized(norm)


def changed_options(norm: nn.Module) -> dict[str, float] | None:
    """The options of a norm that differ from the defaults, as `zero_norm` takes them; None if none does."""
    found: dict[str, float] = {}
    if isinstance(norm, _BatchNorm):
        found = {"eps": norm.eps, "momentum": _MOMENTUM if norm.momentum is None else norm.momentum}
    elif isinstance(norm, nn.GroupNorm):
        found = {"eps": norm.eps, "num_groups": norm.num_groups}
    elif isinstance(norm, ChannelLayerNorm):
        found = {"eps": norm.eps}
    usual = {"eps": _EPSILON, "momentum": _MOMENTUM, "num_groups": _usual_groups(getattr(norm, "num_channels", 1))}
    return {name: value for name, value in found.items() if value != usual[name]} or None


def _checked(kind: str | None, channels: int, options: Mapping[str, float] | None) -> dict[str, Any]:
    known = {"batch": ("eps", "momentum"), "group": ("eps", "num_groups"), "layer": ("eps",)}.get(kind or "", ())
    for name, value in (options or {}).items():
        if name not in known:
            raise ValueError(f"norm_options: norm={kind!r} has no option {name!r}; it has {', '.join(known) or 'none'}")
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
        if not number or (name == "num_groups" and (not isinstance(value, int) or value < 1 or channels % value)):
            wanted = f"a divisor of {channels} channels" if name == "num_groups" else "a number of at least 0"
            raise ValueError(f"norm_options: {name}={value!r}, expected {wanted}")
    return dict(options or {})


def _usual_groups(channels: int) -> int:
    """32 groups as in Wu and He, Group Normalization, ECCV 2018, or the largest divisor of the channels below."""
    return next(count for count in range(min(32, channels), 0, -1) if channels % count == 0)
