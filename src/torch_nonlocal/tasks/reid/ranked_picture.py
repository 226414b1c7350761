"""Ranked lists as pictures: each query beside the tracklets that are nearest to it.

Right and wrong matches differ by color, by the line of their frame, and by a sign: a check mark on a solid frame, a
cross on a dashed one. The colors are those of Okabe and Ito, which color-blind readers can distinguish.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.optional import require
from torch_nonlocal._common.text import elided

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG, PLAIN = "#00795c", "#c04f00", "#1a1a1a"
_CELL, _GAP, _MARGIN, _QUERY_GAP = 1.18, 0.1, 0.1, 0.28  # inches: width of a picture with its text, and spaces
_TALLEST, _FRAME = 2.0, 0.05  # inches: height of a picture, and the space between it and its frame
_LINE, _HEAD, _TITLE = 0.16, 0.21, 0.26  # inches: lines of a caption, above a picture, and above a row
_LETTER = 0.074  # inches: mean width of a letter of a caption
_TEXT, _HEAD_TEXT = 8.5, 10  # points
_MISSING = 0.88  # gray of a picture that cannot be read


@dataclass(frozen=True)
class Shown:
    """A tracklet in a ranked list.

    Attributes:
        picture: (H, W, 3) uint8 RGB; None if it cannot be read.
        caption: lines below the picture, such as identity, camera, similarity. The middle of a line that is too long is
            left out.
        right: whether it shows the identity of the query; None if this is not known, or for the query itself.
        pale: draw it paler, such as a match below a threshold.
    """

    picture: Any
    caption: Sequence[str]
    right: bool | None = None
    pale: bool = False


@dataclass(frozen=True)
class RankedList:
    """A query and its matches.

    Attributes:
        query: the query.
        matches: the matches, nearest first.
        title: a line above them; "" for none.
        verdict: text before the matches, such as "unknown"; "" for none.
        ranks: rank of each match, by default 1, 2, ...; a dotted line stands where ranks are left out.
    """

    query: Shown
    matches: Sequence[Shown]
    title: str = ""
    verdict: str = ""
    ranks: Sequence[int] = ()


def camera_text(camera: str) -> str:
    """The name of a camera in a caption: "camera 1", "camera door", "cam_a"; "" if it is not known."""
    return camera if "cam" in camera.lower() or not camera else f"camera {camera}"


def ranked_picture(lists: Sequence[RankedList]) -> Figure:
    """Draw ranked lists below each other: the query at the left, its matches with their ranks to the right.

    Args:
        lists: at least one.

    Returns:
        A matplotlib figure; `attention_picture.rendered` makes an image of it.

    Raises:
        ValueError: there are no lists, a picture is not (H, W, 3), or there is another number of ranks than matches.
        ImportError: matplotlib is not installed.
    """
    if not lists:
        raise ValueError("there are no ranked lists to draw")
    shown = [one for ranked in lists for one in (ranked.query, *ranked.matches)]
    for one in shown:
        if one.picture is not None and (one.picture.ndim != 3 or one.picture.shape[2] != 3):
            raise ValueError(f"a picture has shape {one.picture.shape}, expected (height, width, 3)")
    for ranked in lists:
        if ranked.ranks and len(ranked.ranks) != len(ranked.matches):
            raise ValueError(f"got {len(ranked.ranks)} ranks, expected one for each of {len(ranked.matches)} matches")
    aspect = max((one.picture.shape[0] / one.picture.shape[1] for one in shown if one.picture is not None), default=2.0)
    tall = min((_CELL - 2 * _FRAME) * aspect, _TALLEST)
    lines = max(len(one.caption) for one in shown)
    row = _HEAD + tall + 2 * _FRAME + lines * _LINE + _GAP
    heights = [row + (_TITLE if ranked.title else 0) for ranked in lists]
    most = max(len(ranked.matches) + (1 if ranked.verdict else 0) for ranked in lists)
    width = 2 * _MARGIN + _CELL + _QUERY_GAP + most * (_CELL + _GAP)
    height = 2 * _MARGIN + sum(heights)

    figure = require("matplotlib.figure", extra="view").Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))  # inches from the upper left corner
    axes.set_autoscale_on(False)
    top = _MARGIN
    for ranked, room in zip(lists, heights, strict=True):
        if ranked.title:
            _write(axes, _MARGIN, top + _TITLE / 2, ranked.title, width - 2 * _MARGIN, size=_HEAD_TEXT, weight="bold")
        _draw_row(axes, ranked, top + (_TITLE if ranked.title else 0), tall)
        top += room
    return figure


def _draw_row(axes: Axes, ranked: RankedList, top: float, tall: float) -> None:
    _draw(axes, ranked.query, "query", _MARGIN, top, tall)
    left = _MARGIN + _CELL + _QUERY_GAP
    line = left - _QUERY_GAP / 2
    axes.plot([line, line], [top + _HEAD, top + _HEAD + tall], color="#b0b0b0", linewidth=0.8)
    if ranked.verdict:
        place = left + _CELL / 2, top + _HEAD + tall / 2
        axes.text(*place, printable(ranked.verdict), size=11, weight="bold", ha="center", va="center", parse_math=False)
        left += _CELL + _GAP
    ranks = list(ranked.ranks) or list(range(1, len(ranked.matches) + 1))
    for match, rank, before in zip(ranked.matches, ranks, [0, *ranks], strict=False):
        if rank > before + 1:  # ranks are left out
            axes.plot([left - _GAP / 2] * 2, [top + _HEAD, top + _HEAD + tall], ":", color=PLAIN, linewidth=1.5)
        sign = {True: "\u2713 ", False: "\u2717 ", None: ""}[match.right]
        _draw(axes, match, f"{sign}{rank}", left, top, tall)
        left += _CELL + _GAP


def _draw(axes: Axes, one: Shown, head: str, left: float, top: float, tall: float) -> None:
    color = PLAIN if one.right is None else RIGHT if one.right else WRONG
    middle, upper = left + _CELL / 2, top + _HEAD + _FRAME
    axes.text(
        middle, top + _HEAD / 2, head, size=_HEAD_TEXT, weight="bold", color=color, ha="center", va="center", gid="rank"
    )
    height, width = (2, 1) if one.picture is None else one.picture.shape[:2]
    scale = min(tall / height, (_CELL - 2 * _FRAME) / width)
    wide, high = width * scale, height * scale
    box = (middle - wide / 2, middle + wide / 2, upper + high, upper)
    if one.picture is None:
        from matplotlib.patches import Rectangle

        axes.add_patch(Rectangle((box[0], upper), wide, high, facecolor=str(_MISSING)))
        axes.text(middle, upper + high / 2, "not readable", size=_TEXT, ha="center", va="center")
    else:
        interpolation = "nearest" if height < 100 else "antialiased"  # the pixels of small pictures stay visible
        alpha = 0.45 if one.pale else 1.0
        axes.imshow(one.picture, extent=box, aspect="auto", interpolation=interpolation, alpha=alpha, zorder=2)
    if one.right is not None:
        from matplotlib.patches import Rectangle

        around = Rectangle((box[0] - _FRAME / 2, upper - _FRAME / 2), wide + _FRAME, high + _FRAME, fill=False)
        around.set(edgecolor=color, linewidth=2.2, linestyle="solid" if one.right else (0, (2.2, 1.2)), zorder=3)
        axes.add_patch(around)
    below = upper + tall + _FRAME
    for number, line in enumerate(one.caption):
        _write(axes, middle, below + (number + 0.6) * _LINE, line, _CELL + _GAP, size=_TEXT, ha="center")


def _write(axes: Axes, left: float, middle: float, text: str, room: float, *, size: float, **style: Any) -> None:
    name = elided(printable(text), int(room / (_LETTER * size / _TEXT)))
    # parse_math=False: a dollar sign in a name does not start a formula
    axes.text(left, middle, name, size=size, color=PLAIN, va="center", parse_math=False, **style)
