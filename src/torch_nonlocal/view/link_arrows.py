"""Arrows between a position and those with the largest weights, as in figure 3 of Wang et al., CVPR 2018."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke

from torch_nonlocal.view.clips import Point, as_clip, choose_frames, describe, frame_y_x, nearest_frame, thin_out
from torch_nonlocal.view.colors import NEGLIGIBLE, Scale, bright_part, scale_of
from torch_nonlocal.view.picture import Picture
from torch_nonlocal.view.strip import OUTLINE, Sheet, Strip, frame_labels, lay_out

_POINTS = 72  # per inch
_BENDS = (-0.12, 0.12, -0.06, 0.06)  # curvatures of arrows, the usual one first


class Link(Protocol):
    """The weight with which a position attends to another.

    Attributes:
        source_pixel: x_i, (frame, y, x) in pixels of the clip, or (y, x) in an image; the first pixel's center is 0.
        target_pixel: x_j in the same coordinates.
        weight: weight of x_j for x_i; may be negative (dot product).
    """

    @property
    def source_pixel(self) -> Sequence[float]: ...

    @property
    def target_pixel(self) -> Sequence[float]: ...

    @property
    def weight(self) -> float: ...


Arrow = tuple[Point, Point, float]


def arrows(
    clip: Any,
    links: Iterable[Link],
    *,
    frames: Iterable[int] | None = None,
    k: int = 20,
    title: str = "",
    caption: str | None = None,
    labels: Sequence[str] | None = None,
    vmax: float | None = None,
    signed: bool | None = None,
) -> Picture:
    """Draw the strongest links as arrows from x_i to x_j; color and width show the weight.

    By default, the picture shows the frames that these links connect. If there are more than eight, it shows eight of
    them, evenly spaced and including that of the query, and the strongest links within them; the caption then says
    "within the frames shown".

    Args:
        clip: (T, H, W, 3) or another layout of `torch_nonlocal.view`.
        links: links from one position, links to one position, or any others.
        frames: the frames to show; only links within them are drawn.
        k: largest number of links to draw, those with the largest absolute weights. Links that weigh less than 1% of
            the strongest one are not drawn.
        title: lines of text above the frames.
        caption: lines of text below the frames, followed by a legend. Default: the number of links and their common
            end.
        labels: text above each frame of the clip. Default: its number; nothing for an image.
        vmax: weight of the last color and of the widest arrow. Default: the largest absolute weight of an arrow.
        signed: use diverging colors. Default: if the weight of an arrow is negative.

    Raises:
        ValueError: there are no links, a link lies outside the clip or has a weight that is not finite, no link lies
            within `frames`, or `k` is less than 1.
    """
    clip_THWC = as_clip(clip)
    total = len(clip_THWC)
    if k < 1:
        raise ValueError(f"k={k}: expected the number of arrows, at least 1")
    asked = None if frames is None else choose_frames(frames, total)
    drawn = [_arrow(link, clip_THWC, asked) for link in links]
    if not drawn:
        raise ValueError("there are no links to draw")
    drawn.sort(key=lambda arrow: -abs(arrow[2]))
    drawn = [arrow for arrow in drawn if abs(arrow[2]) >= NEGLIGIBLE * abs(drawn[0][2])]
    strongest = drawn[:k]

    connected = sorted({point[0] for arrow in strongest for point in arrow[:2]})
    numbers = asked or thin_out(connected, keep=strongest[0][0][0])
    shown = [arrow for arrow in drawn if arrow[0][0] in numbers and arrow[1][0] in numbers][:k]
    if not shown:
        raise ValueError(f"no link lies within frames {numbers}: the {len(strongest)} strongest connect {connected}")

    weights = np.array([weight for *_, weight in shown])
    scale = scale_of(weights, cmap=bright_part("inferno"), vmax=vmax, signed=signed)
    if caption is None:
        caption = _caption(shown, clip_THWC, within=shown != strongest)
    strip = Strip([clip_THWC[number] for number in numbers], numbers, scale, labels=frame_labels(labels, clip_THWC))
    legend = "Wider and brighter arrows: larger weights. No arrow: below 1% of the largest."
    sheet = lay_out([strip], title=title, caption=f"{caption}\n{legend}".strip(), for_arrows=True)
    bends = [_bend(sheet, arrow) for arrow in shown]
    for rank, arrow in reversed(list(enumerate(shown))):  # the strongest is drawn last, on top
        _draw(sheet, arrow, scale, rank, bends[rank])
    curves = [_curve(sheet, arrow, bend) for arrow, bend in zip(shown, bends, strict=True)]
    for label in sheet.labels:
        label.keep_clear(curves)
    sources, targets = {source for source, _, _ in shown}, {target for _, target, _ in shown}
    for shared in (sources, targets):
        if len(shared) == 1:
            sheet.ring(0, *shared)
            break
    return Picture(sheet.figure, numbers)


def _arrow(link: Link, clip_THWC: np.ndarray, asked: list[int] | None) -> Arrow:
    weight = float(link.weight)
    if not np.isfinite(weight):
        raise ValueError(f"a link has weight {weight}: expected a finite number")
    return _point(link.source_pixel, clip_THWC, asked), _point(link.target_pixel, clip_THWC, asked), weight


def _point(pixel: Sequence[float], clip_THWC: np.ndarray, asked: list[int] | None) -> Point:
    frame, y, x = frame_y_x(pixel, clip_THWC)
    for name, value, size in zip(("frame", "y", "x"), (frame, y, x), clip_THWC.shape, strict=False):
        # Padding can move the center of a receptive field a little beyond the edge of the clip.
        beyond = max(-value, value - (size - 1))
        if not beyond <= max(1.0, 0.25 * size):
            raise ValueError(
                f"link {name} {value:g} is outside the clip: expected 0 to {size - 1}; pass links of the same clip"
            )
    for number in asked or ():
        if abs(frame - number) <= 0.5:
            return number, y, x
    return nearest_frame(frame, len(clip_THWC)), y, x


def _caption(shown: list[Arrow], clip_THWC: np.ndarray, *, within: bool) -> str:
    sources, targets = {arrow[0] for arrow in shown}, {arrow[1] for arrow in shown}
    count = f"{len(shown)} strongest links" if len(shown) > 1 else "strongest link"
    where = " within the frames shown" if within else ""
    if len(sources) == 1:
        return f"{count}{where} from {describe(sources.pop(), clip_THWC)} (ring)"
    if len(targets) == 1:
        return f"{count}{where} to {describe(targets.pop(), clip_THWC)} (ring)"
    return f"{count}{where}"


def _bend(sheet: Sheet, arrow: Arrow) -> float:
    """The curvature with which an arrow crosses no label and stays within the frames; 0 if there is none."""
    left, top, right, bottom = sheet.bounds()
    for bend in _BENDS:
        across, down = _curve(sheet, arrow, bend)
        is_inside = across.min() >= left and across.max() <= right and down.min() >= top and down.max() <= bottom
        if is_inside and not any(label.covers(across, down) for label in sheet.labels):
            return bend
    return 0.0


def _curve(sheet: Sheet, arrow: Arrow, bend: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of an arrow, in inches from the left and from the top; those of matplotlib's connection style arc3."""
    begin, end = np.array(sheet.place(0, *arrow[0])), np.array(sheet.place(0, *arrow[1]))
    control = (begin + end) / 2 + bend * np.array([begin[1] - end[1], end[0] - begin[0]])
    t = np.linspace(0, 1, 200)[:, None]
    points = (1 - t) ** 2 * begin + 2 * t * (1 - t) * control + t**2 * end
    return points[:, 0], points[:, 1]


