"""Layout of frames side by side on a sheet, with frame numbers, a color scale and a caption.

The sheet has a single coordinate system: inches from its upper left corner, y downward. An arrow between two frames is
therefore an ordinary line, and the size of text does not depend on that of the clip.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.text import counted, elided
from torch_nonlocal.view.colors import Scale

_SHEET = 7.5  # inches, the text width of a two-column paper
_MARGIN, _GAP = 0.08, 0.07
_LABEL, _TITLE, _CAPTION, _LINE, _SMALL_LINE = 0.2, 0.22, 0.24, 0.17, 0.135  # heights of text lines
_LETTER, _SMALL_LETTER = 0.068, 0.06  # mean widths of a letter of 8 and of 7 points
_WIDEST_LABEL = 1.5  # longer labels are shortened
_SCALE = 0.78  # width reserved for the color scale
_LOWEST, _NARROWEST, _HIGHEST = 0.6, 0.8, 4.0  # smallest height and width and largest height of a frame
_NARROWEST_TALL = 0.7  # smallest width of a frame that is twice as high as wide
_TEXT, _SMALL_TEXT = 8, 7  # points
_INK = "#1a1a1a"
_FRAME_DOTS_PER_INCH = 300
_CLEAR = 0.04  # inches between a label and an arrow
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
        labels: text above each frame of the clip; by default its number.
        quantity: what the color scale shows, in a word.
    """

    frames: list[np.ndarray]
    numbers: list[int]
    scale: Scale | None
    title: str = ""
    labels: Sequence[str] = ()
    quantity: str = "weight"

    def __post_init__(self) -> None:
        if not self.labels:
            self.labels = [f"frame {number}" for number in range(max(self.numbers) + 1)]


@dataclass
class Label:
    """The text of a frame.

    Attributes:
        artist: the text.
        width: its width in inches, estimated.
        middle: its vertical position in inches.
        slot: left and right end of the space that it may use, in inches.
    """

    artist: Text
    width: float
    middle: float
    slot: tuple[float, float]

    def covers(self, across: np.ndarray, down: np.ndarray) -> bool:
        """Whether one of some points, in inches, lies on the text."""
        left = self.artist.get_position()[0] - self.width / 2
        inside = (across > left - _CLEAR) & (across < left + self.width + _CLEAR)
        return bool((inside & (np.abs(down - self.middle) < _LABEL / 2)).any())

    def keep_clear(self, curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """Move the text to where no curve crosses it; if there is no such place, it interrupts the curves."""
        left, right = self.slot[0] + self.width / 2, self.slot[1] - self.width / 2
        center = self.artist.get_position()[0]
        for place in sorted(np.linspace(left, right, 9).tolist(), key=lambda place: abs(place - center)):
            self.artist.set_x(place)
            if not any(self.covers(*curve) for curve in curves):
                return
        self.artist.set(x=center, zorder=7, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})


