"""Layouts: the order of the axes of a block's input and output.

| layout           | shape                                  | found in                                     |
|------------------|----------------------------------------|----------------------------------------------|
| "channels_first" | (B, C, *size)                          | convolutional networks                       |
| "channels_last"  | (B, *size, C)                          | Swin, the inside of ConvNeXt, sequences      |
| "tokens"         | (B, P + N, C), N the positions of grid | ViT: P prefix tokens such as the class token |
| "frames"         | (B * T, C, H, W), grid is (T,)         | TSM, TSN: networks that see frames as images |

A block computes on maps (B, C, *size). `to_map` and `from_map` convert; the conversions are views where strides allow.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from torch_nonlocal._common.counts import is_count
from torch_nonlocal._common.tracing import is_recorded

Layout = Literal["channels_first", "channels_last", "tokens", "frames"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
_AXES = (("L",), ("H", "W"), ("T", "H", "W"))


def check_layout(layout: Any, grid: Any, prefix_tokens: Any, dims: int) -> tuple[int, ...] | None:
    """Check the options `layout`, `grid` and `prefix_tokens` of a block and return the grid as a tuple.

    Raises:
        ValueError: if the layout is unknown, tokens have no grid of `dims` positive sizes, frames have no grid of one
            size or the block is not for clips, or another layout has a grid.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}: expected one of {', '.join(map(repr, LAYOUTS))}")
    if layout == "frames":
        return _check_frames(grid, prefix_tokens, dims)
    if layout != "tokens":
        for name, given in (("grid", grid), ("prefix_tokens", prefix_tokens)):
            if given is not None:
                raise ValueError(f"{name}={given!r} applies to layout='tokens', not to layout={layout!r}")
        return None
    sizes = tuple(grid) if isinstance(grid, Sequence) and not isinstance(grid, str) else ()
    if len(sizes) != dims or any(not is_count(size) for size in sizes):
        example = ", ".join(("196",) if dims == 1 else ("8", "14", "14")[-dims:])
        raise ValueError(f"grid={grid!r}: layout='tokens' requires the sizes of {dims} axes, such as grid=({example})")
    if prefix_tokens is not None and not is_count(prefix_tokens, least=0):
        raise ValueError(f"prefix_tokens={prefix_tokens!r}: expected None or a number of tokens")
    return sizes


def _check_frames(grid: Any, prefix_tokens: Any, dims: int) -> tuple[int, ...]:
    count: tuple[Any, ...] = tuple(grid) if isinstance(grid, Sequence) else (grid,)
    if dims != 3 or prefix_tokens is not None:
        wrong = f"prefix_tokens={prefix_tokens!r}" if dims == 3 else f"a block for maps of {dims} axes"
        raise ValueError(f"layout='frames' applies to NonLocal3d without prefix tokens, not to {wrong}")
    if len(count) != 1 or not is_count(count[0]):
        raise ValueError(f"grid={grid!r}: layout='frames' requires the number of frames of a clip, such as grid=(8,)")
    return count


def to_map(x: Tensor, layout: Layout, grid: tuple[int, ...] | None) -> Tensor:
    """Return the map (B, C, *size) of a tensor in a layout, without the prefix tokens."""
    if layout == "channels_first":
        return x
    if layout == "channels_last":
        return x.movedim(-1, 1)
    assert grid is not None
    if layout == "frames":
        return x.unflatten(0, (-1, *grid)).transpose(1, 2)
    return x[:, -math.prod(grid) :].unflatten(1, grid).movedim(-1, 1)


def from_map(map_BCthw: Tensor, layout: Layout, like: Tensor) -> Tensor:
    """Return a map (B, C, *size) in a layout, with zeros for the prefix tokens of `like`; the inverse of `to_map`."""
    if layout == "channels_first":
        return map_BCthw
    if layout == "channels_last":
        return map_BCthw.movedim(1, -1)
    if layout == "frames":
        return map_BCthw.transpose(1, 2).flatten(0, 1)
    tokens_BNC = map_BCthw.flatten(2).transpose(1, 2)
    prefix = like.shape[1] - tokens_BNC.shape[1]
    return nn.functional.pad(tokens_BNC, (0, 0, prefix, 0)) if is_recorded(like) or prefix else tokens_BNC


def map_shape(shape: Sequence[int], layout: Layout, grid: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the shape (B, C, *size) of the map of a tensor of a shape that fits the layout."""
    if layout == "channels_first":
        return tuple(shape)
    if layout == "frames":
        assert grid is not None
        return shape[0] // grid[0], shape[1], grid[0], *shape[2:]
    size = grid if grid is not None else tuple(shape[1:-1])
    return shape[0], shape[-1], *size


def fits(
    shape: Sequence[int], layout: Layout, dims: int, channels: int, grid: tuple[int, ...] | None, prefix: int | None
) -> bool:
    """Return whether a shape is that of a tensor in the layout.

    Args:
        shape: the shape.
        layout: the layout.
        dims: axes of a map: 1, 2 or 3.
        channels: C.
        grid: sizes of the map of tokens.
        prefix: P, the number of prefix tokens; None for any.
    """
    if layout == "frames":
        return len(shape) == 4 and shape[1] == channels and shape[0] % (grid or (1,))[0] == 0
    if layout != "tokens":
        return len(shape) == dims + 2 and shape[1 if layout == "channels_first" else -1] == channels
    if len(shape) != 3 or shape[2] != channels:
        return False
    extra = shape[1] - math.prod(grid or ())
    return extra == prefix if prefix is not None else extra >= 0


def expected(layout: Layout, dims: int, channels: int, grid: tuple[int, ...] | None, prefix: int | None) -> str:
    """Return the shapes that `fits` accepts as text, such as "(B, H, W, 192)"."""
    axes = _AXES[dims - 1]
    if layout == "frames":
        return f"(B * {(grid or (1,))[0]}, {channels}, H, W)"
    if layout == "tokens":
        positions = math.prod(grid or ())
        count = f"{prefix} + {positions}" if prefix else str(positions) if prefix == 0 else f"P + {positions}"
        axes = (f"{count} ({'x'.join(map(str, grid or ()))} grid)",)
    inner = (str(channels), *axes) if layout == "channels_first" else (*axes, str(channels))
    return f"({', '.join(('B', *inner))})"
