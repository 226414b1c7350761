"""The picture of a mistake: what a block related while the network chose the wrong class.

The query is the position, after one block, whose features speak most for the class that the network chose and against
the true one: gradient times activation, summed over channels (Draelos and Carin, 2020, HiResCAM), of the difference of
the two scores. From there arrows go to where the block looks in other frames, as in figure 3 of Wang et al., CVPR 2018.
The block is the last of those that work: its features are nearest to the scores.

Shapes: B clips, C channels, T frames, H height, W width; T', H', W' of the block's keys; K classes.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.attention import BlockRecord, Link, added_magnitudes, gradient_times_activation, watch
from torch_nonlocal.insertion import blocks

_ARROWS = 20
_ADDS_NOTHING = 1e-6  # of the norm of a block's input
_EVEN = 1e-3  # weights that differ by less, relative to their mean, are one weight
_FAINT = 0.02  # of the largest weight: what weighs less is not drawn
_DOTS_PER_INCH = 110
_FEW_FRAMES = 8  # all of them are shown


@dataclass(frozen=True)
class Look:
    """What a block relates to one position.

    Attributes:
        record: of the block.
        point: the position on the block's grid, (t, y, x).
        row: its weights over all keys, (T', H', W').
    """

    record: BlockRecord
    point: tuple[int, ...]
    row: Tensor

    @property
    def query(self) -> tuple[float, ...]:
        """The position in pixels of the view, (frame, y, x); padding moves some centres out: then the nearest pixel."""
        pixels = zip(self.record.geometry.query_pixel(self.point), self.record.geometry.input_size, strict=True)
        return tuple(min(max(value, 0.0), size - 1.0) for value, size in pixels)


def look_at(model: nn.Module, clip_BCTHW: Tensor, *, guess: int, true: int) -> tuple[Look | None, str]:
    """Where the last working block looks from the position that speaks most for `guess` and against `true`.

    Blocks that add nothing to their input, look evenly at everything or see single frames are passed over.

    Args:
        model: in eval mode, with scores (B, K); left as it was.
        clip_BCTHW: what it takes, B = 1.
        guess: the class chosen.
        true: the class that was right.

    Returns:
        What it looks at, and ""; or None, and why in words.
    """
    inserted = blocks(model)
    if not inserted:
        return None, "no arrows: the network has no non-local blocks"
    clip = clip_BCTHW.to(next(model.parameters()).device)
    with torch.no_grad(), watch(model) as records, added_magnitudes(inserted) as added:
        model(clip)
    working = [name for name in records if added.get(name, 0.0) > _ADDS_NOTHING]
    if not working:
        return None, "no arrows: the blocks add nothing to their input, they have learned nothing yet"
    for name in reversed(working):
        record = records[name]
        if len(record.geometry.grid) != 3:
            continue
        evidence_THW = gradient_times_activation(
            model, inserted[name], clip, lambda scores_BK: scores_BK[0, guess] - scores_BK[0, true]
        )[0]
        place = torch.unravel_index(evidence_THW.argmax(), evidence_THW.shape)
        point = tuple(int(index) for index in place)
        row = record.rows([point])[0].cpu()
        seen = row[record.groups.part_of(point)]
        if seen.numel() and float(seen.max() - seen.min()) > _EVEN * float(seen.abs().mean()):
            return Look(record, point, row), ""
    return None, "no arrows: the blocks look at everything alike, or at single frames"


def draw(clip: Any, look: Look | None, lines: Sequence[str]) -> Any:
    """The picture of a mistake: lines of text, frames with arrows, frames with the weights as colours.

    Args:
        clip: (T, H, W, 3), uint8.
        look: None for the frames alone.
        lines: of text above, the first two in bold; those that do not fit are shortened in the middle.

    Returns:
        An RGB PIL image, colours to 6 bits: a PNG of half the size.

    Raises:
        ImportError: matplotlib is missing.
    """
    from torch_nonlocal import view as drawing

    if look is None:
        whole = drawing.Picture  # says what is missing, before its parts are imported
        from torch_nonlocal.view.clips import as_clip, choose_frames
        from torch_nonlocal.view.strip import Strip, lay_out

        clip_THWC = as_clip(clip)
        numbers = choose_frames(None, len(clip_THWC))
        sheet = lay_out([Strip([clip_THWC[number] for number in numbers], numbers, None)])
        pictures = [whole(sheet.figure, numbers)]
    else:
        links, brightest = shown_links(look)
        shown = range(len(clip)) if len(clip) <= _FEW_FRAMES else None
        arrows = drawing.arrows(clip, links, frames=shown, k=_ARROWS)
        placed = look.record.geometry.spread(look.row)
        heat = drawing.heatmap(clip, placed, query=look.query, frames=arrows.frames, vmax=brightest)
        pictures = [arrows, heat]
    return _stacked(lines, [picture.figure for picture in pictures])


def shown_links(look: Look) -> tuple[list[Link], float]:
    """What to draw: the strongest links to other frames, or, where the position looks at none of them, in its own.

    Links below a fiftieth of the position's largest weight are left out.

    Returns:
        The links, strongest first, and the weight that gets the last colour: that of the first link, since the
        position's weight on itself may outshine the rest.
    """
    record, keys = look.record, look.record.geometry.key_grid
    cells = record.groups.size(keys)
    largest = float(look.row.abs().max())
    own = record.groups.frame_size(keys)  # of the query's frame
    if cells > own:
        # more than are drawn: of a long clip some frames are not shown
        links = record.links(look.point, k=min(5 * _ARROWS, cells - own), frames="others")
        strong = [link for link in links if abs(link.weight) >= _FAINT * largest]
        if strong:
            return strong, abs(strong[0].weight)
    links = record.links(look.point, k=min(_ARROWS, cells))
    return [link for link in links if abs(link.weight) >= _FAINT * largest], largest


def text_figure(lines: Sequence[str], width: float) -> Any:
    """Lines of text as a matplotlib figure of this width, in inches; those too long for it lose their middle."""
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
        # a name may hold dollars, which are no formula
        text = figure.text(*place, line, fontsize=9 - number // 2, weight=bold, va="center", parse_math=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)
            kept = len(line)
            while kept > 8 and text.get_window_extent(renderer).width > room:
                kept = min(kept - 1, int(kept * room / text.get_window_extent(renderer).width))
                text.set_text(f"{line[: kept // 3]}\u2026{line[kept // 3 - kept :]}")  # the end of a path tells most
    return figure


def _stacked(lines: Sequence[str], figures: Sequence[Any]) -> Any:
    from PIL import Image

    parts = [_rendered(figure) for figure in figures]
    parts.insert(0, _rendered(text_figure(lines, max(figure.get_figwidth() for figure in figures))))
    whole = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole.point([min((value + 2) // 4 * 4, 255) for value in range(256)] * 3)


def _rendered(figure: Any) -> Any:
    from PIL import Image

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a name in a script that the font lacks
        figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)
    with Image.open(file) as image:
        return image.convert("RGB")
