"""Merge a map's axes into one axis of positions, and split it again.

A map is channels first, (B, C, L), (B, C, H, W) or (B, C, T, H, W). Positions are (B', N, C), what `functional` takes:

| attend      | who sees whom                       | B'        | N         |
|-------------|-------------------------------------|-----------|-----------|
| "spacetime" | every position sees every position  | B         | T * H * W |
| "space"     | a position sees its own frame       | B * T     | H * W     |
| "time"      | a position sees itself in all frames| B * H * W | T         |

1D and 2D maps have one way, "spacetime": all positions.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

Attend = Literal["spacetime", "space", "time"]
ATTEND: tuple[Attend, ...] = get_args(Attend)


def to_positions(map_BCthw: Tensor, attend: str) -> Tensor:
    """(B, C, *size) -> (B', N, C); a view wherever strides allow."""
    if attend == "spacetime":
        return map_BCthw.flatten(2).transpose(1, 2)
    if attend == "space":
        return map_BCthw.flatten(3).permute(0, 2, 3, 1).flatten(0, 1)
    return map_BCthw.permute(0, 3, 4, 2, 1).flatten(0, 2)


def to_map(positions_BNC: Tensor, size: Sequence[int], attend: str) -> Tensor:
    """(B', N, C) -> (B, C, *size), the inverse of `to_positions` for a map of that size."""
    if attend == "spacetime":
        return positions_BNC.transpose(1, 2).unflatten(2, size)
    frames, height, width = size[0], size[1], size[2]
    if attend == "space":
        return positions_BNC.unflatten(0, (-1, frames)).unflatten(2, (height, width)).permute(0, 4, 1, 2, 3)
    return positions_BNC.unflatten(0, (-1, height, width)).permute(0, 4, 3, 1, 2)
