"""Where a trained block attends on moving digits, compared with the true positions of the digits."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal.attention import BlockRecord, Link, watch
from torch_nonlocal.data.moving_digits import Clips, MovingDigits


class DigitFocus(NamedTuple):
    """Fractions in [0, 1], averaged over the queries on a digit.

    Attributes:
        weight_on_digits: fraction of a query's weight on positions of either digit.
        links_on_digits: fraction of a query's 20 strongest links that end on either digit.
        digits_cover: fraction of the grid that the digits cover; uniform weights would give this value.
    """

    weight_on_digits: float
    links_on_digits: float
    digits_cover: float


class Example(NamedTuple):
    """A test clip with the links of one query on a digit.

    Attributes:
        clip: (T, H, W) in [0, 1].
        links: the 20 strongest links to other frames.
        record: the block's record of this clip.
    """

    clip: Tensor
    links: list[Link]
    record: BlockRecord


def digit_focus(
    net: nn.Module, place: str, data: MovingDigits, *, clips: int = 32, seed: int = 7, k: int = 20
) -> DigitFocus:
    """Measure how much of the attention of queries on a digit lands on the two digits.

    A position is on a digit if the pixel at the center of its receptive field lies in a digit's 8x8 box.

    Args:
        net: network in eval mode with a block at `place`.
        place: name of the block in `nl.blocks`.
        data: source of the clips, usually the test split.
        clips: number of clips to average over.
        seed: seed of the clips.
        k: number of strongest links per query.
    """
    drawn = data.batch(clips, torch.Generator().manual_seed(seed))
    record = _record(net, place, drawn)
    weight, links, cover = [], [], []
    for b in range(clips):
        on_digit_N = on_digits(drawn.masks()[b].any(0), record).flatten()
        for _, tile_RM in record.weights.tiles(b):
            rows_QM = tile_RM[on_digit_N]
            weight.append(rows_QM[:, on_digit_N].sum(1))
            links.append(on_digit_N[rows_QM.topk(k).indices].float().mean(1))
        cover.append(on_digit_N.float().mean())
    return DigitFocus(float(torch.cat(weight).mean()), float(torch.cat(links).mean()), float(torch.stack(cover).mean()))


def example(net: nn.Module, place: str, data: MovingDigits, *, seed: int = 7, k: int = 20) -> Example:
    """The attention from the center of a digit, in the middle frame of the first clip whose digits never overlap.

    Raises:
        ValueError: the digits overlap in each of the 64 clips drawn.
    """
    drawn = data.batch(64, torch.Generator().manual_seed(seed))
    apart = ~drawn.masks().all(1).flatten(1).any(1)
    if not apart.any():
        raise ValueError("the digits overlap in all of 64 clips: expected shorter clips or larger frames")
    chosen = int(apart.nonzero()[0])
    record = _record(net, place, Clips(*(part[chosen : chosen + 1] for part in drawn)))
    frame = data.frames // 2
    y, x = (int(value) for value in (drawn.corners[chosen, 0, frame] + 4) % data.size)
    links = record.links((frame, y, x), k=k, frames="others", pixels=True)
    return Example(drawn.clips[chosen, 0], links, record)


def on_digits(mask_THW: Tensor, record: BlockRecord) -> Tensor:
    """Grid positions (T', H', W'), bool, whose center in the clip lies on a digit."""
    geometry = record.geometry
    centers = [
        [min(max(round(offset + stride * index), 0), pixels - 1) for index in range(cells)]
        for offset, stride, cells, pixels in zip(
            geometry.offset, geometry.stride, geometry.grid, geometry.input_size, strict=True
        )
    ]
    frames, rows, columns = (torch.tensor(one) for one in centers)
    return mask_THW[frames][:, rows][:, :, columns]


@torch.no_grad()
def _record(net: nn.Module, place: str, drawn: Clips) -> BlockRecord:
    with watch(net) as seen:
        net(drawn.clips)
    return seen[place]
