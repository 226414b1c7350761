"""The clip's frames as pictures inside the page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

_SMALL = 100  # pixels; below it frames keep their every pixel (PNG), as in the strips of `torch_nonlocal.view`
_LONGEST_SIDE = 960  # pixels; more is not seen on the page and only makes it big
_QUALITY = 86


def data_uris(clip_THWC: np.ndarray) -> list[str]:
    """One picture a frame: PNG of small frames, JPEG of others, at most 960 pixels on the longer side."""
    return [_data_uri(frame_HWC) for frame_HWC in clip_THWC]


def is_small(clip_THWC: np.ndarray) -> bool:
    """Whether the frames' single pixels are shown as squares."""
    return max(clip_THWC.shape[1:3]) < _SMALL


def _data_uri(frame_HWC: np.ndarray) -> str:
    image = Image.fromarray(frame_HWC)
    file = io.BytesIO()
    if max(image.size) < _SMALL:
        image.save(file, format="PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
        image.save(file, format="JPEG", quality=_QUALITY, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def eye_catcher(clip_THWC: np.ndarray) -> tuple[int, float, float]:
    """A position worth showing first: the middle of the block of the middle frame that varies most."""
    frame = len(clip_THWC) // 2
    gray_HW = clip_THWC[frame].mean(axis=-1)
    height, width = gray_HW.shape
    step = max(1, min(height, width) // 8)
    rows, columns = height // step, width // step
    blocks = gray_HW[: rows * step, : columns * step].reshape(rows, step, columns, step)
    row, column = divmod(int(blocks.std(axis=(1, 3)).argmax()), columns)
    return frame, (row + 0.5) * step - 0.5, (column + 0.5) * step - 0.5
