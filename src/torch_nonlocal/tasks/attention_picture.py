"""Pictures of the attention of a block from the position that contributes most to an output of a network.

The query is the position after one block whose features contribute most to a scalar of the output, such as the score
of the predicted class minus that of the true class: gradient times activation, summed over channels (Draelos and Carin,
HiResCAM, 2020). Arrows go from the query to its strongest links in other frames, as in figure 3 of Wang et al., CVPR
2018. The block is the last one that changes its input, since its features are nearest to the output.

Shapes: B clips, C channels, T frames, H height, W width; T', H', W' of the block's keys.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.attention import BlockRecord, Link, added_magnitudes, gradient_times_activation, watch
from torch_nonlocal.insertion import blocks

_ARROWS = 20
_ADDS_NOTHING = 1e-6  # of the norm of a block's input
_EVEN = 1e-3  # range of the weights relative to their mean, below which they count as uniform
_FAINT = 0.02  # of the largest weight; links with less weight are not drawn
DOTS_PER_INCH = 110
_FEW_FRAMES = 8  # clips of up to this many frames are shown in full


@dataclass(frozen=True)
class Look:
    """The attention of a block at one query.

    Attributes:
        record: the record of the block.
        point: the query on the block's grid, (t, y, x).
        row: the weights of the query over all keys, (T', H', W').
    """

    record: BlockRecord
    point: tuple[int, ...]
    row: Tensor

    @property
    def query(self) -> tuple[float, ...]:
        """The query in pixels of the view, (frame, y, x); centers moved outside by padding are clamped to the view."""
        pixels = zip(self.record.geometry.query_pixel(self.point), self.record.geometry.input_size, strict=True)
        return tuple(min(max(value, 0.0), size - 1.0) for value, size in pixels)


def look_at(model: nn.Module, clip_BCTHW: Tensor, target: Callable[[Any], Tensor]) -> tuple[Look | None, str]:
    """The attention of the last active block at the position that contributes most to a scalar of the output.

    Blocks that add nothing to their input, have uniform weights, or run on single frames are skipped.

    Args:
        model: a network in eval mode; it does not change.
        clip_BCTHW: the network's input, B = 1.
        target: maps the network's output to a scalar.

    Returns:
        The attention and ""; or None and the reason.
    """
    inserted = blocks(model)
    if not inserted:
        return None, "no arrows: the network has no non-local blocks"
    clip = clip_BCTHW.to(next(model.parameters()).device)
    with torch.no_grad(), watch(model) as records, added_magnitudes(inserted) as added:
        model(clip)
    working = [name for name in records if added.get(name, 0.0) > _ADDS_NOTHING]
    if not working:
        return None, "no arrows: the blocks do not change their input; they are untrained"
    for name in reversed(working):
        record = records[name]
        if len(record.geometry.grid) != 3:
            continue
        evidence_THW = gradient_times_activation(model, inserted[name], clip, target)[0]
        place = torch.unravel_index(evidence_THW.argmax(), evidence_THW.shape)
        point = tuple(int(index) for index in place)
        row = record.rows([point])[0].cpu()
        seen = row[record.groups.part_of(point)]
        if seen.numel() and float(seen.max() - seen.min()) > _EVEN * float(seen.abs().mean()):
            return Look(record, point, row), ""
    return None, "no arrows: the blocks have uniform weights, or run on single frames"


def margin(guess: int, true: int) -> Callable[[Tensor], Tensor]:
    """A target of `look_at` for scores (B, K): the score of one class minus that of another."""
    return lambda scores_BK: scores_BK[0, guess] - scores_BK[0, true]


def draw(clip: Any, look: Look | None, lines: Sequence[str]) -> Any:
    """Draw lines of text, frames with arrows, and frames with the weights as colors.

    Args:
        clip: (T, H, W, 3), uint8.
        look: the attention to draw; None for the frames alone.
        lines: lines of text, the first two in bold; the middle of a line that does not fit is elided.

    Returns:
        An RGB PIL image.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from torch_nonlocal import view as drawing

    if look is None:
        whole = drawing.Picture  # raises if matplotlib is missing, before the imports below
        from torch_nonlocal.view.clips import as_clip, choose_frames
        from torch_nonlocal.view.strip import Strip, lay_out

        clip_THWC = as_clip(clip)
        numbers = choose_frames(None, len(clip_THWC))
        sheet = lay_out([Strip([clip_THWC[number] for number in numbers], numbers, None)])
        pictures = [whole(sheet.figure, numbers)]
    else:
        from torch_nonlocal.view.placement import axis_centers, placed

        links, brightest = shown_links(look)
        shown = range(len(clip)) if len(clip) <= _FEW_FRAMES else None
        arrows = drawing.arrows(clip, links, frames=shown, k=_ARROWS)
        centers = axis_centers(look.record.geometry, clip.shape)[1]
        weights = placed(look.row.numpy(), centers, clip.shape)
        heat = drawing.heatmap(clip, weights, query=look.query, frames=arrows.frames, vmax=brightest)
        pictures = [arrows, heat]
    return stacked(lines, [picture.figure for picture in pictures])


def shown_links(look: Look) -> tuple[list[Link], float]:
    """The links to draw: the strongest ones to other frames, or to the query's own frame if there are none.

    Links below 1/50 of the largest weight of the query are omitted.

    Returns:
        The links in descending order, and the weight at the end of the color scale: that of the first link, since the
        query's weight on itself may be much larger than the others.
    """
    record, keys = look.record, look.record.geometry.key_grid
    cells = record.groups.size(keys)
    largest = float(look.row.abs().max())
    own = record.groups.frame_size(keys)  # of the query's frame
    if cells > own:
        # more than are drawn, since some frames of a long clip are not shown
        links = record.links(look.point, k=min(5 * _ARROWS, cells - own), frames="others")
        strong = [link for link in links if abs(link.weight) >= _FAINT * largest]
        if strong:
            return strong, abs(strong[0].weight)
    links = record.links(look.point, k=min(_ARROWS, cells))
    return [link for link in links if abs(link.weight) >= _FAINT * largest], largest


def ends_of(look: Look) -> str:
    """Where the drawn links end, as a phrase: in other frames, or in the query's own if it has no weight elsewhere."""
    own = look.record.geometry.covering_key(look.point)[0]
    return "its own frame" if shown_links(look)[0][0].target[0] == own else "other frames"


def text_figure(lines: Sequence[str], width: float) -> Any:
    """Lines of text as a matplotlib figure of a width in inches; the middle of a line that does not fit is elided."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    step, margin = 0.2, 0.08
    height = step * len(lines) + margin
    figure = Figure(figsize=(width, height), facecolor="white")
    renderer = FigureCanvasAgg(figure).get_renderer()
    room = (width - 2 * margin) * figure.dpi
    for number, line in enumerate(lines):
        place = (margin / width, 1 - (margin + (number + 0.5) * step) / height)
        bold = "bold" if number < 2 else "normal"
        # parse_math=False: a dollar sign in a name does not start a formula
        text = figure.text(*place, line, fontsize=9 - number // 2, weight=bold, va="center", parse_math=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)
            kept = len(line)
            while kept > 8 and text.get_window_extent(renderer).width > room:
                kept = min(kept - 1, int(kept * room / text.get_window_extent(renderer).width))
                text.set_text(f"{line[: kept // 3]}\u2026{line[kept // 3 - kept :]}")  # keep the end of a path
    return figure


def stacked(lines: Sequence[str], figures: Sequence[Any]) -> Any:
    """Lines of text and matplotlib figures below each other, as an RGB PIL image; see `text_figure`."""
    from PIL import Image

    parts = [rendered(figure) for figure in figures]
    parts.insert(0, rendered(text_figure(lines, max(figure.get_figwidth() for figure in figures))))
    whole = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def rendered(figure: Any, *, dots_per_inch: int = DOTS_PER_INCH) -> Any:
    """A matplotlib figure as an RGB PIL image."""
    from PIL import Image

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a name with characters that the font lacks
        figure.savefig(file, format="png", dpi=dots_per_inch)
    with Image.open(file) as image:
        return image.convert("RGB")
