"""Where a trained block looks on moving digits, held against where the digits are."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal.attention import BlockRecord, Link, watch
from torch_nonlocal.data.moving_digits import Clips, MovingDigits


class DigitFocus(NamedTuple):
    """Shares in [0, 1], means over queries that lie on a digit.

    Attributes:
        weight_on_digits: of a query's weight, how much falls on positions of either digit.
        links_on_digits: of a query's 20 strongest links, how many end there.
        digits_cover: how much of the grid the two digits cover: what an even spread would give.
    """

    weight_on_digits: float
    links_on_digits: float
    digits_cover: float


class Example(NamedTuple):
    """A test clip with the links of one query that lies on a digit.

    Attributes:
        clip: (T, H, W) in [0, 1].
        links: the 20 strongest in other frames.
        record: the block's record of this clip.
    """

    clip: Tensor
    links: list[Link]
    record: BlockRecord


def digit_focus(
    net: nn.Module, place: str, data: MovingDigits, *, clips: int = 32, seed: int = 7, k: int = 20
) -> DigitFocus:
    """How much of the attention of queries on a digit lands on the two digits.

    A position counts as on a digit where the pixel at the centre of its receptive field lies in a digit's 8x8 box.

    Args:
        net: in eval mode, with a block at `place`.
        place: the block's name in `nl.blocks`.
        data: usually the test split.
        clips: how many clips to average over.
        seed: of the clips.
        k: strongest links counted for each query.
    """
    drawn = data.batch(clips, torch.Generator().manual_seed(seed))
    record = _watched(net, place, drawn)
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
    """Where the block looks from the middle of a digit, in a middle frame of the first clip whose digits never meet.

    Raises:
        ValueError: in none of the 64 clips drawn the digits stay apart.
    """
    drawn = data.batch(64, torch.Generator().manual_seed(seed))
    apart = ~drawn.masks().all(1).flatten(1).any(1)
    if not apart.any():
        raise ValueError("the digits meet in all of 64 clips: clips too long or frames too small for a picture")
    chosen = int(apart.nonzero()[0])
    record = _watched(net, place, Clips(*(part[chosen : chosen + 1] for part in drawn)))
    frame = data.frames // 2
    y, x = (int(value) for value in (drawn.corners[chosen, 0, frame] + 4) % data.size)
    links = record.links((frame, y, x), k=k, frames="others", pixels=True)
    return Example(drawn.clips[chosen, 0], links, record)


def on_digits(mask_THW: Tensor, record: BlockRecord) -> Tensor:
    """Grid positions (T', H', W') whose centre in the clip lies on a digit, bool."""
    geometry = record.geometry
    centres = [
        [min(max(round(offset + stride * index), 0), pixels - 1) for index in range(cells)]
        for offset, stride, cells, pixels in zip(
            geometry.offset, geometry.stride, geometry.grid, geometry.input_size, strict=True
        )
    ]
    frames, rows, columns = (torch.tensor(one) for one in centres)
    return mask_THW[frames][:, rows][:, :, columns]


@torch.no_grad()
def _watched(net: nn.Module, place: str, drawn: Clips) -> BlockRecord:
    with watch(net) as seen:
        net(drawn.clips)
    return seen[place]
