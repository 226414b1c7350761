"""An attention weight w_ij as a link between two positions."""

from dataclasses import dataclass

from torch_nonlocal.attention.geometry import Geometry


@dataclass(frozen=True)
class Link:
    """The weight w_ij with which position x_i (the source, a query) attends to position x_j (the target, a key).

    Attributes:
        source: x_i on the block's grid, (t, y, x).
        target: x_j on the grid of keys, which is coarser than the block's grid where keys are pooled.
        source_pixel: center of x_i in the input, (frame, y, x), fractional.
        target_pixel: center of x_j in the input, (frame, y, x), fractional.
        weight: w_ij; signed for the dot product. NaN where the attention is NaN; the target is then not the strongest.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    source_pixel: tuple[float, ...]
    target_pixel: tuple[float, ...]
    weight: float


def make_link(geometry: Geometry, source: tuple[int, ...], target: tuple[int, ...], weight: float) -> Link:
    """Return the link between two grid positions, with their pixel coordinates."""
    return Link(source, target, geometry.query_pixel(source), geometry.key_pixel(target), weight)
