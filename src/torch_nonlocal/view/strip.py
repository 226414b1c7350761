"""Layout of frames side by side on a sheet, with frame numbers, a color scale and a caption.

The sheet has a single coordinate system: inches from its upper left corner, y downward. An arrow between two frames is
therefore an ordinary line, and the size of text does not depend on that of the clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from torch_nonlocal._common.files import printable
from torch_nonlocal.view.colors import Scale

_SHEET = 7.5  # inches, the text width of a two-column paper
_MARGIN, _GAP = 0.08, 0.07
_LABEL, _TITLE, _CAPTION = 0.2, 0.22, 0.24  # heights of text lines
_SCALE = 0.78  # width reserved for the color scale
_LOWEST, _NARROWEST, _HIGHEST = 0.6, 0.8, 4.0  # smallest height and width and largest height of a frame
_TEXT, _SMALL_TEXT = 8, 7  # points
_INK = "#1a1a1a"
_FRAME_DOTS_PER_INCH = 300
MARK = "#ffffff"
OUTLINE = "#000000"


@dataclass
class Strip:
    """Frames of one block and their color scale.

    Attributes:
        frames: pictures (H, W, 3) uint8 of one size, in order.
        numbers: indices of the frames in the clip.
        scale: the color scale; None draws none.
        title: title above the frames; "" for none.
    """

    frames: list[np.ndarray]
    numbers: list[int]
    scale: Scale | None
    title: str = ""


@dataclass
class Sheet:
    """A figure with the positions of its frames, to draw marks on.

    Attributes:
        figure: the matplotlib figure.
        axes: axes over the whole figure, in inches, y downward.
        size: (H, W) of a frame in pixels.
        boxes: for each strip, frame number -> (left, top, width, height) in inches.
    """

    figure: Figure
    axes: Axes
    size: tuple[int, int]
    boxes: list[dict[int, tuple[float, float, float, float]]] = field(default_factory=list)

    def place(self, strip: int, frame: int, y: float, x: float) -> tuple[float, float]:
        """Return the position of a pixel's center on the sheet, in inches from the left and from the top."""
        left, top, width, height = self.boxes[strip][frame]
        across = min(max((x + 0.5) / self.size[1], 0.0), 1.0)
        down = min(max((y + 0.5) / self.size[0], 0.0), 1.0)
        return left + across * width, top + down * height

    def ring(self, strip: int, query: tuple[int, float, float]) -> None:
        """Mark a position with a ring that is visible on light and dark frames, and its frame with a border."""
        across, down = self.place(strip, *query)
        self.axes.plot(
            across, down, marker="o", markersize=6, markerfacecolor="none", markeredgecolor=MARK, markeredgewidth=1.2,
            path_effects=[withStroke(linewidth=2.8, foreground=OUTLINE)], zorder=5, gid="query",
        )  # fmt: skip
        left, top, width, height = self.boxes[strip][query[0]]
        self.axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=_INK, linewidth=1.6, zorder=3))


