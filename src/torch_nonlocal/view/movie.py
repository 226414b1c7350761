"""Videos of a clip with its weights, as MP4 or GIF.

Frames are drawn with Pillow while the file is written, because matplotlib is much slower.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from torch_nonlocal._common.files import printable
from torch_nonlocal.media import write_gif, write_mp4
from torch_nonlocal.view.clips import Point, as_clip, as_query, as_row
from torch_nonlocal.view.colors import Scale
from torch_nonlocal.view.overlays import ALPHA, CMAP, paint, scale_around
from torch_nonlocal.view.strip import frame_labels

_SMALLEST, _WIDEST, _HIGHEST = 256, 1280, 720  # smallest panel width, largest total width and panel height, in pixels
_GAP = 8
_PAPER, _INK = (255, 255, 255), (26, 26, 26)


def video(
    path: str | os.PathLike[str],
    clip: Any,
    rows: Any,
    *,
    query: Sequence[float] | None = None,
    fps: float = 10,
    alpha: float = ALPHA,
    cmap: str = CMAP,
    vmax: float | None = None,
    interpolation: str = "nearest",
    labels: Sequence[str] | None = None,
) -> Path:
    """Write the clip as a video with the weights of one query over each frame, frame numbers and the color scale.

    Args:
        path: a file name ending in .mp4 or .gif.
        clip: (T, H, W, 3) or another layout of `torch_nonlocal.view`. Small frames are enlarged, large ones reduced.
        rows: weights (T', H', W'), or {name of the block: weights} for several side by side.
        query: (frame, y, x) in pixels of the clip, or (y, x) in an image. Marked with a white ring in its own frame and
            a gray ring in the others.
        fps: frames per second.
        alpha: opacity of the colors at the largest weight, 0 to 1.
        cmap: a matplotlib color map for weights without a sign; signed weights use a diverging one.
        vmax: weight of the last color. Default: as in `heatmap`, for each row.
        interpolation: "nearest" shows the cells of the grid; "bilinear" interpolates between their centers.
        labels: text below each frame. Default: its number; nothing for an image.

    Returns:
        The path of the file.

    Raises:
        ValueError: another suffix, or an invalid clip, row, query or option.
        ImportError: PyAV, which writes .mp4, is not installed.
    """
    write = {".mp4": write_mp4, ".gif": write_gif}.get(Path(path).suffix.lower())
    if write is None:
        raise ValueError(f"{os.fspath(path)!r}: expected a file name ending in .mp4 or .gif")
    clip_THWC = as_clip(clip)
    named = rows if isinstance(rows, Mapping) else {"": rows}
    if not named:
        raise ValueError("rows is empty: expected weights, or {name: weights}")
    grids = {name: as_row(row, clip_THWC) for name, row in named.items()}
    point = as_query(query, clip_THWC)
    scales = {name: scale_around(row, point, clip_THWC, cmap=cmap, vmax=vmax) for name, row in grids.items()}
    shown = frame_labels(labels, clip_THWC)
    size = panel_size(clip_THWC.shape[1], clip_THWC.shape[2], len(grids))

    def draw() -> Iterator[np.ndarray]:
        for frame in range(len(clip_THWC)):
            panels = []
            for name, row_THW in grids.items():
                painted = paint(clip_THWC, row_THW, frame, scales[name], alpha, interpolation)
                ring = None if point is None else (point, frame == point[0])
                panels.append(panel(painted, size, name, shown[frame], scales[name], ring))
            yield np.concatenate(panels, axis=1)

    return write(path, draw(), fps)


def panel_size(height: int, width: int, panels: int) -> tuple[int, int]:
    """Width and height of a frame in the video; small frames grow by an integer factor, so that pixels stay square."""
    room = (_WIDEST - (panels - 1) * _GAP) / panels
    shrink = min(room / width, _HIGHEST / height, 1.0)
    factor = max(min(_SMALLEST // width, _HIGHEST // height), 1) if shrink == 1.0 else shrink
    return max(round(width * factor), 1), max(round(height * factor), 1)


def panel(
    frame_HWC: np.ndarray,
    size: tuple[int, int],
    name: str,
    label: str,
    scale: Scale,
    ring: tuple[Point, bool] | None,
) -> np.ndarray:
    """Draw one frame with the name of the block above it, its label and the color scale below."""
    enlarged = size[0] >= frame_HWC.shape[1]
    picture = Image.fromarray(frame_HWC).resize(
        size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    )
    if ring:
        point, is_own = ring
        across, down = (point[2] + 0.5) / frame_HWC.shape[1] * size[0], (point[1] + 0.5) / frame_HWC.shape[0] * size[1]
        _ring(picture, across, down, (255, 255, 255) if is_own else (150, 150, 150))

    width = max(size[0], _SMALLEST)
    text = max(12, min(width // 45, 20))
    font = ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), text)
    above, below = (2 * text if name else _GAP), 2 * text
    panel = Image.new("RGB", (width + _GAP, above + size[1] + below), _PAPER)
    panel.paste(picture, ((width + _GAP - size[0]) // 2, above))
    draw = ImageDraw.Draw(panel)
    left, right, middle = _GAP // 2, width + _GAP // 2, above + size[1] + below // 2
    if name:
        draw.text((left, above // 2), _fitted(printable(name), font, width), fill=_INK, font=font, anchor="lm")
    least, most = (f"{-scale.high:.2g}" if scale.signed else "0"), f"{scale.high:.2g}"
    draw.text((right, middle), most, fill=_INK, font=font, anchor="rm")
    bar_right = right - round(font.getlength(most)) - text // 2
    bar = scale.colors(np.linspace(-scale.high if scale.signed else 0, scale.high, 5 * text))
    colors = np.tile(np.rint(bar).astype(np.uint8), (text * 3 // 4, 1, 1))
    panel.paste(Image.fromarray(colors), (bar_right - colors.shape[1], middle - colors.shape[0] // 2))
    scale_left = bar_right - colors.shape[1] - text // 2
    draw.text((scale_left, middle), least, fill=_INK, font=font, anchor="rm")
    room = scale_left - round(font.getlength(least)) - text - left
    draw.text((left, middle), _fitted(label, font, room), fill=_INK, font=font, anchor="lm")
    return np.asarray(panel)


def _ring(picture: Image.Image, across: float, down: float, color: tuple[int, int, int]) -> None:
    radius = max(min(picture.size) / 40, 6)
    draw = ImageDraw.Draw(picture)
    for extra, fill, line in ((1.5, (0, 0, 0), 5), (0.0, color, 2)):
        reach = radius + extra
        draw.ellipse((across - reach, down - reach, across + reach, down + reach), outline=fill, width=line)


def _fitted(name: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the name, shortened in the middle if it is wider than a width in pixels."""
    kept = len(name)
    shown = name
    while font.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = f"{name[: (kept + 1) // 2]}\u2026{name[len(name) - kept // 2 :]}"
    return shown
