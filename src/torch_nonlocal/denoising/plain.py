"""Non-local means as ordinary PyTorch operations, for derivatives, and the weights of one pixel.

Forward, one map of weights exists at a time. Backward computes it again (`torch.utils.checkpoint`), so that the memory
grows with the number of pixels, not with that of pairs.

Shapes: C channels, T frames, H rows, W columns, N pixels, D values of a patch, R pixels of a part.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from torch_nonlocal._common.tracing import is_dual, needs_plain_operations
from torch_nonlocal.denoising.border import reflected
from torch_nonlocal.denoising.everywhere import patches
from torch_nonlocal.denoising.scaling import Filter, Sizes
from torch_nonlocal.denoising.windowed import half, inside, moved

WEIGHTS = 2**22
"""Weights of all pixels that exist at a time."""


def denoise(image_CTHW: Tensor, patch: Sizes, radius: Sizes | None, scale: Filter) -> Tensor:
    """Average each pixel with the pixels of its window, or with all pixels.

    Args:
        image_CTHW: float32 or float64, (C, T, H, W).
        patch: size of a patch along T, H and W, odd.
        radius: largest offset along T, H and W; None for all pixels.
        scale: exponents of the weights.

    Returns:
        (C, T, H, W), with derivatives of any order.
    """
    return _everywhere(image_CTHW, patch, scale) if radius is None else _windowed(image_CTHW, patch, radius, scale)


def row(image_CTHW: Tensor, at: Sizes, patch: Sizes, radius: Sizes | None, scale: Filter) -> Tensor:
    """The weights of all pixels in the mean of one pixel, (T, H, W); they sum to one."""
    padded_CTHW = reflected(image_CTHW * scale.factor, patch)
    sizes = image_CTHW.shape[1:]
    exponents_THW = torch.zeros_like(image_CTHW[0])
    for offset in product(*map(range, patch)):
        own_C = padded_CTHW[:, at[0] + offset[0], at[1] + offset[1], at[2] + offset[2]]
        others = tuple(slice(start, start + size) for start, size in zip(offset, sizes, strict=True))
        exponents_THW = exponents_THW - (padded_CTHW[:, *others] - own_C[:, None, None, None]).square().sum(0)
    weights_THW = scale.weights(exponents_THW)
    if radius is not None:
        for axis, (center, reach) in enumerate(zip(at, radius, strict=True)):
            places = torch.arange(sizes[axis], device=image_CTHW.device).view([-1, *[1] * (2 - axis)])
            weights_THW = weights_THW * ((places - center).abs() <= reach)
    return weights_THW / weights_THW.sum()


def _windowed(image_CTHW: Tensor, patch: Sizes, radius: Sizes, scale: Filter) -> Tensor:
    padded_CTHW = reflected(image_CTHW * scale.factor, patch)
    sums_CTHW, total_THW = torch.zeros_like(image_CTHW), torch.ones_like(image_CTHW[0])
    for step_t, step_y in half(radius[0], radius[1]):
        for step_x in range(-radius[2] if (step_t, step_y) > (0, 0) else 1, radius[2] + 1):
            step = (step_t, step_y, step_x)
            i = tuple(inside(size, one) for size, one in zip(image_CTHW.shape[1:], step, strict=True))
            j = tuple(moved(one, by) for one, by in zip(i, step, strict=True))
            weight_THW, weighted_CTHW = _recomputed(_offset, padded_CTHW, i, j, patch, scale)
            total_THW[i] += weight_THW
            total_THW[j] += weight_THW
            sums_CTHW[:, *i] += weighted_CTHW
            sums_CTHW[:, *j] -= weighted_CTHW
    return image_CTHW + sums_CTHW / (total_THW * scale.factor)


def _offset(
    padded_CTHW: Tensor, i: tuple[slice, ...], j: tuple[slice, ...], patch: Sizes, scale: Filter
) -> tuple[Tensor, Tensor]:
    """The weights between pixels i and j, and the weighted differences x_j - x_i."""
    here, there = (
        padded_CTHW[:, *(slice(one.start, one.stop + size - 1) for one, size in zip(places, patch, strict=True))]
        for places in (i, j)
    )
    diff_CTHW = there - here
    squares_THW = diff_CTHW.square().sum(0)
    exponents_THW = -F.avg_pool3d(squares_THW[None, None], patch, stride=1, divisor_override=1)[0, 0]
    weight_THW = scale.weights(exponents_THW)
    centers = (slice(size // 2, size // 2 + one.stop - one.start) for one, size in zip(i, patch, strict=True))
    return weight_THW, weight_THW * diff_CTHW[:, *centers]


def _everywhere(image_CTHW: Tensor, patch: Sizes, scale: Filter) -> Tensor:
    P_ND = patches(image_CTHW, patch)
    P_ND = (P_ND - P_ND.detach().mean()) * scale.factor
    values_NC = image_CTHW.flatten(1).mT
    part = max(1, WEIGHTS // len(P_ND))
    means = [_recomputed(_means, P_RD, P_ND, values_NC, scale) for P_RD in P_ND.split(part)]
    return torch.cat(means).mT.reshape(image_CTHW.shape)


def _means(P_RD: Tensor, P_ND: Tensor, values_NC: Tensor, scale: Filter) -> Tensor:
    norms_RN = P_RD.square().sum(1, keepdim=True) + P_ND.square().sum(1)
    weights_RN = scale.weights((2 * P_RD @ P_ND.mT - norms_RN).clamp(max=0))
    return weights_RN @ values_NC / weights_RN.sum(1, keepdim=True)


def _recomputed(function: Callable[..., Any], image: Tensor, *more: Any) -> Any:
    """Call a function whose intermediate results are computed again in backward, where PyTorch supports that."""
    if needs_plain_operations(image) or is_dual(image):
        return function(image, *more)
    return checkpoint(function, image, *more, use_reentrant=False)
