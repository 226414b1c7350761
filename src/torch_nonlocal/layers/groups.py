"""Groups: which positions of a map attend to which.

`attend` selects the axes over which the sum of the non-local operation runs. The positions that share their index on
all other axes form a group; each position attends to its own group.

| attend      | a position attends to           | sum over | groups of a clip | positions of a group |
|-------------|---------------------------------|----------|------------------|----------------------|
| "spacetime" | every position                  | T, H, W  | 1                | T * H * W            |
| "space"     | the positions of its frame      | H, W     | T                | H * W                |
| "time"      | its pixel in every frame        | T        | H * W            | T                    |

1D and 2D maps have "spacetime" only. Queries and keys are grouped alike; pooling gives keys a smaller grid.

`causal="frames"` restricts the keys in a group to those of the position's own frame and of earlier ones; with
`window_frames=w`, to those of the last w frames. Keys are then not pooled over time, which would mix frames.

This is the only file that knows what an `attend` option means. To add an option, extend `Attend` and `_OPTIONS`.

Shapes: B batch, C channels, G groups of one batch item, N positions of a group. A grid is the size of a map, (T, H, W),
(H, W) or (L,). A point is a position of it, and a flat index is the row-major number of a point.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from torch_nonlocal.functional import CausalFrames

Attend = Literal["spacetime", "space", "time"]
ATTEND: tuple[Attend, ...] = get_args(Attend)
Causal = Literal["frames"] | None


@dataclass(frozen=True)
class _Option:
    """What one `attend` option means.

    Attributes:
        axes: the axes of (T, H, W) that the sum runs over, in ascending order.
        within: where a position attends, as in "each position within its frame"; "" for everywhere.
    """

    axes: tuple[int, ...]
    within: str


_OPTIONS: dict[str, _Option] = {
    "spacetime": _Option((0, 1, 2), ""),
    "space": _Option((1, 2), "its frame"),
    "time": _Option((0,), "its pixel"),
}


@dataclass(frozen=True)
class Groups:
    """The groups of the maps with a number of axes.

    Args:
        attend: the option.
        dims: axes of a grid: 3 for (T, H, W), 2 for (H, W), 1 for (L,).
        causal: "frames" if positions attend to their own and earlier frames only; None for all frames.
        window_frames: the number of frames that a position attends to, its own included, if they are causal; None for
            all up to its own.

    Attributes:
        axes: the axes of a grid that the sum runs over.
        other_axes: the axes of a grid that number the groups.

    Raises:
        ValueError: if an option is unknown, needs more axes, or does not go with another.
    """

    attend: Attend
    dims: int
    causal: Causal = None
    window_frames: int | None = None
    axes: tuple[int, ...] = field(init=False, repr=False, compare=False)
    other_axes: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.attend not in _OPTIONS:
            raise ValueError(f"attend={self.attend!r}: expected one of {', '.join(map(repr, _OPTIONS))}")
        if self.dims < 3 and len(_OPTIONS[self.attend].axes) < 3:
            raise ValueError(
                f"attend={self.attend!r} needs a clip (NonLocal3d); {self.dims}D maps have 'spacetime', all positions"
            )
        self._check_causal()
        axes = _OPTIONS[self.attend].axes if self.dims == 3 else tuple(range(self.dims))
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "other_axes", tuple(axis for axis in range(self.dims) if axis not in axes))

    def _check_causal(self) -> None:
        if self.causal not in (None, "frames"):
            raise ValueError(f"causal={self.causal!r}: expected None or 'frames'")
        if self.causal is None:
            if self.window_frames is not None:
                raise ValueError(f"window_frames={self.window_frames!r} needs causal='frames'")
            return
        if self.dims < 3:
            raise ValueError(f"causal='frames' needs a clip (NonLocal3d); {self.dims}D maps have no frames")
        if 0 not in _OPTIONS[self.attend].axes:
            raise ValueError(
                f"causal='frames': attend={self.attend!r} does not reach other frames and is causal as it is"
            )
        window = self.window_frames
        if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 1):
            raise ValueError(f"window_frames={window!r}: expected None or a number of frames, at least 1")

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle. Those of version 0.2 have no axes, and earlier ones no causal frames."""
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def image_axes(self) -> tuple[int, ...]:
        """The axes of `axes` that lie in the image or the sequence, along which a reach is measured in pixels."""
        return tuple(axis for axis in self.axes if self.dims < 3 or axis > 0)

    @property
    def spans_time(self) -> bool:
        """Whether a position of a clip attends to other frames, so that it has a reach in frames."""
        return self.dims == 3 and 0 in self.axes

    @property
    def within(self) -> str:
        """Where a position attends, such as "its frame"; "" for everywhere."""
        return _OPTIONS[self.attend].within

    def frames(self, grid: Sequence[int]) -> CausalFrames | None:
        """Which frames of a group a position attends to; None for all, or if a group has one frame."""
        return CausalFrames(grid[0], self.window_frames) if self.causal else None

    def count(self, grid: Sequence[int]) -> int:
        """G, the number of groups."""
        count = 1
        for axis in self.other_axes:  # torch.compile does not trace math.prod of symbolic sizes
            count = count * grid[axis]
        return count

    def size(self, grid: Sequence[int]) -> int:
        """N, the number of positions of a group."""
        return math.prod(grid[axis] for axis in self.axes)

    def frame_size(self, grid: Sequence[int]) -> int:
        """The number of positions of a group that lie in one frame. In a group, they follow each other."""
        return math.prod(grid[axis] for axis in self.image_axes)

    def shape(self, grid: Sequence[int]) -> tuple[int, ...]:
        """The size of a group as a map: that of the grid on `axes`, else 1."""
        return tuple(size if axis in self.axes else 1 for axis, size in enumerate(grid))

    def to_positions(self, map_BCthw: Tensor) -> Tensor:
        """Split a map (B, C, *grid) into groups, (B * G, N, C). A view where the strides allow one."""
        if not self.other_axes:
            return map_BCthw.flatten(2).transpose(1, 2)
        order = [2 + axis for axis in (*self.other_axes, *self.axes)]
        first = 2 + len(self.other_axes)  # of the axes that are merged into positions
        return map_BCthw.permute(0, 1, *order).flatten(first).movedim(1, first).flatten(0, first - 2)

    def to_map(self, positions_BNC: Tensor, grid: Sequence[int]) -> Tensor:
        """Join groups (B * G, N, C) into a map (B, C, *grid), the inverse of `to_positions`."""
        if not self.other_axes:
            return positions_BNC.transpose(1, 2).unflatten(2, [grid[axis] for axis in self.axes])
        others = [grid[axis] for axis in self.other_axes]
        whole = (
            positions_BNC.unflatten(0, (-1, *others))
            .movedim(2 + len(others), 1)
            .unflatten(2 + len(others), [grid[axis] for axis in self.axes])
        )
        order = (*self.other_axes, *self.axes)
        return whole.permute(0, 1, *(2 + order.index(axis) for axis in range(self.dims)))

    def locate(self, point: Sequence[int], grid: Sequence[int]) -> tuple[int, int]:
        """The group of a point, and the number of the point in its group."""
        return _flat_index(point, grid, self.other_axes), _flat_index(point, grid, self.axes)

    def part(self, group: int, grid: Sequence[int]) -> tuple[int | slice, ...]:
        """The index that selects a group from a map (*grid, ...): `map[part]` is a view."""
        index: list[int | slice] = [slice(None)] * self.dims
        for axis in reversed(self.other_axes):
            group, index[axis] = divmod(group, grid[axis])
        return tuple(index)

    def part_of(self, point: Sequence[int]) -> tuple[int | slice, ...]:
        """The index that selects the group of a point from a map (*grid, ...), as `part`."""
        return tuple(slice(None) if axis in self.axes else point[axis] for axis in range(self.dims))

    def flat_indices(self, grid: Sequence[int]) -> Tensor:
        """The flat indices of the positions of each group, (G, N), int64."""
        return self.to_positions(torch.arange(math.prod(grid)).view(1, 1, *grid))[..., 0]

    def layout(self, grid: Sequence[int]) -> dict[str, list[int]]:
        """Where the positions of a group lie, as JSON values for the page.

        The flat indices of the group of a point are the sum over axes of point * first, plus one step per axis of the
        group, repeated 0 to counts - 1 times; the last axis varies fastest.
        """
        strides = [math.prod(grid[axis + 1 :]) for axis in range(self.dims)]
        return {
            "first": [0 if axis in self.axes else stride for axis, stride in enumerate(strides)],
            "steps": [strides[axis] for axis in self.axes],
            "counts": [grid[axis] for axis in self.axes],
        }

    def pool_factors(self, subsample: Any) -> tuple[int, ...] | None:
        """The max pooling factors of the keys, one per axis; None where nothing is pooled.

        Args:
            subsample: None, a factor per axis, or one factor for the image axes of the sum (for the time axis, if the
                sum runs over time alone).

        Raises:
            ValueError: if a factor is below 1, their number is not `dims`, or an axis is pooled that the sum does not
                run over, or over time if the positions are causal over frames.
        """
        if subsample is None:
            return None
        if isinstance(subsample, int):
            pooled = self.image_axes or self.axes
            factors = tuple(subsample if axis in pooled else 1 for axis in range(self.dims))
        else:
            factors = tuple(subsample)
        if len(factors) != self.dims or any(factor < 1 for factor in factors):
            raise ValueError(
                f"subsample={subsample!r}: expected a positive factor, or {self.dims} of them, one per axis"
            )
        if self.causal and factors[0] > 1:
            raise ValueError(
                f"subsample={factors}: causal='frames' needs keys of single frames, expected 1 for the time axis"
            )
        if any(factors[axis] > 1 for axis in self.other_axes):
            raise ValueError(f"subsample={factors}: attend={self.attend!r} does not sum over a pooled axis")
        return factors if max(factors) > 1 else None


def flat_index(point: Sequence[int], grid: Sequence[int]) -> int:
    """The row-major number of a point of a grid."""
    return _flat_index(point, grid, range(len(grid)))


def _flat_index(point: Sequence[int], grid: Sequence[int], axes: Sequence[int]) -> int:
    index = 0
    for axis in axes:
        index = index * grid[axis] + point[axis]
    return index
