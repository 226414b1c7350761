"""Large images in overlapping tiles, whose seams are blended.

Shapes: C channels, H height, W width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from torch_nonlocal.tasks.denoise.network import FACTOR


def in_tiles(run: Callable[[Tensor], Tensor], image_CHW: Tensor, *, tile: int, overlap: int) -> Tensor:
    """Apply a network to tiles of an image, and blend the results.

    Of the pixels that two tiles share, the outer third of each tile is not used, since padding changes it; within the
    middle third, the weight of a tile falls linearly to 0. Tiles begin at multiples of the network's step, so a network
    that sees less far than a third of the overlap gives the same pixels as for the whole image.

    Args:
        run: maps (1, C, h, w) to (1, C', h, w).
        image_CHW: the image.
        tile: side length of the tiles in pixels, a multiple of the network's step; 0 for one tile.
        overlap: pixels that neighboring tiles share at least, at most half the tile.

    Returns:
        (C', H, W).
    """
    rows, columns = (_spans(size, tile, overlap) for size in image_CHW.shape[1:])
    if len(rows) * len(columns) == 1:
        return run(image_CHW[None])[0]
    total, weights = None, image_CHW.new_zeros(image_CHW.shape[1:])
    for top, bottom in rows:
        for left, right in columns:
            y = run(image_CHW[None, :, top:bottom, left:right])[0]
            vertical = _weights(top, bottom, image_CHW.shape[1], overlap)
            horizontal = _weights(left, right, image_CHW.shape[2], overlap)
            weight = torch.outer(vertical, horizontal).to(y)
            total = y.new_zeros(len(y), *image_CHW.shape[1:]) if total is None else total
            total[:, top:bottom, left:right] += weight * y
            weights[top:bottom, left:right] += weight
    assert total is not None
    return total / weights


def _spans(size: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Begin and end of the tiles along an axis, evenly spread."""
    if not tile or size <= tile:
        return [(0, size)]
    count = -(-(size - overlap) // (tile - overlap - FACTOR))
    starts = [round(number * (size - tile) / (count - 1)) // FACTOR * FACTOR for number in range(count)]
    return [(start, start + tile) for start in starts[:-1]] + [(starts[-1], size)]


def _weights(start: int, stop: int, size: int, overlap: int) -> Tensor:
    """The weight of each pixel of a tile along an axis; 1 at the borders of the image."""
    third = overlap // 3
    distance = torch.arange(stop - start, dtype=torch.float32)
    rising = ((distance - third + 1) / (third + 1)).clamp(0, 1)
    before = torch.ones_like(rising) if start == 0 else rising
    after = torch.ones_like(rising) if stop == size else rising.flip(0)
    return torch.minimum(before, after)
