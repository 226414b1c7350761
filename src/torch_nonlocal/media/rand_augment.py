"""RandAugment for clips: a few random changes of geometry and color, the same ones in all frames of a clip.

The operations are torchvision's. Those that measure the picture (contrast, autocontrast, equalize) measure all frames
together, so a clip does not flicker, and a change of brightness over time remains.

Shapes: T frames, C channels, H height, W width.
Reference: Cubuk et al., RandAugment, NeurIPS 2020; ranges of the operations as in AutoAugment (CVPR 2019).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_nonlocal._common.optional import require

OPERATIONS = 2
"""Operations per clip."""
LARGEST = 30
"""Magnitude at the end of the ranges."""
_SHEAR, _SHIFT, _DEGREES, _FACTOR, _BITS = 0.3, 150 / 331, 30.0, 0.9, 4  # at the largest magnitude
_FILL = [128.0]
_Apply = Callable[[Any, Tensor, float], Tensor]


class Operation(NamedTuple):
    """An operation and its strength, in [-1, 1]; negative in the other direction."""

    name: str
    strength: float


def draw_operations(magnitude: int, generator: torch.Generator) -> tuple[Operation, ...]:
    """Draw operations for a clip, each with this magnitude, 0 to 30, in either direction.

    Args:
        magnitude: strength of the operations.
        generator: a CPU generator; it is advanced.
    """
    names = list(_APPLY)
    drawn = []
    for _ in range(OPERATIONS):
        number, sign = torch.rand(2, generator=generator).tolist()
        strength = magnitude / LARGEST if sign < 0.5 else -magnitude / LARGEST
        drawn.append(Operation(names[int(number * len(names))], strength))
    return tuple(drawn)


def apply_operations(operations: tuple[Operation, ...], clip_TCHW: Tensor) -> Tensor:
    """Apply operations to a clip, (T, 3, H, W) uint8 -> the same shape."""
    functional = require("torchvision.transforms.v2.functional", extra="train")
    for name, strength in operations:
        clip_TCHW = _APPLY[name](functional, clip_TCHW, strength)
    return clip_TCHW


def _affine(functional: Any, clip: Tensor, **values: Any) -> Tensor:
    unchanged: dict[str, Any] = {
        "angle": 0.0,
        "translate": [0, 0],
        "scale": 1.0,
        "shear": [0.0, 0.0],
        "fill": _FILL * 3,
    }
    bilinear = require("torchvision.transforms", extra="train").InterpolationMode.BILINEAR
    return functional.affine(clip, **(unchanged | values), interpolation=bilinear)


def _degrees(shear: float) -> float:
    return float(torch.rad2deg(torch.atan(torch.tensor(shear))))


def _of_all_frames(change: Callable[[Tensor], Tensor], clip_TCHW: Tensor) -> Tensor:
    """Apply a change that measures the picture to all frames as one tall picture."""
    frames, channels, height, width = clip_TCHW.shape
    tall = clip_TCHW.transpose(0, 1).reshape(channels, frames * height, width)
    return change(tall).view(channels, frames, height, width).transpose(0, 1)


_APPLY: dict[str, _Apply] = {
    "identity": lambda f, clip, s: clip,
    "shear-x": lambda f, clip, s: _affine(f, clip, shear=[_degrees(_SHEAR * s), 0.0]),
    "shear-y": lambda f, clip, s: _affine(f, clip, shear=[0.0, _degrees(_SHEAR * s)]),
    "translate-x": lambda f, clip, s: _affine(f, clip, translate=[round(_SHIFT * s * clip.shape[3]), 0]),
    "translate-y": lambda f, clip, s: _affine(f, clip, translate=[0, round(_SHIFT * s * clip.shape[2])]),
    "rotate": lambda f, clip, s: _affine(f, clip, angle=_DEGREES * s),
    "brightness": lambda f, clip, s: f.adjust_brightness(clip, 1 + _FACTOR * s),
    "color": lambda f, clip, s: f.adjust_saturation(clip, 1 + _FACTOR * s),
    "contrast": lambda f, clip, s: _of_all_frames(lambda tall: f.adjust_contrast(tall, 1 + _FACTOR * s), clip),
    "sharpness": lambda f, clip, s: f.adjust_sharpness(clip, 1 + _FACTOR * s),
    "posterize": lambda f, clip, s: f.posterize(clip, 8 - round(_BITS * abs(s))),
    "solarize": lambda f, clip, s: f.solarize(clip, 255 * (1 - abs(s))),
    "autocontrast": lambda f, clip, s: _of_all_frames(f.autocontrast, clip),
    "equalize": lambda f, clip, s: _of_all_frames(f.equalize, clip),
}