@dataclass
class Sheet:
    """A figure with the positions of its frames, to draw marks on.

    Attributes:
        figure: the matplotlib figure.
        axes: axes over the whole figure, in inches, y downward.
        size: (H, W) of a frame in pixels.
        boxes: for each strip, frame number -> (left, top, width, height) in inches.
        labels: texts above and below the frames.
    """

    figure: Figure
    axes: Axes
    size: tuple[int, int]
    boxes: list[dict[int, tuple[float, float, float, float]]] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of all frames together, in inches."""
        boxes = [box for strip in self.boxes for box in strip.values()]
        ends = [(left + width, top + height) for left, top, width, height in boxes]
        return (
            min(box[0] for box in boxes),
            min(box[1] for box in boxes),
            max(x for x, _ in ends),
            max(y for _, y in ends),
        )

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


def frame_labels(labels: Sequence[str] | None, clip_THWC: np.ndarray) -> list[str]:
    """Return the text above each frame of a clip: its number by default, nothing for an image.

    Raises:
        ValueError: another number of labels than of frames.
    """
    total = len(clip_THWC)
    if labels is None:
        return [f"frame {number}" for number in range(total)] if total > 1 else [""]
    if len(labels) != total:
        raise ValueError(f"labels: got {len(labels)}, expected one for each of {counted(total, 'frame')}")
    return [printable(str(label)) for label in labels]


def lay_out(strips: Sequence[Strip], *, title: str = "", caption: str = "", for_arrows: bool = False) -> Sheet:
    """Draw strips below each other, or several strips of one frame in rows.

    The frames of a strip form one line, and wrap if they would become too small.

    Args:
        strips: strips with the same number of frames of one size.
        title: lines of text above all strips, the first in bold.
        caption: lines of text below them.
        for_arrows: place the labels of the last line of frames below it, so that none lies between two lines.
    """
    plan = _Plan.of(strips, title, caption, for_arrows=for_arrows)
    head = plan.lines * _LINE + (0.06 if plan.lines else 0.0)
    bottom = _CAPTION + (len(plan.caption) - 1) * _SMALL_LINE if plan.caption else 0.0
    sheet_height = 2 * _MARGIN + head + plan.rows * plan.height + (plan.rows - 1) * 2 * _GAP + bottom

    figure = Figure(figsize=(plan.sheet_width, sheet_height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, plan.sheet_width), ylim=(sheet_height, 0))
    axes.set_autoscale_on(False)
    sheet = Sheet(figure, axes, plan.pixels)
    for number, line in enumerate(plan.title):
        place = (_MARGIN, _MARGIN + (number + 0.5) * _LINE)
        _write(axes, *place, line, fontsize=_TEXT, weight="normal" if number else "bold")
    for place, strip in enumerate(strips):
        row, column = divmod(place, plan.across)
        left = _MARGIN + column * (plan.width + 2 * _GAP)
        top = _MARGIN + head + row * (plan.height + 2 * _GAP)
        _draw_strip(sheet, strip, plan, left, top)
    if plan.caption:
        style = {"fontsize": _SMALL_TEXT, "va": "bottom", "linespacing": 1.35}
        _write(axes, _MARGIN, sheet_height - _MARGIN, "\n".join(plan.caption), **style)
    return sheet


@dataclass(frozen=True)
class _Plan:
    """Sizes of a sheet, in inches: all strips have the same.

    Attributes:
        pixels: (H, W) of a frame in pixels.
        across: strips side by side.
        rows: lines of strips.
        columns: frames side by side in a strip.
        frame: width and height of a frame.
        slot: width of a column, which leaves space for the label of a narrow frame.
        label: height of the labels.
        strip_title: height of the title of a strip.
        width: width of a strip with its color scale.
        height: height of a strip with its title.
        title: wrapped lines of the title.
        caption: wrapped lines of the caption.
        sheet_width: width of the sheet.
        lines_of_frames: lines of frames in a strip.
        last_below: whether the labels of the last line are below it.
    """

    pixels: tuple[int, int]
    across: int
    rows: int
    columns: int
    frame: tuple[float, float]
    slot: float
    label: float
    strip_title: float
    width: float
    height: float
    title: list[str]
    caption: list[str]
    sheet_width: float
    lines_of_frames: int
    last_below: bool

    @property
    def lines(self) -> int:
        """Number of lines of the title."""
        return len(self.title)

    @staticmethod
    def of(strips: Sequence[Strip], title: str, caption: str, *, for_arrows: bool) -> _Plan:
        """Plan the sheet of these strips."""
        height, width = strips[0].frames[0].shape[:2]
        count = len(strips[0].frames)
        right = _SCALE if any(strip.scale for strip in strips) else 0.0
        letters = max(len(strip.labels[number]) for strip in strips for number in strip.numbers)
        label_width = min(letters * _SMALL_LETTER, _WIDEST_LABEL)
        room = _SHEET - 2 * _MARGIN
        across, columns = 1, 1
        if count == 1:
            across, frame_width, frame_height = _cells(len(strips), width / height, room - right, right + 2 * _GAP)
        else:
            columns, frame_width, frame_height = _cells(count, width / height, room - right, _GAP, label_width)
        slot = max(frame_width, 0.7, label_width)
        lines = math.ceil(count / columns)
        has_labels = any(strip.labels[number] for strip in strips for number in strip.numbers)
        label = _LABEL if has_labels or right else 0.0
        strip_title = _TITLE if any(strip.title for strip in strips) else 0.0
        strip_width = right + columns * slot + (columns - 1) * _GAP
        strip_height = strip_title + lines * (label + frame_height) + (lines - 1) * _GAP
        sheet_width = max(2 * _MARGIN + across * strip_width + (across - 1) * 2 * _GAP, 3.7)
        room = sheet_width - 2 * _MARGIN
        return _Plan(
            (height, width), across, math.ceil(len(strips) / across), columns, (frame_width, frame_height), slot,
            label, strip_title, strip_width, strip_height, _wrapped(title, room / _LETTER),
            _wrapped(caption, room / _SMALL_LETTER), sheet_width, lines, for_arrows and lines > 1,
        )  # fmt: skip

    def upper(self, line: int) -> float:
        """Top of a line of frames below the top of the first label, in inches."""
        above = line if self.last_below and line == self.lines_of_frames - 1 else line + 1
        return line * (self.frame[1] + _GAP) + above * self.label


def _wrapped(text: str, letters: float) -> list[str]:
    return [part for line in text.splitlines() for part in textwrap.wrap(printable(line), int(letters))]


def _draw_strip(sheet: Sheet, strip: Strip, plan: _Plan, left: float, top: float) -> None:
    width, height = plan.frame
    if strip.title:
        name = elided(printable(strip.title), int((plan.width if plan.across > 1 else plan.sheet_width) / _LETTER))
        _write(sheet.axes, left, top + 0.6 * plan.strip_title, name, fontsize=_TEXT, weight="bold")
    top += plan.strip_title
    boxes = {}
    for place, (frame, number) in enumerate(zip(strip.frames, strip.numbers, strict=True)):
        line, column = divmod(place, plan.columns)
        across = left + column * (plan.slot + _GAP) + (plan.slot - width) / 2
        upper = top + plan.upper(line)
        boxes[number] = (across, upper, width, height)
        _draw_frame(sheet.axes, frame, boxes[number])
        is_below = plan.last_below and line == plan.lines_of_frames - 1
        middle = upper + height + 0.5 * plan.label if is_below else upper - 0.5 * plan.label
        name = elided(strip.labels[number], int(plan.slot / _SMALL_LETTER))
        artist = _write(sheet.axes, across + width / 2, middle, name, fontsize=_SMALL_TEXT, ha="center")
        if artist is not None:
            start = left + column * (plan.slot + _GAP)
            sheet.labels.append(Label(artist, len(name) * _SMALL_LETTER, middle, (start, start + plan.slot)))
    sheet.boxes.append(boxes)
    if strip.scale:
        right = left + plan.columns * plan.slot + (plan.columns - 1) * _GAP + 0.1
        room = plan.height - plan.strip_title - plan.label
        _draw_scale(sheet.figure, strip, strip.scale, right, top + plan.label, min(room, 2.5))


def _write(axes: Axes, left: float, middle: float, text: str, **style: Any) -> Text | None:
    """Write a text, if there is one; parse_math=False: a dollar sign in a name does not start a formula."""
    return (
        axes.text(left, middle, text, **{"color": _INK, "va": "center", "parse_math": False, **style}) if text else None
    )


def _cells(count: int, aspect: float, room: float, gap: float, label: float = 0.0) -> tuple[int, float, float]:
    """Return columns, width and height of a frame for the fewest lines in which frames and labels are not too small."""
    narrowest = _NARROWEST_TALL if aspect <= 0.5 else _NARROWEST
    for lines in range(1, count + 1):
        columns = math.ceil(count / lines)
        width = (room - (columns - 1) * gap) / columns
        if (width >= max(narrowest, label) and width / aspect >= _LOWEST) or columns == 1:
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


def _draw_scale(figure: Figure, strip: Strip, scale: Scale, left: float, top: float, height: float) -> None:
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
    name = f"{strip.quantity} \u00d710{str(power).translate(digits)}" if power else strip.quantity
    across, down = left / sheet_width, 1 - (top - 0.5 * _LABEL) / sheet_height
    figure.text(across, down, name, fontsize=_SMALL_TEXT - 0.5, color=_INK, ha="left", va="center")
