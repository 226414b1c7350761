"""Groups: which positions of a map attend to which.

`attend` selects the axes over which the sum of the non-local operation runs. The positions that share their index on
all other axes form a group; each position attends to its own group.

| attend      | a position attends to           | sum over | groups of a clip | positions of a group |
|-------------|---------------------------------|----------|------------------|----------------------|
| "spacetime" | every position                  | T, H, W  | 1                | T * H * W            |
| "space"     | the positions of its frame      | H, W     | T                | H * W                |
| "time"      | its pixel in every frame        | T        | H * W            | T                    |

Of these, 1D and 2D maps have "spacetime" only. Queries and keys are grouped alike; pooling gives keys a smaller grid.

`windows` divides the groups further: along an axis with a window of w positions, a position attends to the keys of its
own window (`layers.windows`).

Two options compute other sums than those of whole groups:

| attend        | sum                                                                                          |
|---------------|----------------------------------------------------------------------------------------------|
| "criss_cross" | the row and the column of a position in its frame or image, itself once (`layers.criss_cross`) |
| "channel"     | all channels, with weights among channels: the products of two channels sum over positions   |

`causal="frames"` restricts the keys in a group to those of the position's own frame and of earlier ones; with
`window_frames=w`, to those of the last w frames. Keys are then not pooled over time, which would mix frames.

This is the only file that knows what an `attend` option means. To add an option, extend `Attend` and `_OPTIONS`.

Shapes: B batch, C channels, G groups of one batch item, N positions of a group. A grid is the size of a map, (T, H, W),
(H, W) or (L,). A point is a position of it, and a flat index is the row-major number of a point.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from torch_nonlocal._common.counts import is_count
from torch_nonlocal.functional import CausalFrames

Attend = Literal["spacetime", "space", "time", "criss_cross", "channel"]
ATTEND: tuple[Attend, ...] = get_args(Attend)
Causal = Literal["frames"] | None
Windows = Sequence[int | None] | int | None
Mixing = Literal["group", "cross", "channels"]


@dataclass(frozen=True)
class _Option:
    """What one `attend` option means.

    Attributes:
        axes: the axes of (T, H, W) that the sum runs over, in ascending order.
        within: where a position attends, as in "each position within its frame"; "" for everywhere.
        least_dims: the fewest axes of a map with this option.
        mixing: what the sum of a position runs over: its "group", the "cross" of its row and its column in the group,
            or the "channels".
    """

    axes: tuple[int, ...]
    within: str
    least_dims: int = 3
    mixing: Mixing = "group"


_OPTIONS: dict[str, _Option] = {
    "spacetime": _Option((0, 1, 2), "", least_dims=1),
    "space": _Option((1, 2), "its frame"),
    "time": _Option((0,), "its pixel"),
    "criss_cross": _Option((1, 2), "its row and column", least_dims=2, mixing="cross"),
    "channel": _Option((0, 1, 2), "", least_dims=1, mixing="channels"),
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
        windows: the size of the windows along each axis, None where an axis has none. One size stands for all axes of
            the sum.
        interlaced: whether a window consists of positions that are as far apart as there are windows along the axis,
            not of neighbors.

    Attributes:
        axes: the axes of a grid that the sum runs over.
        other_axes: the axes of a grid that number the groups.
        is_whole: whether every position attends to every position, as with attend="spacetime" and no other option.

    Raises:
        ValueError: if an option is unknown, needs more axes, or does not go with another.
    """

    attend: Attend
    dims: int
    causal: Causal = None
    window_frames: int | None = None
    windows: Windows = None
    interlaced: bool = False
    axes: tuple[int, ...] = field(init=False, repr=False, compare=False)
    other_axes: tuple[int, ...] = field(init=False, repr=False, compare=False)
    is_whole: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.attend not in _OPTIONS:
            raise ValueError(f"attend={self.attend!r}: expected one of {', '.join(map(repr, _OPTIONS))}")
        if self.dims < (least := _OPTIONS[self.attend].least_dims):
            needed = "a clip (NonLocal3d)" if least == 3 else "an image or a clip (NonLocal2d, NonLocal3d)"
            raise ValueError(
                f"attend={self.attend!r} needs {needed}; {self.dims}D maps have 'spacetime', all positions"
            )
        self._check_causal()
        axes = _OPTIONS[self.attend].axes if self.dims == 3 else tuple(range(self.dims))
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "other_axes", tuple(axis for axis in range(self.dims) if axis not in axes))
        object.__setattr__(self, "windows", self._checked_windows())
        parts = self.other_axes or self.causal or self.windows or _OPTIONS[self.attend].mixing != "group"
        object.__setattr__(self, "is_whole", not parts)

    def _check_causal(self) -> None:
        if self.causal not in (None, "frames"):
            raise ValueError(f"causal={self.causal!r}: expected None or 'frames'")
        if self.causal is None:
            if self.window_frames is not None:
                raise ValueError(f"window_frames={self.window_frames!r} needs causal='frames'")
            return
        if self.dims < 3:
            raise ValueError(f"causal='frames' needs a clip (NonLocal3d); {self.dims}D maps have no frames")
        if self.mixes_channels:
            raise ValueError(f"causal='frames': attend={self.attend!r} sums over the positions of all frames")
        if 0 not in _OPTIONS[self.attend].axes:
            raise ValueError(
                f"causal='frames': attend={self.attend!r} does not reach other frames and is causal as it is"
            )
        window = self.window_frames
        if window is not None and not is_count(window):
            raise ValueError(f"window_frames={window!r}: expected None or a number of frames, at least 1")

    def _checked_windows(self) -> tuple[int | None, ...] | None:
        """Return the windows, one per axis; None where there are none."""
        given = self.windows
        if not isinstance(self.interlaced, bool):
            raise ValueError(f"interlaced={self.interlaced!r}: expected True or False")
        if given is None:
            if self.interlaced:
                raise ValueError("interlaced=True needs windows, such as windows=7")
            return None
        if isinstance(given, int):
            found: tuple[Any, ...] = tuple(given if axis in self.axes else None for axis in range(self.dims))
        else:
            found = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
        if len(found) != self.dims or not all(size is None or is_count(size) for size in found):
            example = ", ".join(("None", "7", "7")[3 - self.dims :]) + ("," if self.dims == 1 else "")
            raise ValueError(
                f"windows={given!r}: expected a size of at least 1, or {self.dims} of them or None, one per axis, such "
                f"as ({example})"
            )
        if _OPTIONS[self.attend].mixing != "group":
            raise ValueError(f"windows={given!r}: attend={self.attend!r} has no groups that windows could divide")
        if outside := [axis for axis in self.other_axes if found[axis] is not None]:
            raise ValueError(
                f"windows={given!r}: attend={self.attend!r} does not sum over axis {outside[0]}, expected None there"
            )
        if self.causal and found[0] is not None:
            raise ValueError(
                f"windows={given!r}: causal='frames' has window_frames for the time axis, expected None there"
            )
        if all(size is None for size in found):
            raise ValueError(f"windows={given!r} has no size: expected windows=None, or a size for an axis")
        return found

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle. Those of version 0.2 have no axes and no windows, and earlier ones no causal frames."""
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def mixes_channels(self) -> bool:
        """Whether the weights are among channels, not among positions."""
        return _OPTIONS[self.attend].mixing == "channels"

    @property
    def is_cross(self) -> bool:
        """Whether a position attends to its row and its column."""
        return _OPTIONS[self.attend].mixing == "cross"

    @property
    def window_sizes(self) -> tuple[int | None, ...] | None:
        """The sizes of the windows, one or None per axis; None without windows."""
        return None if self.windows is None else tuple(self.windows)  # pyright: ignore[reportArgumentType]

    def has_windows(self, axes: Sequence[int]) -> bool:
        """Whether one of some axes has windows."""
        return (sizes := self.window_sizes) is not None and any(sizes[axis] is not None for axis in axes)

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
        group = _OPTIONS[self.attend].within
        if self.window_sizes is None:
            return group
        sizes = " x ".join("all" if size is None else str(size) for size in self.window_sizes)
        window = f"its {'interlaced ' if self.interlaced else ''}window ({sizes})"
        return f"{window} of {group}" if group else window

    def frames(self, grid: Sequence[int]) -> CausalFrames | None:
        """Which frames of a group a position attends to; None for all, or if a group has one frame."""
        return CausalFrames(grid[0], self.window_frames) if self.causal else None

    def count(self, grid: Sequence[int]) -> int:
        """G, the number of groups."""
        return _product(grid[axis] for axis in self.other_axes)

    def size(self, grid: Sequence[int]) -> int:
        """N, the number of positions of a group."""
        return _product(grid[axis] for axis in self.axes)

    def frame_size(self, grid: Sequence[int]) -> int:
        """The number of positions of a group that lie in one frame. In a group, they follow each other."""
        return math.prod(grid[axis] for axis in self.image_axes)

    def shape(self, grid: Sequence[int]) -> tuple[int, ...]:
        """The size of a group as a map: that of the grid on `axes`, else 1."""
        return tuple(size if axis in self.axes else 1 for axis, size in enumerate(grid))

    def to_positions(self, map_BCthw: Tensor) -> Tensor:
        """Split a map (B, C, *grid) into groups, (B * G, N, C). A view where the strides allow one.

        Weights among channels have channels in the place of positions: (B, C, N).
        """
        if self.mixes_channels:
            return map_BCthw.flatten(2)
        if not self.other_axes:
            return map_BCthw.flatten(2).transpose(1, 2)
        order = [2 + axis for axis in (*self.other_axes, *self.axes)]
        first = 2 + len(self.other_axes)  # of the axes that are merged into positions
        return map_BCthw.permute(0, 1, *order).flatten(first).movedim(1, first).flatten(0, first - 2)

    def to_map(self, positions_BNC: Tensor, grid: Sequence[int]) -> Tensor:
        """Join groups (B * G, N, C) into a map (B, C, *grid), the inverse of `to_positions`."""
        if self.mixes_channels:
            return positions_BNC.unflatten(2, [grid[axis] for axis in self.axes])
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


def _product(sizes: Iterable[int]) -> int:
    count = 1
    for size in sizes:  # torch.compile does not trace math.prod of symbolic sizes
        count = count * size
    return count
