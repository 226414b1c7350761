"""What a causal block keeps of earlier frames: theta, phi and g of its window, or the running sum of a dot product.

Shapes: B' batch times groups, t new frames, n and m positions of a frame in the queries and in the keys.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_LEAST = 16  # frames of a first buffer without a window


class FrameBuffer:
    """The last frames of a sequence of tensors (B', t positions, ...), in one piece of memory.

    Frames are written one after another. At the end of the buffer, the frames of the window move to its start, so that
    a frame is copied less than once more on average. Without a window, the buffer doubles.

    Args:
        window: the number of frames that are kept; None for all.
    """

    def __init__(self, window: int | None) -> None:
        self._window = window
        self._stored: Tensor | None = None
        self._positions = 0
        self._stop = 0
        self.count = 0

    def append(self, new: Tensor, frames: int) -> None:
        """Add frames. Those that no new frame sees are dropped."""
        self._positions = new.shape[1] // frames
        kept = self.count if self._window is None else min(self.count, self._window - 1)
        needed = kept + frames
        if self._stored is None or (self._stop + frames) * self._positions > self._stored.shape[1]:
            self._make_room(new, kept, needed)
        assert self._stored is not None
        self._stored[:, self._stop * self._positions : (self._stop + frames) * self._positions] = new
        self._stop += frames
        self.count = needed

    def until(self, later: int, frames: int | None = None) -> Tensor:
        """Return the frames up to the last but `later`: all of them, or the last `frames`. The result is a view."""
        assert self._stored is not None
        stop = self._stop - later
        first = self._stop - self.count if frames is None else max(stop - frames, self._stop - self.count)
        return self._stored[:, first * self._positions : stop * self._positions]

    def _make_room(self, new: Tensor, kept: int, needed: int) -> None:
        before = None if self._stored is None else self.until(0, kept).clone() if kept else None
        frames = max(2 * needed, _LEAST) if self._window is None else max(2 * self._window, needed)
        if self._stored is None or self._stored.shape[1] < needed * self._positions or self._window is None:
            self._stored = new.new_empty((new.shape[0], frames * self._positions, *new.shape[2:]))
        if before is not None:
            self._stored[:, : kept * self._positions] = before
        self._stop = self.count = kept


class BlockCache:
    """The earlier frames of one causal block.

    Args:
        block: the block.
        keep_queries: keep theta too, for a record of the weights (`queries`).
    """

    def __init__(self, block: Any, *, keep_queries: bool) -> None:
        self.block, self._window = block, block.window_frames
        self.grid: tuple[int, ...] = ()
        self.queries = FrameBuffer(self._window) if keep_queries else None
        self.keys, self._values = FrameBuffer(self._window), FrameBuffer(self._window)
        self._sums = block.pairwise == "dot_product" and self._window is None
        self._sum_BDV: Tensor | None = None
        self._summed = 0  # keys

    def attend(self, query: Tensor, key: Tensor, g_BMV: Tensor, grid: Sequence[int]) -> Tensor:
        """Return the weighted sums (B', N, V) of new frames over the keys of earlier and new ones."""
        self.grid, frames = tuple(grid), grid[0]
        per_query = query.shape[1] // frames
        if self.queries is not None:
            self.queries.append(query, frames)
        if self._sums:
            if self.queries is not None:
                self.keys.append(key, frames)
            return self._running_sums(query, key, g_BMV, frames)
        self.keys.append(key, frames)
        self._values.append(g_BMV, frames)
        parts = []
        for frame in range(frames):
            later = frames - 1 - frame
            own = query[:, frame * per_query : (frame + 1) * per_query]
            seen = self.keys.until(later, self._window), self._values.until(later, self._window)
            parts.append(self.block._weighted_sum(own, *seen, None))
        return torch.cat(parts, 1)

    def _running_sums(self, theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor, frames: int) -> Tensor:
        wide = torch.promote_types(g_BMV.dtype, torch.float32)
        theta, phi, g = (one.to(wide).unflatten(1, (frames, -1)) for one in (theta_BND, phi_BMD, g_BMV))
        parts = []
        for frame in range(frames):
            added_BDV = phi[:, frame].mT @ g[:, frame]
            self._sum_BDV = added_BDV if self._sum_BDV is None else self._sum_BDV + added_BDV
            self._summed += phi.shape[2]
            parts.append(theta[:, frame] @ (self._sum_BDV / self._summed))
        return torch.cat(parts, 1).to(g_BMV.dtype)
