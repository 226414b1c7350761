"""The frames of the clip as pictures embedded in the page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

_SMALL = 100  # pixels; smaller frames are stored as PNG and drawn with sharp pixels, as in `torch_nonlocal.view.strip`
_LONGEST_SIDE = 960  # pixels; the page shows frames no larger than this
_QUALITY = 86


def data_uris(clip_THWC: np.ndarray) -> list[str]:
    """Return one data URI per frame: PNG for small frames, else JPEG of at most 960 pixels on the longer side."""
    return [_data_uri(frame_HWC) for frame_HWC in clip_THWC]


def estimated_size(clip_THWC: np.ndarray) -> int:
    """Return the length of all data URIs together, estimated from the first, middle and last frame."""
    sample = np.linspace(0, len(clip_THWC) - 1, min(len(clip_THWC), 3)).round().astype(int)
    return sum(map(len, data_uris(clip_THWC[sample]))) * len(clip_THWC) // len(sample)


def is_small(clip_THWC: np.ndarray) -> bool:
    """Return whether frames are small enough to be drawn with sharp pixels."""
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
    """Return the center of the most salient region of the clip, the one with most contrast and motion: (frame, y, x).

    Contrast is the standard deviation of the gray values in a region, motion their mean distance from the mean over all
    frames. Regions are squares of an eighth of the short side.
    """
    gray_THW = clip_THWC.mean(axis=-1)
    frames, height, width = gray_THW.shape
    step = max(1, min(height, width) // 8)
    rows, columns = height // step, width // step
    shape = (frames, rows, step, columns, step)
    inside_THW = gray_THW[:, : rows * step, : columns * step]
    contrast_TRC = inside_THW.reshape(shape).std(axis=(2, 4))
    motion_TRC = np.abs(inside_THW - inside_THW.mean(axis=0)).reshape(shape).mean(axis=(2, 4))
    frame, row, column = np.unravel_index(int((contrast_TRC + motion_TRC).argmax()), contrast_TRC.shape)
    return int(frame), (int(row) + 0.5) * step - 0.5, (int(column) + 0.5) * step - 0.5
