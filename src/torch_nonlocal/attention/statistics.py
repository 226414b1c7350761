"""Statistics of attention weights: how selective they are, and how far they reach. Computed without an N x M map."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.weights import PairWeights
from torch_nonlocal.layers.groups import Groups

UNIFORM = 0.9995  # entropies above round to 1.000
_NEARLY = 0.95
_ALONE = 0.99
_ALIKE = 0.99


@dataclass(frozen=True)
class Statistics:
    """Means over all positions of one clip; the weights of each position are normalized to shares that sum to one.

    Attributes:
        entropy: entropy of the shares divided by log M: 0 if one key has all the weight, 1 if all keys have 1/M. M is
            the number of keys that the position sees or, in a block that selects keys, selects.
        on_itself: self-weight, the share on the key that contains the position.
        reach_pixels: attention distance, the mean distance in the image from a position to its keys, weighted by
            shares, in input pixels.
        on_own_frame: share on the frame of the position; None for images and sequences.
        reach_frames: attention distance in time, weighted by shares, in input frames; None for images and sequences.
        alike: mean cosine similarity of the rows of two positions: 1 if all positions have the same weights.
        silent: fraction of positions whose weights are all zero; the other means exclude them.
        keys: M, the number of keys of a position, only the selected ones in a block that selects keys; in a causal
            block and in windows the mean over positions, rounded.
        shares: description of how shares follow from weights.
        not_finite: fraction of positions with a weight that is NaN or infinite; the other means are then NaN.
        uniform_on_own_frame: share on the frame of the position if all keys had the same weight; None if unknown.
    """

    entropy: float
    on_itself: float
    reach_pixels: float
    on_own_frame: float | None
    reach_frames: float | None
    alike: float
    silent: float
    keys: int
    shares: str
    not_finite: float = 0.0
    uniform_on_own_frame: float | None = None

    @property
    def verdict(self) -> str:
        """One-sentence summary; points out blocks that have not learned to select positions."""
        if self.not_finite:
            return f"weights are NaN or infinite at {self.not_finite:.1%} of the positions: the features are not finite"
        if self.silent == 1:
            return "all weights are zero: the block adds nothing"
        if self.keys == 1:
            return "there is a single key: all of the weight is on it"
        if self.entropy >= UNIFORM:
            return (
                f"weights are uniform (entropy {self.entropy:.3f}, every weight is 1/{self.keys}): "
                "the block averages over all positions"
            )
        if self.on_itself >= _ALONE:
            return f"every position attends to itself ({self.on_itself:.1%} of the weight)"
        if self.alike >= _ALIKE:
            return f"all positions have nearly the same weights (cosine {self.alike:.3f}): the block pools globally"
        if self.entropy >= _NEARLY:
            return f"weights are nearly uniform (entropy {self.entropy:.3f} of 1)"
        return f"weights are selective (entropy {self.entropy:.3f} of 1)"

    def __str__(self) -> str:
        if self.not_finite:
            return f"{self.verdict}\ncomputed from {self.shares}"
        lines = [
            self.verdict,
            f"entropy               {self.entropy:.3f} (1: uniform over {self.keys:,} keys)",
            f"self-weight           {self.on_itself:.2%} (uniform: {1 / self.keys:.2%})",
        ]
        if self.on_own_frame is not None:
            even = "" if self.uniform_on_own_frame is None else f" (uniform: {self.uniform_on_own_frame:.1%})"
            lines.append(f"weight on own frame   {self.on_own_frame:.1%}{even}")
        lines.append(f"attention distance    {self.reach_pixels:.1f} pixels")
        if self.reach_frames is not None:
            lines[-1] += f", {self.reach_frames:.1f} frames"
        lines.append(f"similarity of rows    {self.alike:.3f} (mean cosine; 1: all positions have the same weights)")
        if self.silent:
            lines.append(f"zero rows             {self.silent:.1%} of the positions, excluded above")
        return "\n".join([*lines, f"computed from {self.shares}"])


@dataclass
class _Sums:
    """Running sums over the queries whose weights are not all zero."""

    queries: int = 0
    silent: int = 0
    not_finite: int = 0
    entropy: float = 0.0
    on_itself: float = 0.0
    on_own_frame: float = 0.0
    reach_pixels: float = 0.0
    reach_frames: float = 0.0
    alike: float = 0.0
    groups: int = 0


def measure_weights(weights: PairWeights, geometry: Geometry, groups: Groups, numbers: Iterable[int]) -> Statistics:
    """Return the statistics of one clip.

    Args:
        weights: weights of the block.
        geometry: position of its grid in the input.
        groups: how the positions are grouped.
        numbers: the numbers of the clip's groups in `weights`.
    """
    sums = _Sums()
    places = _Places(geometry, groups, weights.query.device)
    for group in numbers:
        _add_group(sums, weights, group, places)
    counted = max(sums.queries - sums.silent, 1) if not sums.not_finite else math.nan
    is_clip = len(geometry.grid) == 3
    seen_N = weights.seen_keys(torch.arange(weights.queries)).double()
    even = None
    if is_clip and not weights.selects:
        even = float((_seen_in_a_frame(weights, geometry, groups) / seen_N).mean())
    return Statistics(
        entropy=sums.entropy / counted,
        on_itself=sums.on_itself / counted,
        reach_pixels=sums.reach_pixels / counted,
        on_own_frame=sums.on_own_frame / counted if is_clip else None,
        reach_frames=sums.reach_frames / counted if is_clip else None,
        alike=sums.alike / max(sums.groups, 1) if not sums.not_finite else math.nan,
        silent=sums.silent / sums.queries,
        keys=round(float(seen_N.mean())),
        shares=_shares(weights),
        not_finite=sums.not_finite / sums.queries,
        uniform_on_own_frame=even,
    )


def _seen_in_a_frame(weights: PairWeights, geometry: Geometry, groups: Groups) -> Tensor | int:
    """The number of keys that a query sees in its own frame: for each query, or for all."""
    if weights.sees is None:
        return groups.frame_size(geometry.key_grid)
    return weights.sees.seen_keys(torch.arange(weights.queries), groups.image_axes).double()


def _shares(weights: PairWeights) -> str:
    causal = "" if weights.frames is None else "; keys of frames that it does not see have none"
    outside = "" if weights.sees is None else f"; keys outside {weights.sees.within} have none"
    return _shares_of_form(weights) + causal + outside


def _shares_of_form(weights: PairWeights) -> str:
    if weights.is_softmax:
        if weights.normalize == "keys":
            return "the softmax weights of each position"
        return "the weights of each position divided by their sum (the softmax is over queries)"
    if weights.pairwise == "dot_product":
        return "the absolute weights of each position divided by their sum"
    return "the weights of each position divided by their sum"


class _Places:
    """Pixel coordinates of the queries and keys of a group, separately in time and space.

    Every group is T x S positions, T frames with S positions each; T = 1 if a group lies in one frame or in an image.
    """

    def __init__(self, geometry: Geometry, groups: Groups, device: torch.device) -> None:
        self._geometry = geometry
        axes = range(len(geometry.grid))
        time, space = groups.spans_time, groups.image_axes
        query = [self._line(axis, geometry.grid[axis], geometry.query_pixel) for axis in axes]
        key = [self._line(axis, geometry.key_grid[axis], geometry.key_pixel) for axis in axes]
        self.query_frame_T = (query[0] if time else torch.zeros(1)).to(device)
        self.key_frame_T = (key[0] if time else torch.zeros(1)).to(device)
        self.query_S2 = self._product([query[axis] for axis in space]).to(device)
        self.key_S2 = self._product([key[axis] for axis in space]).to(device)
        covering = [
            torch.tensor([min(i // geometry.pool[a], geometry.key_grid[a] - 1) for i in range(geometry.grid[a])])
            for a in axes
        ]
        self.key_of_frame_T = (covering[0] if time else torch.zeros(1, dtype=torch.long)).to(device)
        flat = torch.zeros(1, dtype=torch.long)
        for axis in space:
            flat = (flat[:, None] * geometry.key_grid[axis] + covering[axis]).flatten()
        self.key_of_place_S = flat.to(device)

    def _line(self, axis: int, count: int, pixel: Callable[[tuple[int, ...]], tuple[float, ...]]) -> Tensor:
        axes = len(self._geometry.grid)
        points = [tuple(i if a == axis else 0 for a in range(axes)) for i in range(count)]
        return torch.tensor([pixel(point)[axis] for point in points])

    @staticmethod
    def _product(lines: list[Tensor]) -> Tensor:
        if not lines:
            return torch.zeros(1, 1)
        return torch.stack([axis.flatten() for axis in torch.meshgrid(*lines, indexing="ij")], dim=1)


def _add_group(sums: _Sums, weights: PairWeights, group: int, places: _Places) -> None:
    frames, cells = len(places.key_frame_T), len(places.key_S2)
    row_sum_M = torch.zeros(weights.keys, dtype=torch.float64, device=weights.query.device)
    counted = 0
    for start, tile_RM in weights.tiles(group, reuse=True):
        share_RM = tile_RM
        total_R = None
        if not (weights.is_softmax and weights.normalize == "keys"):
            share_RM = tile_RM.abs_()
            total_R = share_RM.sum(1)
            share_RM = share_RM.div_(total_R.clamp(min=torch.finfo(total_R.dtype).tiny)[:, None])
        rows = torch.arange(start, start + len(share_RM), device=share_RM.device)
        place_R, frame_R = rows % len(places.query_S2), rows // len(places.query_S2)
        share_RTS = share_RM.unflatten(1, (frames, cells))
        by_frame_RT, by_place_RS = share_RTS.sum(2), share_RTS.sum(1)
        own_frame_R, own_place_R = places.key_of_frame_T[frame_R], places.key_of_place_S[place_R]
        distance_RS = torch.cdist(places.query_S2[place_R], places.key_S2, compute_mode="donot_use_mm_for_euclid_dist")
        delay_RT = (places.query_frame_T[frame_R, None] - places.key_frame_T[None, :]).abs()
        own_R1 = (own_frame_R * cells + own_place_R)[:, None]

        silent = 0 if total_R is None else int((total_R == 0).sum())
        sums.not_finite += int((~by_frame_RT.sum(1).isfinite()).sum())
        sums.queries += len(rows)
        sums.silent += silent
        counted += len(rows) - silent
        sums.entropy += _entropy(share_RM, weights.seen_keys(rows))
        sums.on_itself += float(share_RM.gather(1, own_R1).double().sum())
        sums.on_own_frame += float(by_frame_RT.gather(1, own_frame_R[:, None]).double().sum())
        sums.reach_pixels += float((by_place_RS * distance_RS).double().sum())
        sums.reach_frames += float((by_frame_RT * delay_RT).double().sum())

        norm_R1 = torch.linalg.vector_norm(share_RM, dim=1, keepdim=True)
        unit_RM = share_RM.div_(norm_R1.clamp(min=torch.finfo(share_RM.dtype).tiny))
        row_sum_M += unit_RM.sum(0)
    if counted > 1:
        sums.alike += (float(row_sum_M @ row_sum_M) - counted) / (counted * (counted - 1))
        sums.groups += 1


def _entropy(share_RM: Tensor, seen_R: Tensor) -> float:
    """Sum over rows of -sum_j p_j log p_j / log M, M the keys seen; computed in blocks of columns that fit the cache.

    A row with a single key counts with its share.
    """
    log_R = seen_R.double().log()
    total_R = torch.zeros_like(log_R)
    for part_RM in share_RM.split(4096, dim=1):
        total_R += torch.special.entr(part_RM).sum(1, dtype=torch.float64)
    return float(torch.where(seen_R > 1, total_R / log_R, share_RM.sum(1, dtype=torch.float64)).sum())
