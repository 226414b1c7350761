"""Distances in blocks of queries: a given matrix cut into blocks, and the checks of every block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_nonlocal.tasks.reid.distances import BLOCK
from torch_nonlocal.tasks.reid.labels import Array, Labels


def column_blocks(distances_GQ: Any, labels: Labels) -> Iterator[tuple[int, Any]]:
    """The blocks (start, (B, G)) of a matrix of distances (G, Q), array or tensor.

    Raises:
        ValueError: the shape is not that of the labels.
    """
    distances = distances_GQ if isinstance(distances_GQ, Tensor) else np.asarray(distances_GQ)
    if tuple(distances.shape) != (labels.gallery, labels.queries):
        raise ValueError(
            f"distances have shape {tuple(distances.shape)}, expected (gallery, queries) = "
            f"({labels.gallery}, {labels.queries})"
        )
    return ((start, distances[:, start : start + BLOCK].T) for start in range(0, labels.queries, BLOCK))


def checked_blocks(blocks: Iterable[tuple[int, Any]], labels: Labels) -> Iterator[tuple[int, int, Array]]:
    """Blocks as arrays, with their first query and the one after the last, after checks of shape and values.

    Raises:
        TypeError: distances are not real numbers.
        ValueError: a block is missing or has another shape, or a distance is NaN or infinite.
    """
    done = 0
    for start, distances_BG in blocks:
        array_BG = _as_array(distances_BG)
        stop = start + len(array_BG)
        if start != done or stop > labels.queries or array_BG.shape[1:] != (labels.gallery,):
            raise ValueError(
                f"distances of shape {array_BG.shape} from query {start}: expected queries from {done} of "
                f"{labels.queries}, and a gallery of {labels.gallery}"
            )
        broken = ~np.isfinite(array_BG)
        if broken.any():
            query, row = np.argwhere(broken)[0].tolist()
            raise ValueError(
                f"the distance between query {start + query} and gallery row {row} is {array_BG[query, row]}, "
                "expected a finite number"
            )
        done = stop
        yield start, stop, array_BG
    if done != labels.queries:
        raise ValueError(f"distances of {done} queries, expected {labels.queries}")


def _as_array(distances: Any) -> Array:
    if isinstance(distances, Tensor):
        distances = distances.detach().cpu()
        array = (distances.float() if distances.dtype == torch.bfloat16 else distances).numpy()
    else:
        array = np.asarray(distances)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"distances have dtype {array.dtype}, expected real numbers")
    return np.ascontiguousarray(array)
