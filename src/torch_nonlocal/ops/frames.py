"""Which keys a query sees in attention that is causal over frames.

With T frames, the N queries and the M keys are numbered frame by frame: N = T n and M = T m. A query of frame t sees
the keys of the frames 0 to t or, with a window of w frames, of the last w of them: those after t - w.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.counts import is_count
from torch_nonlocal._common.tracing import is_recorded


@dataclass(frozen=True)
class CausalFrames:
    """The frames of a clip, of which a query sees its own and earlier ones.

    Args:
        count: T, the number of frames.
        window: the number of frames that a query sees, its own included; None for all up to its own.
    """

    count: int
    window: int | None = None

    def seen(self, frame: int) -> slice:
        """The frames that a query of a frame sees."""
        return slice(self._first(frame), frame + 1)

    def seen_by(self, frame: int) -> slice:
        """The frames whose queries see a key of a frame."""
        return slice(frame, self.count if self.window is None else min(frame + self.window, self.count))

    def parts(self, queries: int, keys: int) -> list[tuple[slice, slice]]:
        """The queries of each frame and the keys that they see, as slices of positions."""
        per_query, per_key = queries // self.count, keys // self.count
        return [(_times(slice(t, t + 1), per_query), _times(self.seen(t), per_key)) for t in range(self.count)]

    def rectangles(self, queries: int, keys: int) -> list[tuple[slice, slice]]:
        """Runs of queries and runs of keys, in pairs that hold every pair of a query and a key that it sees once.

        There are O(T) of them, and a position is in O(log T): fewer than with the prefixes of `parts`.
        """
        per_query, per_key = queries // self.count, keys // self.count
        found: list[tuple[slice, slice]] = []
        waiting = [(0, self.count, 0, self.count)]
        while waiting:
            q0, q1, k0, k1 = waiting.pop()
            if k0 > q1 - 1 or k1 - 1 < self._first(q0):  # no query sees a key
                continue
            if k1 - 1 <= q0 and k0 >= self._first(q1 - 1):  # every query sees every key
                found.append((_times(slice(q0, q1), per_query), _times(slice(k0, k1), per_key)))
                continue
            q, k = (q0 + q1) // 2, (k0 + k1) // 2
            for top, bottom in ((q0, q), (q, q1)):
                waiting += [(top, bottom, *side) for side in ((k0, k), (k, k1)) if top < bottom and side[0] < side[1]]
        return found

    def pairs(self, queries: int, keys: int) -> int:
        """The number of pairs of a query and a key that it sees."""
        frames = sum(frame + 1 - self._first(frame) for frame in range(self.count))
        return frames * (queries // self.count) * (keys // self.count)

    def seen_keys(self, query_N: Tensor, queries: Any, keys: Any) -> Tensor:
        """The number of keys that each query sees, (N,), from the numbers of the queries."""
        frame_N = query_N // (queries // self.count) + 1
        return (frame_N if self.window is None else frame_N.clamp(max=self.window)) * (keys // self.count)

    def visible(self, query_N: Tensor, key_M: Tensor, queries: Any, keys: Any) -> Tensor:
        """Whether a query sees a key, (N, M), from the numbers of the queries and of the keys."""
        query_frame_N1 = (query_N // (queries // self.count)).unsqueeze(1)
        key_frame_M = key_M // (keys // self.count)
        visible_NM = key_frame_M <= query_frame_N1
        if self.window is not None:
            visible_NM = visible_NM & (key_frame_M > query_frame_N1 - self.window)
        return visible_NM

    def _first(self, frame: int) -> int:
        return 0 if self.window is None else max(frame + 1 - self.window, 0)


def causal_frames(
    form: str, queries: Tensor, keys: Tensor, frames: int | None, window_frames: int | None
) -> CausalFrames | None:
    """Return which keys a query sees, from the options of a form; None if it sees all.

    Raises:
        ValueError: if an option is not a number of frames, or the positions cannot be divided among the frames.
    """
    if frames is None:
        if window_frames is not None:
            raise ValueError(f"{form}: window_frames={window_frames!r} needs frames=T, the causal form")
        return None
    if window_frames is not None and not is_count(window_frames):
        raise ValueError(f"{form}: window_frames={window_frames!r}: expected None or a number of frames, at least 1")
    if is_recorded(queries):
        return CausalFrames(frames, window_frames)
    if not is_count(frames):
        raise ValueError(f"{form}: frames={frames!r}: expected the number of frames, at least 1")
    if queries.shape[1] % frames or keys.shape[1] % frames:
        raise ValueError(
            f"{form}: frames={frames}: expected N and M to be multiples of it, got N = {queries.shape[1]} queries and "
            f"M = {keys.shape[1]} keys"
        )
    return CausalFrames(frames, window_frames)


def visible(frames: CausalFrames, queries: Tensor, keys: Tensor) -> Tensor:
    """Return the mask of the definition, (N, M), for theta and phi or a and b, which may be recorded."""
    return frames.visible(numbers(queries), numbers(keys), queries.shape[1], keys.shape[1])


def numbers(positions: Tensor) -> Tensor:
    """Return the numbers of the positions of a tensor (B, P) or (B, P, W), (P,) int64."""
    if is_recorded(positions):  # where a number of positions is no argument for arange
        first_P1 = positions[0].unsqueeze(-1).flatten(1)
        return torch.ones_like(first_P1[:, 0], dtype=torch.int64).cumsum(0) - 1
    return torch.arange(positions.shape[1], device=positions.device)


def _times(frames: slice, positions: int) -> slice:
    return slice(frames.start * positions, frames.stop * positions)