def _draw(sheet: Sheet, arrow: Arrow, scale: Scale, rank: int, bend: float) -> None:
    source, target, weight = arrow
    begin, end = sheet.place(0, *source), sheet.place(0, *target)
    strength = float(scale.strength(np.array(weight)))
    color = scale.cmap(scale.norm(weight))
    width = 0.7 + 1.3 * strength
    outline = [withStroke(linewidth=width + 1.0, foreground=OUTLINE)]
    length = _POINTS * float(np.hypot(end[0] - begin[0], end[1] - begin[1]))
    if length < 5:  # too short for an arrow: draw a dot
        sheet.axes.plot(
            *end, marker="o", markersize=2.5 + 1.5 * strength, markerfacecolor=color, markeredgecolor=OUTLINE,
            markeredgewidth=0.5, zorder=6, gid=f"link-{rank}",
        )  # fmt: skip
        return
    head = min(5 + 3 * strength, 0.6 * length)
    shape = FancyArrowPatch(
        begin,
        end,
        arrowstyle="-|>,head_length=0.6,head_width=0.28",
        connectionstyle=f"arc3,rad={bend}",
        mutation_scale=head,
        shrinkA=0,
        shrinkB=0,
        linewidth=width,
        color=color,
        joinstyle="miter",
        capstyle="round",
        path_effects=outline,
        zorder=4,
        gid=f"link-{rank}",
    )
    sheet.axes.add_patch(shape)
