"""Checks and conversion of what users pass to the drawing functions.

Shapes: T frames, H height, W width of the clip, in pixels; T', H', W' of the block's grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from torch_nonlocal._common.text import counted

FRAMES_IN_A_STRIP = 8
Point = tuple[int, float, float]
"""A position (frame, y, x) in pixels of a clip."""


def _array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):  # a tensor, on any device; numpy has no bfloat16
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def as_clip(clip: Any) -> np.ndarray:
    """Convert a clip or an image to (T, H, W, 3) RGB, uint8 in [0, 255].

    Args:
        clip: (T, H, W, 3), (T, H, W, 1), (T, H, W), (H, W, 3), (H, W, 1) or (H, W); a tensor, an array or a PIL image;
            uint8 in [0, 255] or floats in [0, 1].

    Raises:
        ValueError: other shapes or values; the message suggests a conversion.
    """
    given = _array(clip)
    clip_THWC = _with_channels(given)
    if clip_THWC.size == 0:
        raise ValueError(f"the clip is empty: its shape is {given.shape}")
    return np.ascontiguousarray(np.broadcast_to(_as_uint8(clip_THWC), (*clip_THWC.shape[:3], 3)))


def _with_channels(given: np.ndarray) -> np.ndarray:
    shape = given.shape
    expected = "expected (T, H, W, 3), grayscale (T, H, W), or an image (H, W, 3) or (H, W)"
    if given.ndim == 2:
        return given[None, :, :, None]
    if given.ndim == 3:
        if shape[2] in (1, 3):
            return given[None]
        if shape[0] == 3:
            raise ValueError(
                f"shape {shape} looks like an image with channels first: pass image.permute(1, 2, 0), "
                "or for three grayscale frames clip[..., None]"
            )
        if shape[2] not in (2, 4):
            return given[..., None]
    if given.ndim == 4:
        if shape[3] in (1, 3):
            return given
        if shape[1] in (1, 3):
            hint = "(T, C, H, W): pass clip.permute(0, 2, 3, 1)"
        elif shape[0] in (1, 3):
            hint = "(C, T, H, W): pass clip.permute(1, 2, 3, 0)"
        else:
            raise ValueError(f"shape {shape} is no clip: {expected}")
        raise ValueError(f"shape {shape} looks like {hint}; {expected}")
    if given.ndim == 5:
        raise ValueError(f"shape {shape} looks like a batch: pass one of its clips, such as clips[0]; {expected}")
    raise ValueError(f"shape {shape} is no clip: {expected}")


def _as_uint8(clip_THWC: np.ndarray) -> np.ndarray:
    if clip_THWC.dtype == np.uint8:
        return clip_THWC
    if not np.issubdtype(clip_THWC.dtype, np.floating):
        raise ValueError(f"clip of {clip_THWC.dtype}: expected uint8 in [0, 255] or floats in [0, 1]")
    low, high = float(clip_THWC.min()), float(clip_THWC.max())
    if not np.isfinite(low + high):
        raise ValueError("the clip contains values that are not finite")
    tolerance = 1e-3
    if low < -tolerance:
        raise ValueError(
            f"clip of floats from {low:.3g} to {high:.3g}: expected [0, 1]; it looks normalized, pass clip * std + mean"
        )
    if high > 1 + tolerance:
        hint = "it looks like [0, 255], divide it by 255" if high <= 255 else "rescale it"
        raise ValueError(f"clip of floats from {low:.3g} to {high:.3g}: expected [0, 1]; {hint}")
    return np.rint(clip_THWC.clip(0, 1) * 255).astype(np.uint8)


def as_row(row: Any, clip_THWC: np.ndarray) -> np.ndarray:
    """Convert the weights of one query to (T', H', W') float64.

    Args:
        row: (T', H', W'), or (H', W') for a clip of one frame; a tensor or an array.
        clip_THWC: the clip the weights belong to; T' is at most T.

    Raises:
        ValueError: another shape, or weights that are not finite.
    """
    row_THW = _array(row).astype(np.float64)
    if row_THW.ndim == 2 and len(clip_THWC) == 1:
        row_THW = row_THW[None]
    if row_THW.ndim == 4:
        raise ValueError(f"row of shape {row_THW.shape}: expected the weights of one query, (T', H', W'); pass rows[0]")
    if row_THW.ndim != 3 or row_THW.size == 0:
        raise ValueError(f"row of shape {row_THW.shape}: expected the weights of one query, (T', H', W')")
    if len(row_THW) > len(clip_THWC):
        raise ValueError(
            f"row of {counted(len(row_THW), 'frame')}: expected at most {len(clip_THWC)}, the frames of the clip"
        )
    if not np.isfinite(row_THW).all():
        raise ValueError("the row contains weights that are not finite")
    return row_THW


def as_query(query: Sequence[float] | None, clip_THWC: np.ndarray) -> Point | None:
    """Check a position (frame, y, x), or (y, x) in an image, in pixels of the clip; the first pixel's center is 0.

    Returns:
        The nearest frame, y and x; None for None.

    Raises:
        ValueError: another number of coordinates, or a position outside the clip; the message gives the valid range.
    """
    if query is None:
        return None
    point = frame_y_x(query, clip_THWC)
    for name, value, size in zip(("frame", "y", "x"), point, clip_THWC.shape, strict=False):
        if not -0.5 <= value < size - 0.5 + 1e-6:
            raise ValueError(f"query {name} {value:g} is outside the clip: expected 0 to {size - 1}")
    return nearest_frame(point[0], len(clip_THWC)), point[1], point[2]


def frame_y_x(position: Sequence[float], clip_THWC: np.ndarray) -> tuple[float, float, float]:
    """Return a position as (frame, y, x); a position in an image may be (y, x).

    Raises:
        ValueError: another number of coordinates.
    """
    values = [float(value) for value in position]
    if len(values) == 2 and len(clip_THWC) == 1:
        return 0.0, values[0], values[1]
    if len(values) != 3:
        raise ValueError(
            f"position {tuple(values)} in a clip of {counted(len(clip_THWC), 'frame')}: expected (frame, y, x), "
            "or (y, x) in an image, in pixels"
        )
    return values[0], values[1], values[2]


def describe(point: Point, clip_THWC: np.ndarray) -> str:
    """Return a position as text: its frame, unless the clip is an image, and its pixel."""
    place = f"y {point[1]:.4g}, x {point[2]:.4g}"
    return place if len(clip_THWC) == 1 else f"frame {point[0]}, {place}"


def nearest_frame(frame: float, total: int) -> int:
    """Return the nearest frame to a position in time; halfway between two frames, the earlier one."""
    return min(max(int(np.ceil(frame - 0.5)), 0), total - 1)


def temporal_cell(frame: int, frames: int, cells: int) -> int:
    """Return the index of the temporal cell that a frame belongs to."""
    return (2 * frame + 1) * cells // (2 * frames)


def choose_frames(frames: Iterable[int] | None, total: int, *, keep: int | None = None) -> list[int]:
    """Return the given frames, or by default all frames of a short clip and eight evenly spaced ones of a long clip.

    Args:
        frames: frames to show; None for the default.
        total: number of frames of the clip.
        keep: a frame that is always among the default ones.

    Raises:
        ValueError: `frames` is empty, repeats a frame or has one outside the clip; the message gives the valid range.
    """
    if frames is None:
        return thin_out(list(range(total)), keep=keep)
    chosen = [int(frame) for frame in frames]
    if not chosen:
        raise ValueError("frames is empty: expected at least one frame, or None for the default")
    outside = [frame for frame in chosen if not 0 <= frame < total]
    if outside:
        raise ValueError(
            f"frames {outside} are outside the clip of {counted(total, 'frame')}: expected 0 to {total - 1}"
        )
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"frames {chosen} contains duplicates")
    return chosen


def thin_out(candidates: list[int], *, keep: int | None) -> list[int]:
    """Select at most eight of the ascending candidates, evenly spaced and including `keep`."""
    if len(candidates) <= FRAMES_IN_A_STRIP:
        return candidates
    chosen = [candidates[round(place)] for place in np.linspace(0, len(candidates) - 1, FRAMES_IN_A_STRIP)]
    if keep is not None and keep not in chosen:
        chosen[min(range(len(chosen)), key=lambda place: abs(chosen[place] - keep))] = keep
    return sorted(chosen)
