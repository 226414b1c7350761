"""What is given to draw, checked and brought into one form.

Shapes: T frames, H height, W width of the clip, in pixels; T', H', W' of the block's grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

FRAMES_IN_A_STRIP = 8


def _array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):  # a tensor, on any device; numpy has no bfloat16
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def as_clip(clip: Any) -> np.ndarray:
    """Brings a clip or an image into (T, H, W, 3) RGB, uint8 in [0, 255].

    Args:
        clip: (T, H, W, 3), (T, H, W, 1), (T, H, W), (H, W, 3), (H, W, 1) or (H, W); a tensor, an array or a PIL image;
            uint8 in [0, 255] or floats in [0, 1].

    Raises:
        ValueError: if the shape or the values are none of these; the message says what they look like and what to do.
    """
    given = _array(clip)
    clip_THWC = _with_channels(given)
    if clip_THWC.size == 0:
        raise ValueError(f"the clip is empty: shape {given.shape}")
    return np.ascontiguousarray(np.broadcast_to(_as_uint8(clip_THWC), (*clip_THWC.shape[:3], 3)))


def _with_channels(given: np.ndarray) -> np.ndarray:
    shape = given.shape
    expected = "expected (T, H, W, 3), (T, H, W) gray, or one image (H, W, 3) or (H, W)"
    if given.ndim == 2:
        return given[None, :, :, None]
    if given.ndim == 3:
        if shape[2] in (1, 3):
            return given[None]
        if shape[0] == 3:
            raise ValueError(
                f"shape {shape} looks like one image with channels first: image.permute(1, 2, 0) puts them last "
                "(for three gray frames, give clip[..., None])"
            )
        if shape[2] not in (2, 4):
            return given[..., None]
    if given.ndim == 4:
        if shape[3] in (1, 3):
            return given
        if shape[1] in (1, 3):
            hint = "(T, C, H, W): clip.permute(0, 2, 3, 1)"
        elif shape[0] in (1, 3):
            hint = "(C, T, H, W): clip.permute(1, 2, 3, 0)"
        else:
            raise ValueError(f"shape {shape} is no clip: {expected}")
        raise ValueError(f"shape {shape} looks like {hint} puts the channels last; {expected}")
    if given.ndim == 5:
        raise ValueError(f"shape {shape} looks like a batch: draw one clip of it, such as clips[0]; {expected}")
    raise ValueError(f"shape {shape} is no clip: {expected}")


def _as_uint8(clip_THWC: np.ndarray) -> np.ndarray:
    if clip_THWC.dtype == np.uint8:
        return clip_THWC
    if not np.issubdtype(clip_THWC.dtype, np.floating):
        raise ValueError(f"a clip is uint8 in [0, 255] or floats in [0, 1], got {clip_THWC.dtype}")
    low, high = float(clip_THWC.min()), float(clip_THWC.max())
    if not np.isfinite(low + high):
        raise ValueError("the clip has values that are not finite")
    tolerance = 1e-3
    if low < -tolerance:
        raise ValueError(
            f"a clip of floats lies in [0, 1], got {low:.3g} to {high:.3g}: it looks normalized; "
            "undo that first (clip * std + mean)"
        )
    if high > 1 + tolerance:
        hint = "looks like [0, 255]; divide by 255" if high <= 255 else "bring it into [0, 1]"
        raise ValueError(f"a clip of floats lies in [0, 1], got {low:.3g} to {high:.3g}: {hint}")
    return np.rint(clip_THWC.clip(0, 1) * 255).astype(np.uint8)


def as_row(row: Any, clip_THWC: np.ndarray) -> np.ndarray:
    """Brings the weights of one query into (T', H', W') float64.

    Args:
        row: (T', H', W'), or (H', W') for a clip of one frame; a tensor or an array.
        clip_THWC: the clip the weights belong to; T' is at most T.

    Raises:
        ValueError: if the shape is another or a weight is not finite.
    """
    row_THW = _array(row).astype(np.float64)
    if row_THW.ndim == 2 and len(clip_THWC) == 1:
        row_THW = row_THW[None]
    if row_THW.ndim == 4:
        raise ValueError(f"a row is the weights of one query, (T', H', W'); got {row_THW.shape}: draw rows[0]")
    if row_THW.ndim != 3 or row_THW.size == 0:
        raise ValueError(f"a row is (T', H', W'), the weights of one query; got shape {row_THW.shape}")
    if len(row_THW) > len(clip_THWC):
        raise ValueError(f"the row has {len(row_THW)} frames, the clip {len(clip_THWC)}: are they of one clip?")
    if not np.isfinite(row_THW).all():
        raise ValueError("the row has weights that are not finite")
    return row_THW


def as_query(query: Sequence[float] | None, clip_THWC: np.ndarray) -> tuple[int, float, float] | None:
    """Checks a position (frame, y, x), or (y, x) of an image, in pixels of the clip; 0 is the first one's center.

    Raises:
        ValueError: if it is no such triple or lies outside the clip; the message gives the valid range.
    """
    if query is None:
        return None
    point = frame_y_x(query, clip_THWC)
    for name, value, size in zip(("frame", "y", "x"), point, clip_THWC.shape, strict=False):
        if not -0.5 <= value < size - 0.5 + 1e-6:
            raise ValueError(f"the query's {name} is {value:g}, outside the clip: valid are 0 to {size - 1}")
    return nearest_frame(point[0], len(clip_THWC)), point[1], point[2]


def frame_y_x(position: Sequence[float], clip_THWC: np.ndarray) -> tuple[float, float, float]:
    """A position as (frame, y, x); that of an image may come as (y, x).

    Raises:
        ValueError: if it has another number of coordinates.
    """
    values = [float(value) for value in position]
    if len(values) == 2 and len(clip_THWC) == 1:
        return 0.0, values[0], values[1]
    if len(values) != 3:
        raise ValueError(
            f"a position is (frame, y, x) in pixels of the clip, or (y, x) of an image; got {tuple(values)} "
            f"for {len(clip_THWC)} frame(s)"
        )
    return values[0], values[1], values[2]


def nearest_frame(frame: float, total: int) -> int:
    """The frame shown for a position in time; halfway between two (a cell that pools both) it is the earlier."""
    return min(max(int(np.ceil(frame - 0.5)), 0), total - 1)


def temporal_cell(frame: int, frames: int, cells: int) -> int:
    """Which of the row's T' cells a frame belongs to."""
    return (2 * frame + 1) * cells // (2 * frames)


def choose_frames(frames: Iterable[int] | None, total: int, *, keep: int | None = None) -> list[int]:
    """The frames to show: those asked for, else all, else eight evenly spaced ones with `keep` among them.

    Raises:
        ValueError: if frames asked for are none, repeated or outside the clip; the message gives the valid range.
    """
    if frames is None:
        return thin_out(list(range(total)), keep=keep)
    chosen = [int(frame) for frame in frames]
    if not chosen:
        raise ValueError("frames=[] shows nothing; leave it out to have them chosen")
    outside = [frame for frame in chosen if not 0 <= frame < total]
    if outside:
        raise ValueError(f"the clip has {total} frames (0 to {total - 1}); frames {outside} asked for")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"frames {chosen} names a frame twice")
    return chosen


def thin_out(candidates: list[int], *, keep: int | None) -> list[int]:
    """At most eight of the candidates (ascending), evenly spaced, with `keep` among them."""
    if len(candidates) <= FRAMES_IN_A_STRIP:
        return candidates
    chosen = [candidates[round(place)] for place in np.linspace(0, len(candidates) - 1, FRAMES_IN_A_STRIP)]
    if keep is not None and keep not in chosen:
        chosen[min(range(len(chosen)), key=lambda place: abs(chosen[place] - keep))] = keep
    return sorted(chosen)
