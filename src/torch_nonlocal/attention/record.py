"""The record of one block: its weights between grid positions or input pixels."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.inputs import Placement
from torch_nonlocal.attention.links import Link, make_link
from torch_nonlocal.attention.statistics import Statistics, measure_weights
from torch_nonlocal.attention.strongest import Strongest, strongest_keys
from torch_nonlocal.attention.weights import PairWeights
from torch_nonlocal.layers.groups import Attend, Groups

FRAMES = ("all", "others", "each")
DIRECTIONS = ("out", "in")


class BlockRecord:
    """Weights of one block in the last watched run, computed on demand from theta and phi (or a and b).

    Points are positions (t, y, x) of the block's grid, (y, x) in an image and (i,) in a sequence, or input pixels with
    `pixels=True`.
    """

    def __init__(
        self,
        name: str,
        weights: PairWeights,
        geometry: Geometry,
        *,
        attend: Attend,
        batch: int,
        locate: Callable[[], Geometry] | None = None,
        images: Sequence[Placement] = (),
        saliency: Tensor | None = None,
    ) -> None:
        self.name = name
        self.weights = weights
        self.groups = Groups(attend, len(geometry.grid))
        self.batch_size = batch
        self._saliency = saliency  # (B, *grid)
        self._geometry = geometry
        self._locate = locate  # finds the receptive fields on first use of the geometry
        self._images = tuple(images)  # where the network resizes or pads its images: one for each, or one for all

    @property
    def attend(self) -> Attend:
        """The `attend` option of the block, such as "spacetime"."""
        return self.groups.attend

    @property
    def geometry(self) -> Geometry:
        """Position of the grid in the input; `geometry.probed` is True if it follows from receptive fields.

        If the network resizes or pads the images of a list, this is the position in the first; see `geometry_of`.
        """
        return self.geometry_of(0)

    def geometry_of(self, batch: int) -> Geometry:
        """Position of the grid in an image of the batch. It differs only where the network resizes its images."""
        self.settle()
        return self._placed(batch)

    def _placed(self, batch: int) -> Geometry:
        if not self._images:
            return self._geometry
        return self._images[batch if len(self._images) > 1 else 0].geometry(self._geometry)

    def settle(self, *, probe: bool = True) -> None:
        """Find the geometry now, or with probe=False keep an evenly divided grid, and release the model."""
        locate, self._locate = self._locate, None
        if probe and locate is not None:
            self._geometry = locate()

    @property
    def sizes(self) -> tuple[str, str, str]:
        """Sizes of grid, key grid and input as text, such as "4x8x8"."""
        shown = self._placed(0)
        grid, keys, pixels = shown.grid, shown.key_grid, shown.input_size
        return "x".join(map(str, grid)), "x".join(map(str, keys)), "x".join(map(str, pixels))

    def __repr__(self) -> str:
        grid, keys, pixels = self.sizes
        return (
            f"<{self.name}: {self.weights.pairwise}, attend={self.attend}, grid {grid}, keys {keys}, input {pixels}, "
            f"batch {self.batch_size}; {self.shown}>"
        )

    @property
    def shown(self) -> str:
        """Definition of the weights in this form."""
        parts = [self._form]
        if self.weights.frames is not None:
            window = self.weights.frames.window
            parts.append("causal: zero for later frames" + (f" and those before the last {window}" if window else ""))
        if self.weights.sees is not None:
            parts.append(f"zero outside {self.weights.sees.within}")
        if self.weights.regions is not None:
            parts.append("zero outside the most salient positions")
        if self.weights.kept is not None:
            count = self.weights.kept
            parts.append("zero except for the " + (f"{count} strongest keys" if count > 1 else "strongest key"))
        return "; ".join(parts)

    @property
    def _form(self) -> str:
        if self.weights.is_softmax:
            over = "each query" if self.weights.normalize == "keys" else "each key"
            return f"softmax: weights of {over} sum to one"
        if self.weights.pairwise == "dot_product":
            count = "N" if self.weights.normalize == "queries" else "M"
            return f"dot product / {count}: signed, without a fixed sum"
        return "ReLU(a + b) / M: nonnegative, without a fixed sum"

    def rows(self, points: Sequence[Sequence[float]], *, pixels: bool = False, batch: int = 0) -> Tensor:
        """Return the exact weights of Q queries over all keys, in O(Q M) time and memory.

        Args:
            points: Q positions.
            pixels: the points are input pixels, not grid positions.
            batch: index of the clip in the batch.

        Returns:
            (Q, *key_grid), float32 or better. Zero for keys that a query does not attend to: those outside its group
            with attend="space" or "time", outside its window or its row and column, those of later frames in a
            causal block, and those that are not selected.

        Raises:
            ValueError: a point or the batch index is out of range; the message gives the valid range.
        """
        self._check_batch(batch)
        found = [self.geometry_of(batch).find(point, pixels=pixels) for point in points]
        places: dict[int, list[tuple[int, int]]] = {}
        for row, point in enumerate(found):
            group, index = self._group_of(point, batch, self.geometry.grid)
            places.setdefault(group, []).append((row, index))
        like = self.weights.query
        dtype = torch.promote_types(like.dtype, torch.float32)
        out_Q = torch.zeros(len(found), *self.geometry.key_grid, dtype=dtype, device=like.device)
        for group, members in places.items():
            values_RM = self.weights.rows(group, torch.tensor([index for _, index in members], device=like.device))
            for (row, _), values_M in zip(members, values_RM, strict=True):
                part = self._part(out_Q[row], group, batch)
                part.copy_(values_M.view(part.shape))
        return out_Q

    def column(self, point: Sequence[float], *, pixels: bool = False, batch: int = 0) -> Tensor:
        """Return the weights of the key at a point for all queries: (*grid)."""
        self._check_batch(batch)
        geometry = self.geometry_of(batch)
        key = geometry.covering_key(geometry.find(point, pixels=pixels))
        group, index = self._group_of(key, batch, self.geometry.key_grid)
        values_N = self.weights.columns(group, torch.tensor([index], device=self.weights.query.device))[0]
        whole = values_N.new_zeros(self.geometry.grid)
        part = self._part(whole, group, batch)
        part.copy_(values_N.view(part.shape))
        return whole

    def links(
        self,
        point: Sequence[float],
        k: int = 20,
        *,
        frames: str = "all",
        direction: str = "out",
        pixels: bool = False,
        batch: int = 0,
    ) -> list[Link]:
        """Return the links of one position with the largest absolute weights, strongest first.

        There may be fewer than k: only keys that a query sees (in causal blocks, in windows, in rows and columns) are
        linked and, in blocks that select keys, only those that it selects.

        Args:
            point: the position.
            k: number of links, per frame with frames="each".
            frames: "all": links to all frames; "others": links to other frames, as in figure 3 of the paper; "each": k
                links to each other frame. Has no effect for images and sequences.
            direction: "out": the point is the query; "in": the point is the key.
            pixels: the point is an input pixel, not a grid position.
            batch: index of the clip in the batch.

        Raises:
            ValueError: the point or the batch index is out of range, a choice is unknown, or k is below 1 or above the
                number of candidates; the message gives the valid range.
        """
        _check_choice("frames", frames, FRAMES)
        _check_choice("direction", direction, DIRECTIONS)
        self._check_batch(batch)
        geometry = self.geometry_of(batch)
        here = geometry.find(point, pixels=pixels)
        key = geometry.covering_key(here)
        if direction == "out":
            values, own = self.rows([here], batch=batch)[0], key
            group, index = self._group_of(here, batch, self.geometry.grid)
        else:
            values, own = self.column(here, batch=batch), here
            group, index = self._group_of(key, batch, self.geometry.key_grid)
        group_of = torch.zeros_like(values, dtype=torch.bool)
        self._part(group_of, group, batch).fill_(True)
        seen = group_of & self._seen_from(group, index, direction, values, batch)
        regions = _regions(group_of, own, frames)
        chosen = [place for region in regions for place in _strongest(values, region, k, region & seen)]
        ends = [(here, place) if direction == "out" else (place, key) for place in chosen]
        return [make_link(geometry, a, b, float(values[p])) for (a, b), p in zip(ends, chosen, strict=True)]

    def _seen_from(self, group: int, index: int, direction: str, like: Tensor, batch: int) -> Tensor:
        """Whether a query of a group has weights for keys, (*key_grid), or a key has weights for queries, (*grid)."""
        seen = torch.ones_like(like, dtype=torch.bool)
        own = torch.tensor([index], device=like.device)
        if direction == "out":
            visible = self.weights.visible(own, torch.arange(self.weights.keys, device=like.device))
        else:
            visible = self.weights.visible(torch.arange(self.weights.queries, device=like.device), own)
        if visible is not None:
            part = self._part(seen, group, batch)
            part.copy_(visible.view(part.shape))
        if self.weights.selects:
            seen &= like != 0
        return seen

    def saliency(self, *, batch: int = 0) -> Tensor:
        """Return the saliency of every position, in [0, 1], by which a block with `regions` selects keys: (*grid).

        Raises:
            ValueError: the block has no `regions`, or the batch index is out of range.
        """
        self._check_batch(batch)
        if self._saliency is None:
            raise ValueError(f"the block at {self.name!r} has no saliency: expected a block with regions=k")
        return self._saliency[batch]

    def strongest(self, k: int = 20, *, frames: str = "all", batch: int = 0) -> Strongest:
        """Return the k links with the largest absolute weights of every position, without an N x M map.

        Where a position sees fewer than k candidates (in causal blocks, in windows, in rows and columns) or selects
        fewer, the other links have weight zero.

        Takes about as long as two runs of the block's exact attention, and 100 MB of memory in addition to the result.

        Args:
            k: number of links per position.
            frames: "all": links to all frames; "others": links to other frames. Has no effect for images and sequences.
            batch: index of the clip in the batch.

        Raises:
            ValueError: the batch index is out of range, a choice is unknown, or k is below 1 or above the number of
                candidates; the message gives the valid range.
        """
        _check_choice("frames", frames, FRAMES[:2])
        self._check_batch(batch)
        grid, key_grid = self.geometry.grid, self.geometry.key_grid
        others = frames == "others" and len(grid) == 3
        run, per_frame = self.groups.frame_size(key_grid), self.groups.frame_size(grid)
        _check_k(k, self.weights.keys - others * run)

        def own_frame(query_R: Tensor) -> tuple[Tensor, int]:
            key_frame_R = (query_R // per_frame // self.geometry.pool[0]).clamp(max=key_grid[0] - 1)
            return key_frame_R * run, run

        flat = torch.arange(math.prod(key_grid), device=self.weights.query.device).view(key_grid)
        like = self.weights.query
        indices = torch.empty(*grid, k, dtype=torch.int64, device=like.device)
        values = torch.empty(*grid, k, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
        for group in self._numbers(batch):
            index_NK, value_NK = strongest_keys(self.weights, group, k, own_frame if others else None)
            place = self._part(indices, group, batch)
            place.copy_(self._part(flat, group, batch).flatten()[index_NK].view(place.shape))
            self._part(values, group, batch).copy_(value_NK.view(place.shape))
        return Strongest(indices.flatten(0, -2), values.flatten(0, -2), self.geometry_of(batch))

    def statistics(self, *, batch: int = 0) -> Statistics:
        """Return entropy, self-weight, weight on the own frame and attention distance; print them for a summary.

        Computes all N x M weights in tiles: seconds for thousands of positions, minutes for a hundred thousand.

        Raises:
            ValueError: the batch index is out of range; the message gives the valid range.
        """
        self._check_batch(batch)
        return measure_weights(self.weights, self.geometry_of(batch), self.groups, self._numbers(batch))

    def _check_batch(self, batch: int) -> None:
        if not 0 <= batch < self.batch_size:
            raise ValueError(f"batch={batch} is out of range: expected 0 to {self.batch_size - 1}")

    def _group_of(self, point: Sequence[int], batch: int, grid: Sequence[int]) -> tuple[int, int]:
        """The group of a grid position, counted over the batch, and the number of the position in it."""
        group, index = self.groups.locate(point, grid)
        return self._numbers(batch).start + group, index

    def _numbers(self, batch: int) -> range:
        """The numbers of the groups of one clip, counted over the batch."""
        count = self.groups.count(self.geometry.grid)
        return range(batch * count, (batch + 1) * count)

    def _part(self, whole: Tensor, group: int, batch: int) -> Tensor:
        """The view of a map (*grid, ...) that holds a group."""
        return whole[self.groups.part(group - self._numbers(batch).start, self.geometry.grid)]


def _check_choice(name: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        raise ValueError(f"{name}={given!r}: expected one of {', '.join(map(repr, allowed))}")


def _check_k(k: int, available: int) -> None:
    if available == 0:
        raise ValueError(f"k={k}: there are no candidates, because the block attends within single frames")
    if not 1 <= k <= available:
        raise ValueError(f"k={k}: expected 1 to {available}, the number of candidates")


def _regions(seen: Tensor, own: Sequence[int], frames: str) -> list[Tensor]:
    """Boolean masks (*grid) of the candidates, each for one selection of k links."""
    if frames == "all" or seen.ndim < 3:
        return [seen]
    others = seen.clone()
    others[own[0]] = False
    if frames == "others" or not others.any():
        return [others]
    indices = torch.arange(len(seen), device=seen.device)[:, None, None]
    return [others & (indices == frame) for frame in range(len(seen)) if bool(others[frame].any())]


def _strongest(values: Tensor, region: Tensor, k: int, seen: Tensor) -> list[tuple[int, ...]]:
    """The places of the k largest values among those of a region that are seen, or of all if they are fewer."""
    _check_k(k, int(region.sum()))
    order = values.abs().masked_fill(~seen, -math.inf).flatten().topk(min(k, int(seen.sum()))).indices
    return [tuple(place) for place in torch.stack(torch.unravel_index(order, values.shape), dim=1).tolist()]
