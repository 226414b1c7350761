"""Arrows from a position to the positions that weigh most, as figure 3 of Wang et al., CVPR 2018."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke

from torch_nonlocal.view.clips import as_clip, choose_frames, frame_y_x, nearest_frame, thin_out
from torch_nonlocal.view.colors import Scale, bright_part, scale_of
from torch_nonlocal.view.overlays import describe
from torch_nonlocal.view.picture import Picture
from torch_nonlocal.view.strip import OUTLINE, Sheet, Strip, lay_out

_POINTS = 72  # in an inch


class Link(Protocol):
    """How strongly a position looks at another.

    Attributes:
        source_pixel: x_i, (frame, y, x) in pixels of the clip, or (y, x) of an image; 0 is the first pixel's center.
        target_pixel: x_j, likewise.
        weight: of x_j for x_i; may be negative (dot product).
    """

    @property
    def source_pixel(self) -> Sequence[float]: ...

    @property
    def target_pixel(self) -> Sequence[float]: ...

    @property
    def weight(self) -> float: ...


Point = tuple[int, float, float]
Arrow = tuple[Point, Point, float]


def arrows(clip: Any, links: Iterable[Link], *, frames: Iterable[int] | None = None, k: int = 20) -> Picture:
    """Draws the strongest links: an arrow starts at x_i and ends at x_j, its color and width say its weight.

    Only frames that take part are shown. If they are more than eight, eight of them evenly spaced are, with the
    query's among them, and the strongest links within these; the caption says so.

    Args:
        clip: (T, H, W, 3) and the other layouts of `torch_nonlocal.view`.
        links: of one position to many, of many to one, or any others.
        frames: the frames to show; only links within them are drawn.
        k: how many of the strongest (by size, whatever the sign) to draw.

    Raises:
        ValueError: if there are no links, one lies outside the clip or has a weight that is not finite, none lies
            within the frames asked for, or `k` is less than 1.
    """
    clip_THWC = as_clip(clip)
    total = len(clip_THWC)
    if k < 1:
        raise ValueError(f"k is the number of arrows, 1 or more; got {k}")
    asked = None if frames is None else choose_frames(frames, total)
    drawn = [_arrow(link, clip_THWC, asked) for link in links]
    if not drawn:
        raise ValueError("there are no links to draw")
    drawn.sort(key=lambda arrow: -abs(arrow[2]))
    strongest = drawn[:k]

    taking_part = sorted({point[0] for arrow in strongest for point in arrow[:2]})
    numbers = asked or thin_out(taking_part, keep=strongest[0][0][0])
    shown = [arrow for arrow in drawn if arrow[0][0] in numbers and arrow[1][0] in numbers][:k]
    if not shown:
        raise ValueError(f"no link lies within frames {numbers}; the strongest {len(strongest)} lie in {taking_part}")

    weights = np.array([weight for *_, weight in shown])
    scale = scale_of(weights, cmap=bright_part("inferno"))
    caption = _caption(shown, within=shown != strongest)
    sheet = lay_out([Strip([clip_THWC[number] for number in numbers], numbers, scale)], caption=caption)
    for rank, arrow in reversed(list(enumerate(shown))):  # the strongest last, on top
        _draw(sheet, arrow, scale, rank)
    sources, targets = {source for source, _, _ in shown}, {target for _, target, _ in shown}
    for shared in (sources, targets):
        if len(shared) == 1:
            sheet.ring(0, *shared)
            break
    return Picture(sheet.figure, numbers)


def _arrow(link: Link, clip_THWC: np.ndarray, asked: list[int] | None) -> Arrow:
    weight = float(link.weight)
    if not np.isfinite(weight):
        raise ValueError(f"a link has the weight {weight}")
    return _point(link.source_pixel, clip_THWC, asked), _point(link.target_pixel, clip_THWC, asked), weight


def _point(pixel: Sequence[float], clip_THWC: np.ndarray, asked: list[int] | None) -> Point:
    frame, y, x = frame_y_x(pixel, clip_THWC)
    for name, value, size in zip(("frame", "y", "x"), (frame, y, x), clip_THWC.shape, strict=False):
        # Padding moves the center of a receptive field a little beyond the edge; farther is another clip's.
        beyond = max(-value, value - (size - 1))
        if not beyond <= max(1.0, 0.25 * size):
            raise ValueError(
                f"a link's {name} is {value:g}, outside the clip (0 to {size - 1}): are the links of another clip?"
            )
    for number in asked or ():
        if abs(frame - number) <= 0.5:
            return number, y, x
    return nearest_frame(frame, len(clip_THWC)), y, x


def _caption(shown: list[Arrow], *, within: bool) -> str:
    sources, targets = {arrow[0] for arrow in shown}, {arrow[1] for arrow in shown}
    count = f"the {len(shown)} strongest links" if len(shown) > 1 else "the strongest link"
    where = " within the frames shown" if within else ""
    if len(sources) == 1:
        return f"{count} from (ring) {describe(sources.pop())}{where}"
    if len(targets) == 1:
        return f"{count} to (ring) {describe(targets.pop())}{where}"
    return f"{count}{where}"


def _draw(sheet: Sheet, arrow: Arrow, scale: Scale, rank: int) -> None:
    source, target, weight = arrow
    begin, end = sheet.place(0, *source), sheet.place(0, *target)
    strength = float(scale.strength(np.array(weight)))
    color = scale.cmap(scale.norm(weight))
    width = 0.7 + 1.3 * strength
    outline = [withStroke(linewidth=width + 1.0, foreground=OUTLINE)]
    length = _POINTS * float(np.hypot(end[0] - begin[0], end[1] - begin[1]))
    if length < 5:  # no room for a head: a dot where it would point
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
        connectionstyle="arc3,rad=-0.12",
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
