"""Non-local means of images, videos and volumes: options and their checks.

Shapes: B batch, C channels, T frames, H height, W width.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torch_nonlocal._common.tracing import is_dual, needs_plain_operations
from torch_nonlocal.denoising import everywhere, plain, windowed
from torch_nonlocal.denoising.scaling import Filter, Sizes

_AXES = {4: "(B, C, H, W)", 5: "(B, C, T, H, W)"}


def non_local_means(
    images: Tensor,
    *,
    patch: int | Sequence[int] = 7,
    window: int | Sequence[int] | None = 21,
    h: float,
    sigma: float = 0.0,
) -> Tensor:
    """Denoise images by non-local means: each pixel becomes a mean of pixels, weighted by the similarity of patches.

        y_i = sum_j w_ij x_j / sum_j w_ij        w_ij = exp(-max(|P_i - P_j|^2 / D - 2 sigma^2, 0) / h^2)

    P_i are the D values of the patch around pixel i, of all channels; beyond the border, the image is reflected without
    repeating its edge, as by F.pad(mode="reflect"). All values of a patch count alike. The sum runs over the pixels of
    the window around i that are in the image, including i, or over all pixels. It is exact, and no map of pairs exists:
    the memory grows with the number of pixels.

    With sigma = 0 this is `embedded_gaussian` with theta_i = [2 P_i, 1] / (D h^2), phi_j = [P_j, -|P_j|^2] and g = x,
    restricted to the window.

    Args:
        images: (B, C, H, W), or videos or volumes, (B, C, T, H, W), of any floating dtype and range. Half types are
            computed in float32.
        patch: side of a patch in pixels, odd; one number or one for each of (T,) H, W.
        window: side of the window in pixels, odd; one number or one for each of (T,) H, W. None for all pixels.
        h: filter strength, in the unit of the pixels; larger values smooth more.
        sigma: standard deviation of the noise, in the unit of the pixels. The expected squared difference of two noisy
            copies of one patch is subtracted. For photographs, h = 0.7 sigma is suitable; without sigma, h equal to the
            standard deviation of the noise.

    Returns:
        The denoised images, of the shape and dtype of `images`. They have derivatives of any order with respect to
        `images`; backward computes the weights again and takes several times as long.

    Raises:
        ValueError: if the images are empty, not floating-point, not finite or smaller than half a patch, or an option
            is out of its range.

    Reference: Buades et al., A non-local algorithm for image denoising, CVPR 2005; the noise term: Buades et al.,
    Non-Local Means Denoising, Image Processing On Line, 2011.
    """
    options = _checked(images, _AXES, patch, window, h, sigma)
    images_BCTHW = _with_frames(images, options)
    with torch.autocast(images.device.type, enabled=False):
        means = torch.stack([_denoise(image_CTHW, options) for image_CTHW in images_BCTHW])
    return means.view(images.shape).to(images.dtype)


def non_local_means_weights(
    image: Tensor,
    at: Sequence[int],
    *,
    patch: int | Sequence[int] = 7,
    window: int | Sequence[int] | None = 21,
    h: float,
    sigma: float = 0.0,
) -> Tensor:
    """Compute the weights with which `non_local_means` averages one pixel.

    Args:
        image: (C, H, W), or a video or volume, (C, T, H, W).
        at: the pixel, (y, x) or (t, y, x).
        patch: see `non_local_means`.
        window: see `non_local_means`.
        h: see `non_local_means`.
        sigma: see `non_local_means`.

    Returns:
        The weights of all pixels, (H, W) or (T, H, W). They are zero outside the window and sum to one.

    Raises:
        ValueError: as for `non_local_means`, or if the pixel is outside the image.
    """
    options = _checked(
        image[None], {rank: axes.replace("B, ", "") for rank, axes in _AXES.items()}, patch, window, h, sigma
    )
    sizes = tuple(image.shape[1:])
    place = tuple(at)
    if len(place) != len(sizes) or not all(0 <= one < size for one, size in zip(place, sizes, strict=True)):
        raise ValueError(f"at={place}: expected {len(sizes)} numbers from 0, below {sizes}")
    (image_CTHW,) = _with_frames(image[None], options)
    t, y, x = (0, *place)[-3:]
    weights_THW = plain.row(image_CTHW, (t, y, x), options.patch, options.radius, options.scale)
    return weights_THW.view(sizes).to(image.dtype)


class _Options(NamedTuple):
    """Checked options. Images have one frame."""

    patch: Sizes
    radius: Sizes | None
    scale: Filter


def _denoise(image_CTHW: Tensor, options: _Options) -> Tensor:
    differentiated = torch.is_grad_enabled() and image_CTHW.requires_grad
    if differentiated or is_dual(image_CTHW) or needs_plain_operations(image_CTHW):
        return plain.denoise(image_CTHW, *options)
    patch, radius, scale = options
    if radius is None:
        return everywhere.denoise(image_CTHW.detach(), patch, scale)
    return windowed.denoise(image_CTHW.detach(), patch, radius, scale)


def _with_frames(images: Tensor, options: _Options) -> Tensor:
    """The images as float32 or float64, (B, C, T, H, W)."""
    dtype = torch.promote_types(images.dtype, torch.float32)
    if options.radius is None and torch.get_float32_matmul_precision() != "highest":
        dtype = torch.float64  # products of float32 may be rounded to TF32 or bfloat16, which loses small distances
    return images.to(dtype) if images.ndim == 5 else images.to(dtype).unsqueeze(2)


def _checked(
    images: Tensor,
    expected: dict[int, str],
    patch: int | Sequence[int],
    window: int | Sequence[int] | None,
    h: float,
    sigma: float,
) -> _Options:
    shape = tuple(images.shape)
    if images.ndim not in expected:
        raise ValueError(f"expected images {' or '.join(expected.values())}, got shape {shape}")
    if not images.is_floating_point():
        raise ValueError(f"expected floating-point images, got {images.dtype}; for 8-bit images, images.float() / 255")
    if images.numel() == 0:
        raise ValueError(f"expected images with at least one pixel, got shape {shape}")
    for name, value, valid in (("h", h, h > 0), ("sigma", sigma, sigma >= 0)):
        if not (valid and math.isfinite(value)):
            least = "more than 0" if name == "h" else "0 or more"
            raise ValueError(f"{name}={value}: expected a finite number, {least}, in the unit of the pixels")
    sizes = shape[2:]
    patches = _per_axis("patch", patch, len(sizes))
    if any(one // 2 >= size for one, size in zip(patches, sizes, strict=True)):
        raise ValueError(
            f"patch={patch}: images of {' x '.join(map(str, sizes))} pixels are too small; reflection at the border "
            f"needs more than {' x '.join(str(one // 2) for one in patches)}"
        )
    radius = None
    if window is not None:
        windows = _per_axis("window", window, len(sizes))
        radius = tuple(min(one // 2, size - 1) for one, size in zip(windows, sizes, strict=True))
    if not needs_plain_operations(images) and not bool(images.isfinite().all()):
        count = int((~images.isfinite()).sum())
        raise ValueError(f"expected finite images, got {count} values that are NaN or infinite")
    scale = Filter.of(h, sigma, shape[1] * math.prod(patches))
    return _Options(_of_three(patches, 1), None if radius is None else _of_three(radius, 0), scale)


def _per_axis(name: str, given: int | Sequence[int], axes: int) -> tuple[int, ...]:
    sizes = tuple(given) if isinstance(given, Sequence) else (given,) * axes
    if len(sizes) != axes or not all(isinstance(size, int) and size >= 1 and size % 2 for size in sizes):
        raise ValueError(f"{name}={given}: expected an odd number of pixels, or {axes} of them, one for each axis")
    return sizes


def _of_three(sizes: tuple[int, ...], frames: int) -> Sizes:
    t, y, x = (frames, *sizes)[-3:]
    return t, y, x