def lay_out(strips: Sequence[Strip], *, caption: str = "") -> Sheet:
    """Draw strips below each other.

    The frames of a strip form one line, and wrap if they would become too small.
    """
    pixels = strips[0].frames[0].shape[:2]
    count = len(strips[0].frames)
    right = _SCALE if any(strip.scale for strip in strips) else 0.0
    columns, width, height = _cells(count, pixels[1] / pixels[0], _SHEET - 2 * _MARGIN - right)
    lines = math.ceil(count / columns)
    slot = max(width, 0.7)  # space for the frame number above a narrow frame
    sheet_width = max(2 * _MARGIN + right + columns * slot + (columns - 1) * _GAP, 3.7)
    strip_height = lines * (_LABEL + height) + (lines - 1) * _GAP
    title = _TITLE if any(strip.title for strip in strips) else 0.0
    bottom = _CAPTION if caption else 0.0
    sheet_height = 2 * _MARGIN + len(strips) * (title + strip_height) + (len(strips) - 1) * 2 * _GAP + bottom

    figure = Figure(figsize=(sheet_width, sheet_height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, sheet_width), ylim=(sheet_height, 0))
    axes.set_autoscale_on(False)
    sheet = Sheet(figure, axes, (pixels[0], pixels[1]))

    top = _MARGIN
    for strip in strips:
        if strip.title:
            # parse_math=False: a dollar sign in a name does not start a formula
            style: dict[str, Any] = {"fontsize": _TEXT, "weight": "bold", "color": _INK, "va": "center"}
            axes.text(_MARGIN, top + 0.6 * title, printable(strip.title), parse_math=False, **style)
        top += title
        boxes = {}
        for place, (frame, number) in enumerate(zip(strip.frames, strip.numbers, strict=True)):
            line, column = divmod(place, columns)
            left = _MARGIN + column * (slot + _GAP) + (slot - width) / 2
            upper = top + line * (_LABEL + height + _GAP) + _LABEL
            boxes[number] = (left, upper, width, height)
            _draw_frame(axes, frame, boxes[number])
            axes.text(
                left + width / 2, upper - 0.5 * _LABEL, f"frame {number}", fontsize=_SMALL_TEXT, color=_INK,
                ha="center", va="center", zorder=7,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2},
            )  # fmt: skip
        sheet.boxes.append(boxes)
        if strip.scale:
            left = _MARGIN + columns * slot + (columns - 1) * _GAP + 0.1
            _draw_scale(figure, strip.scale, left, top + _LABEL, min(strip_height - _LABEL, 2.5))
        top += strip_height + 2 * _GAP
    if caption:
        axes.text(_MARGIN, sheet_height - _MARGIN - 0.06, caption, fontsize=_SMALL_TEXT, color=_INK, va="center")
    return sheet


def _cells(count: int, aspect: float, room: float) -> tuple[int, float, float]:
    """Return columns, width and height of a frame for the fewest lines in which frames are not too small."""
    for lines in range(1, count + 1):
        columns = math.ceil(count / lines)
        width = (room - (columns - 1) * _GAP) / columns
        if (width >= _NARROWEST and width / aspect >= _LOWEST) or columns == 1:
            break
    height = min(width / aspect, _HIGHEST)
    return columns, height * aspect, height


def _draw_frame(axes: Axes, frame_HWC: np.ndarray, box: tuple[float, float, float, float]) -> None:
    left, top, width, height = box
    dots = max(round(width * _FRAME_DOTS_PER_INCH), 1), max(round(height * _FRAME_DOTS_PER_INCH), 1)
    enlarged = frame_HWC.shape[1] < dots[0]
    if not enlarged:  # limits the size of PDF and SVG files
        frame_HWC = np.asarray(Image.fromarray(frame_HWC).resize(dots, Image.Resampling.LANCZOS))
    extent = (left, left + width, top + height, top)
    small = frame_HWC.shape[1] < 100  # show small frames (digits) with sharp pixels, others smoothly
    axes.imshow(
        frame_HWC, extent=extent, aspect="auto", interpolation="nearest" if enlarged and small else "bilinear", zorder=1
    )
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="#808080", linewidth=0.5, zorder=2))


def _draw_scale(figure: Figure, scale: Scale, left: float, top: float, height: float) -> None:
    """Draw a color bar with tick labels; the label above it gives the power of ten."""
    sheet_width, sheet_height = figure.get_size_inches()
    bounds = (left / sheet_width, 1 - (top + height) / sheet_height, 0.1 / sheet_width, height / sheet_height)
    axes = figure.add_axes(bounds)
    extend = "neither" if not scale.clipped else "both" if scale.signed else "max"
    bar = figure.colorbar(ScalarMappable(scale.norm, scale.cmap), cax=axes, extend=extend)
    exponent = math.floor(math.log10(scale.high) + 1e-9)
    power = 0 if -2 <= exponent <= 3 else exponent
    bar.locator = MaxNLocator(nbins=4 if height > 1 else 2, steps=[1, 2, 2.5, 5, 10])
    bar.formatter = FuncFormatter(lambda value, _: f"{value / 10.0**power:.3g}".replace("-", "\u2212"))
    bar.update_ticks()
    bar.ax.tick_params(labelsize=_SMALL_TEXT - 0.5, length=2, width=0.5, pad=1.5, colors=_INK)
    bar.outline.set_linewidth(0.5)
    digits = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
    name = f"weight \u00d710{str(power).translate(digits)}" if power else "weight"
    across, down = left / sheet_width, 1 - (top - 0.5 * _LABEL) / sheet_height
    figure.text(across, down, name, fontsize=_SMALL_TEXT - 0.5, color=_INK, ha="left", va="center")
