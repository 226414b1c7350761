"""Finished drawings, shown in a notebook or saved as raster or vector graphics."""

from __future__ import annotations

import io
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from torch_nonlocal._common.files import replacing

_DOTS_PER_INCH = 200
_VECTOR_DOTS_PER_INCH = 300  # resolution of the frames inside a PDF or SVG
_PIXELS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_VECTORS: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # reproducible files


class Picture:
    """A drawing made with matplotlib.

    Attributes:
        figure: the matplotlib figure; change it before the picture is first shown or saved.
        frames: indices of the frames of the clip that the drawing shows, in order.
    """

    def __init__(self, figure: Figure, frames: list[int]) -> None:
        self.figure = figure
        self.frames = frames

    @cached_property
    def image(self) -> Image.Image:
        """The drawing as an RGB PIL image at 200 pixels per inch."""
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)
        with Image.open(file) as image:
            return image.convert("RGB")

    @property
    def array(self) -> np.ndarray:
        """The drawing as (H, W, 3) RGB, uint8 in [0, 255]."""
        return np.asarray(self.image)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the drawing: as an image for .png and .jpg, as vector graphics with selectable text for .svg and .pdf.

        Returns:
            The path of the file.

        Raises:
            ValueError: the suffix is another or the folder does not exist; no file is written.
        """
        suffix = Path(path).suffix.lower()
        if suffix in _PIXELS:
            with replacing(path) as temporary:
                self.image.save(temporary, format=_PIXELS[suffix], dpi=(_DOTS_PER_INCH,) * 2, quality=92)
        elif suffix in _VECTORS:
            text_stays_text: dict[Any, Any] = {
                "svg.fonttype": "none",
                "pdf.fonttype": 42,
                "svg.hashsalt": "torch-nonlocal",
            }
            with replacing(path) as temporary, rc_context(text_stays_text):
                self.figure.savefig(temporary, format=suffix[1:], dpi=_VECTOR_DOTS_PER_INCH, metadata=_VECTORS[suffix])
        else:
            known = ", ".join([*_PIXELS, *_VECTORS])
            raise ValueError(f"{os.fspath(path)!r}: expected a file name ending in {known}")
        return Path(path)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.image.save(file, format="PNG")
        return file.getvalue()
