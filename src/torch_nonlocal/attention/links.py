"""One weight w_ij as a link between two places."""

from dataclasses import dataclass

from torch_nonlocal.attention.geometry import Geometry


@dataclass(frozen=True)
class Link:
    """One weight w_ij: position x_i (source) looks at position x_j (target).

    Attributes:
        source: x_i on the block's grid, (t, y, x).
        target: x_j on the keys' grid (the block's grid, or coarser where keys are pooled).
        source_pixel: center of x_i in the input, (frame, y, x), fractional.
        target_pixel: center of x_j's area in the input.
        weight: w_ij; signed for dot product.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    source_pixel: tuple[float, ...]
    target_pixel: tuple[float, ...]
    weight: float


def make_link(geometry: Geometry, source: tuple[int, ...], target: tuple[int, ...], weight: float) -> Link:
    """A link with its pixels."""
    return Link(source, target, geometry.query_pixel(source), geometry.key_pixel(target), weight)
