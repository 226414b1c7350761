"""What a block attends to at one query, ready to be drawn: pictures of one query share its position and color scale.

Shapes: T frames, H height, W width of the clip; T', H', W' of the block's grid of keys, 1 for an axis that it lacks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from torch_nonlocal.attention import BlockRecord, Link
from torch_nonlocal.view.clips import Point, as_query
from torch_nonlocal.view.colors import NEGLIGIBLE, brightest
from torch_nonlocal.view.placement import Cell, axis_centers, nearest_cell, placed


@dataclass(frozen=True)
class Look:
    """The weights of one query.

    Attributes:
        query: center of the query's cell in pixels of the clip, in the frame that was asked for: (frame, y, x).
        cell: the query on the block's grid.
        row: the weights of all keys, (T', H', W').
        weights: the weights on the pixels of the clip, (T, H, W).
        brightest: weight of the last color.
        links: the strongest links, without that of the query to itself; pixels are those of the clip. None if
            practically no weight is on their keys: each has at most a hundredth of a uniform weight.
    """

    query: Point
    cell: Cell
    row: np.ndarray
    weights: np.ndarray
    brightest: float
    links: list[Link]


def look(
    record: BlockRecord, point: Sequence[float], clip_THWC: np.ndarray, *, k: int = 20, smooth: bool = False
) -> Look:
    """Return the weights of the cell at a pixel of the clip.

    Args:
        record: record of a block, on the clip; `as_frames` makes one of images.
        point: (frame, y, x) in pixels of the clip.
        clip_THWC: the clip; it may have more pixels than the model's input.
        k: number of links; they go to other frames if the cell attends to any.
        smooth: interpolate the weights between the centers of the cells.

    Raises:
        ValueError: the point is outside the clip.
    """
    asked = as_query(point, clip_THWC)
    assert asked is not None
    shape, geometry = clip_THWC.shape, record.geometry
    axes = len(geometry.grid)
    query_centers, key_centers = axis_centers(geometry, shape)
    cell = nearest_cell(asked, query_centers)
    here = cell[3 - axes :]
    own = (0,) * (3 - axes) + geometry.covering_key(here)
    row_THW = record.rows([here])[0].double().cpu().numpy().reshape((1,) * (3 - axes) + geometry.key_grid)
    inside = [min(max(query_centers[axis][cell[axis]], 0.0), shape[axis] - 1.0) for axis in (1, 2)]
    query = (asked[0], inside[0], inside[1])

    candidates = record.groups.size(geometry.key_grid)
    in_frame = record.groups.frame_size(geometry.key_grid) if axes == 3 else candidates
    frames, most = ("others", candidates - in_frame) if candidates > in_frame else ("all", candidates)
    found = record.links(here, min(k + 1, most), frames=frames) if most else []
    if not found and frames == "others":  # the first frame of a causal block
        found = record.links(here, min(k + 1, candidates))
    links = [
        dataclasses.replace(
            link, source_pixel=query, target_pixel=_center((0,) * (3 - axes) + link.target, key_centers)
        )
        for link in found
        if (0,) * (3 - axes) + link.target != own
    ]
    _, index = record.groups.locate(here, geometry.grid)
    uniform = np.abs(row_THW).sum() / int(record.weights.seen_keys(torch.tensor([index])))
    if all(abs(link.weight) <= NEGLIGIBLE * uniform for link in links):
        links = []
    high = max(brightest(row_THW, (own[0], own[1], own[2])), NEGLIGIBLE * uniform)
    weights = placed(row_THW, key_centers, shape, smooth=smooth)
    return Look(query, cell, row_THW, weights, high, links[:k])


def as_frames(record: BlockRecord) -> BlockRecord:
    """Return the record of a batch of images as that of a clip whose positions attend within their own frame."""
    geometry = record.geometry
    if len(geometry.grid) != 2:
        return record
    one = {"pool": 1, "offset": 0.0, "stride": 1.0}
    sizes = {name: (record.batch_size, *getattr(geometry, name)) for name in ("grid", "key_grid", "input_size")}
    rules = {name: (value, *getattr(geometry, name)) for name, value in one.items()}
    stacked = dataclasses.replace(geometry, **sizes, **rules)
    sees = record.weights.sees
    weights = record.weights if sees is None else dataclasses.replace(record.weights, sees=sees.on_axes(3))
    return BlockRecord(record.name, weights, stacked, attend="space", batch=1)


def _center(cell: Sequence[int], centers: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(line[index] for line, index in zip(centers, cell, strict=True))
