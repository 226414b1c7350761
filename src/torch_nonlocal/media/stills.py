"""Images with all their values: 8 or 16 bits, gray or color, with alpha.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_nonlocal._common.files import replacing
from torch_nonlocal._common.optional import require
from torch_nonlocal.media.broken import BrokenVideoError, Deadline
from torch_nonlocal.media.container import opened
from torch_nonlocal.media.frame_folders import opened_picture
from torch_nonlocal.media.limits import check_pixels, quoted

_FORMATS = {
    ".bmp": "BMP", ".jpeg": "JPEG", ".jpg": "JPEG", ".pgm": "PPM", ".png": "PNG", ".ppm": "PPM", ".tif": "TIFF",
    ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
SUFFIXES = tuple(_FORMATS)
"""Suffixes of image files that can be read and written."""
_WITH_16_BITS = ("PNG", "TIFF")
_WITH_ALPHA = ("PNG", "TIFF", "WEBP")
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"lossless": True},
}
_KEPT = ("dpi", "exif", "icc_profile")
_PLAIN_MODE = {
    "1": "L",
    "La": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGBa": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
}


class Still(NamedTuple):
    """An image.

    Attributes:
        pixels: (C, H, W), float32 in [0, 1]; one channel for gray images, three for color.
        alpha: (H, W), the opacity as stored, integers; None without.
        bits: 8 or 16 for each value.
        kept: resolution, EXIF data and color profile, as Pillow's `save` takes them; not of colors with 16 bits.
    """

    pixels: Tensor
    alpha: Tensor | None
    bits: int
    kept: dict[str, Any]

    @property
    def highest(self) -> int:
        """The largest stored value."""
        return 2**self.bits - 1


def read_still(path: str | os.PathLike[str]) -> Still:
    """Read an image. Palettes become colors; the orientation of EXIF stays a tag.

    Raises:
        BrokenVideoError: (a ValueError) the file is missing, damaged or too large, or has several pages
            or values of other than 8 or 16 bits.
        ImportError: Pillow or, for colors with 16 bits, PyAV is not installed.
    """
    np = require("numpy", extra="video")
    name = f"the image {quoted(path)}"
    with opened_picture(path, name) as picture:
        check_pixels(name, picture.height, picture.width)
        if getattr(picture, "n_frames", 1) > 1:
            raise BrokenVideoError(f"{name} has {picture.n_frames} pages, expected one", "unreadable")
        kept = {key: picture.info[key] for key in _KEPT if picture.info.get(key)}
        if picture.mode in ("RGB", "RGBA", "LA") and ";16" in str(picture.tile):  # Pillow would drop the lower 8 bits
            return _read_deep_colors(path, name)
        if picture.mode == "F" or (picture.mode.startswith("I") and not picture.mode.startswith("I;16")):
            raise BrokenVideoError(f"{name} has values of 32 bits, expected 8 or 16", "unreadable")
        mode = _PLAIN_MODE.get(picture.mode, picture.mode)
        if "transparency" in picture.info and mode in ("L", "RGB"):
            mode += "A"
        values = np.array(picture if mode == picture.mode else picture.convert(mode))
    return _still(torch.from_numpy(values.astype(np.int32)), 16 if mode.startswith("I") else 8, kept)


def check_still(path: str | os.PathLike[str], still: Still) -> None:
    """Check that a file of this name can hold the values of an image, before long work.

    Raises:
        ValueError: the suffix is unknown, or its format has no 16 bits or no alpha.
    """
    kind = _format(path)
    for lacks, what, able in (
        (still.bits == 16, "16 bits", _WITH_16_BITS),
        (still.alpha is not None, "alpha", _WITH_ALPHA),
    ):
        if lacks and kind not in able:
            endings = ", ".join(suffix for suffix, one in _FORMATS.items() if one in able)
            raise ValueError(f"{quoted(path)}: {kind} files have no {what}; expected a name that ends in {endings}")


def write_still(path: str | os.PathLike[str], still: Still) -> Path:
    """Write an image with the bits, the alpha and the metadata that it has, atomically. Values are rounded.

    Raises:
        ValueError: as for `check_still`; no file is written.
        ImportError: Pillow or, for colors with 16 bits, PyAV is not installed.
    """
    np = require("numpy", extra="video")
    image = require("PIL.Image", extra="video")
    check_still(path, still)
    kind = _format(path)
    planes = [still.pixels.clamp(0, 1).mul(still.highest).round().cpu()]
    planes += [] if still.alpha is None else [still.alpha[None].to(planes[0].dtype)]
    values_HWC = torch.cat(planes).permute(1, 2, 0).numpy().astype(np.uint8 if still.bits == 8 else np.uint16)
    with replacing(path) as temporary:
        if still.bits == 16 and values_HWC.shape[2] > 1:
            temporary.write_bytes(_deep_colors(values_HWC, kind))
        else:
            plain = values_HWC[..., 0] if values_HWC.shape[2] == 1 else values_HWC
            image.fromarray(np.ascontiguousarray(plain)).save(
                temporary, format=kind, **_OPTIONS.get(kind, {}), **still.kept
            )
    return Path(path)


def _still(values: Tensor, bits: int, kept: dict[str, Any]) -> Still:
    """A still of integers, (H, W) or (H, W, C) with gray, gray and alpha, colors, or colors and alpha."""
    values_HWC = values if values.ndim == 3 else values.unsqueeze(2)
    *_, count = values_HWC.shape
    colors = 1 if count < 3 else 3
    alpha_HW = values_HWC[..., colors] if count > colors else None
    return Still(values_HWC[..., :colors].permute(2, 0, 1).float().div(2**bits - 1), alpha_HW, bits, kept)


def _read_deep_colors(path: str | os.PathLike[str], name: str) -> Still:
    np = require("numpy", extra="video")
    with opened(path, Deadline(path, None)) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise BrokenVideoError(f"{name} cannot be read: it has no pixels", "damaged")
        if not frame.format.name.startswith(("rgb48", "rgba64")):
            raise BrokenVideoError(f"{name} has the format {frame.format.name}, which cannot be read", "unreadable")
        return _still(torch.from_numpy(frame.to_ndarray().astype(np.int32)), 16, {})


def _deep_colors(values_HWC: Any, kind: str) -> bytes:
    """A file of colors with 16 bits, which Pillow does not write; gray with alpha is written as colors."""
    av = require("av", extra="video")
    np = require("numpy", extra="video")
    if values_HWC.shape[2] == 2:
        values_HWC = values_HWC[..., [0, 0, 0, 1]]
    form = ("rgb48" if values_HWC.shape[2] == 3 else "rgba64") + ("be" if kind == "PNG" else "le")
    codec = av.CodecContext.create(kind.lower(), "w")
    codec.height, codec.width = values_HWC.shape[:2]
    codec.pix_fmt, codec.time_base = form, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(values_HWC), format=form)
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


def _format(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(f"{quoted(path)}: expected a name that ends in {', '.join(_FORMATS)}")
    return _FORMATS[suffix]
