"""The data of a block in the page: theta and phi in few bits, their positions in the clip, and their accuracy."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.layers.visibility import Visibility
from torch_nonlocal.view.facts import BlockFacts
from torch_nonlocal.view.page.maps import Maps, coarse_distance, maps_of
from torch_nonlocal.view.page.quantize import BITS, Quantized, packed_size, quantize
from torch_nonlocal.view.placement import axis_centers
from torch_nonlocal.view.verdict import judge

TOLERANCE = 0.02  # largest relative error of the strongest weights of sampled rows; it determines the number of bits
_STRONGEST = 20  # weights per row whose error is measured, the default number of arrows
_NEGLIGIBLE = 1e-4  # weights below this fraction of the largest of their row are not measured
_SAMPLED_ROWS = 64
_MOST_PAIRS = 2**30  # largest number of weights for which statistics of the block are computed


class Store:
    """Base64 texts in the page; equal ones are stored once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._known: dict[bytes, int] = {}

    def add(self, data: bytes) -> int:
        """Store bytes and return the index of their text."""
        digest = hashlib.sha256(data).digest()
        if digest not in self._known:
            self._known[digest] = len(self.texts)
            self.texts.append(base64.b64encode(data).decode())
        return self._known[digest]


@dataclass(frozen=True)
class Error:
    """Error of the weights of the page in sampled rows.

    Attributes:
        largest: largest absolute error of a weight.
        relative: largest relative error among the 20 strongest weights of each row.
        rows: number of sampled rows.
    """

    largest: float
    relative: float
    rows: int


@dataclass
class Block:
    """A block prepared for the page.

    Attributes:
        record: record of the block.
        maps: theta and phi of the clip on the grid of the page.
        batch: index of the clip in the batch.
        coarser: factor by which the grid of the page is coarser than that of the block.
        bits: bits per value; 32 without rounding.
        error: error due to rounding.
        distance: mean total variation distance to the exact rows on a coarser grid, else 0.
    """

    record: BlockRecord
    maps: Maps
    batch: int
    coarser: int
    bits: int
    error: Error
    distance: float
    _encoded: list[Quantized] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Approximate number of bytes in the page."""
        keys = 0 if self.maps.is_shared else len(self.maps.key)
        return _size(len(self.maps.query), keys, self.maps.query.shape[1], self.bits)

    def describe(self, store: Store, clip_shape: Sequence[int], facts: BlockFacts) -> dict[str, Any]:
        """Return the JSON description of the block for data.js and add its arrays to the store."""
        weights, geometry, groups = self.maps.weights, self.record.geometry, self.maps.groups
        read = self.maps
        if self._encoded:
            codes = [
                {
                    "bits": part.bits,
                    "width": part.code_PD.shape[1],
                    "codes": store.add(part.packed()),
                    "scales": store.add(_floats(part.scale_P)),
                }
                for part in self._encoded
            ]
            read = _read(self.maps, self._encoded)
        else:
            codes = [{"bits": 32, "width": 1, "codes": store.add(_floats(t))} for t in (read.query, read.key)]
        sums = read.log_sums()
        return {
            "name": self.record.name,
            "pairwise": weights.pairwise,
            "softmax": weights.is_softmax,
            "normalize": weights.normalize,
            "scale": weights.scale,
            "shown": self.record.shown,
            "axes": len(geometry.grid),
            "grid": list(self.maps.grid),
            "keyGrid": list(self.maps.key_grid),
            "groups": {
                "queries": groups.layout(self.maps.grid),
                "keys": groups.layout(self.maps.key_grid),
                "spanTime": groups.spans_time,
                "within": groups.within if weights.sees is None else weights.sees.within,
                "causal": None if weights.frames is None else {"window": weights.frames.window},
                "labels": None if weights.sees is None else _labels(weights.sees),
            },
            "query": codes[0],
            "key": codes[1],
            "lowest": None if weights.kept is None else store.add(_floats(read.lowest_logits())),
            "kept": weights.kept,
            "regions": self.maps.region_keys(),
            "logSums": None if sums is None else store.add(_floats(sums)),
            "error": asdict(self.error),
            "coarser": self.coarser,
            "distance": self.distance,
            "inputSize": list(geometry.input_size),
            "network": facts.network,
            "scored": facts.scored,
            "seen": facts.seen,
            "classes": [[name, float(score)] for name, score in facts.classes],
            "evidence": self._evidence(store, facts),
            "contribution": facts.contribution,
            **_statistics(self.record, self.batch, facts),
            **_places(geometry, clip_shape, self.coarser),
        }

    def _evidence(self, store: Store, facts: BlockFacts) -> int | None:
        """Store the evidence on the grid of the page, averaged over the cells of a coarser grid."""
        if facts.evidence is None:
            return None
        grid = self.record.geometry.grid
        evidence_THW = torch.as_tensor(facts.evidence).float().cpu().reshape((1,) * (3 - len(grid)) + grid)
        if self.coarser > 1:
            evidence_THW = F.avg_pool2d(evidence_THW[:, None], self.coarser, ceil_mode=True)[:, 0]
        return store.add(_floats(evidence_THW))


def _labels(sees: Visibility) -> dict[str, Any]:
    """Which queries see which keys, as JSON values; see `Visibility`."""
    return {
        "queries": [list(line) for line in sees.query_labels],
        "keys": [list(line) for line in sees.key_labels],
        "axes": list(sees.axes),
        "isCross": sees.is_cross,
    }


def positions_of(record: BlockRecord, *, coarser: int) -> tuple[int, int]:
    """Numbers of queries and of keys in the page, on a grid coarser by a factor in y and x."""

    def count(grid: Sequence[int]) -> int:
        pooled = grid[1:] if len(grid) == 3 else grid
        return math.prod(grid[: len(grid) - len(pooled)]) * math.prod(-(-cells // coarser) for cells in pooled)

    return count(record.geometry.grid), count(record.geometry.key_grid)


def least_size(record: BlockRecord, *, coarser: int) -> int:
    """Smallest possible `Block.size`, with the fewest bits; known before theta and phi are rounded."""
    queries, keys = positions_of(record, coarser=coarser)
    pairwise, query = record.weights.pairwise, record.weights.query
    if pairwise == "concatenation":
        return _size(queries, keys, 1, 32)
    return _size(queries, 0 if pairwise == "gaussian" else keys, query.shape[-1], BITS[0])


def _size(queries: int, keys: int, width: int, bits: int) -> int:
    """Bytes of the codes and scales of queries and keys, and of the sums of queries, in base64."""
    return (packed_size(queries + keys, width, bits) + 4 * (queries + keys) + 4 * queries) * 4 // 3


def prepare(record: BlockRecord, *, batch: int, coarser: int) -> Block:
    """Quantize a block with the fewest bits that keep sampled rows within `TOLERANCE`, and measure the error."""
    fine = maps_of(record, batch)
    if not (fine.query.isfinite().all() and fine.key.isfinite().all()):
        raise ValueError(f"theta or phi of {record.name!r} are not finite (nan or inf): cannot show its weights")
    exact = fine.coarser(coarser) if coarser > 1 else fine
    positions = _sample(exact.query)
    distance = coarse_distance(fine, exact, coarser, positions[:16]) if coarser > 1 else 0.0
    if exact.weights.pairwise == "concatenation":
        return Block(record, exact, batch, coarser, 32, Error(0.0, 0.0, len(positions)), distance)
    maps = exact.centered()
    pairs = exact.pairs()
    expected = [exact.row(pairs, position) for position in positions]
    for bits in BITS:
        encoded = [quantize(maps.query, bits)]
        encoded.append(encoded[0] if maps.is_shared else quantize(maps.key, bits))
        error = _error(_read(maps, encoded), positions, expected)
        if error.relative <= TOLERANCE:
            break
    return Block(record, maps, batch, coarser, encoded[0].bits, error, distance, encoded)


def _read(maps: Maps, encoded: list[Quantized]) -> Maps:
    return Maps(encoded[0].values, encoded[1].values, maps.grid, maps.key_grid, maps.groups, maps.weights)


def _error(read: Maps, positions: list[int], expected: list[Tensor]) -> Error:
    pairs = read.pairs()
    largest = relative = 0.0
    for position, row in zip(positions, expected, strict=True):
        difference = (read.row(pairs, position) - row).abs()
        largest = max(largest, float(difference.max()))
        strongest, keys = row.abs().topk(min(_STRONGEST, len(row)))
        shown = strongest > _NEGLIGIBLE * strongest[0]
        if shown.any():  # no weight exceeds the threshold if all are zero
            relative = max(relative, float((difference[keys] / strongest)[shown].max()))
    return Error(largest, relative, len(positions))


def _sample(query_PD: Tensor) -> list[int]:
    """Positions of the sampled rows: evenly spaced ones, and those with the largest theta and rounding errors."""
    count = len(query_PD)
    longest = query_PD.norm(dim=1).topk(min(_SAMPLED_ROWS // 4, count)).indices.tolist()
    even = np.linspace(0, count - 1, min(_SAMPLED_ROWS, count)).astype(int).tolist()
    return list(dict.fromkeys([*even, *longest]))[: 2 * _SAMPLED_ROWS]


def _places(geometry: Geometry, clip_shape: Sequence[int], coarser: int) -> dict[str, Any]:
    """Centers of queries and keys on each axis (frame, y, x) in pixels of the clip, and the key of each query."""
    query, key = axis_centers(geometry, clip_shape)
    missing = 3 - len(geometry.grid)
    covering = [[0] for _ in range(missing)]
    for own, (cells, pool, keys) in enumerate(zip(geometry.grid, geometry.pool, geometry.key_grid, strict=True)):
        step = coarser if own + missing > 0 else 1
        middles = [min(start + step // 2, cells - 1) for start in range(0, cells, step)]
        covering.append([min(middle // pool, keys - 1) // step for middle in middles])
    steps = (1, coarser, coarser)
    return {
        "queryCenters": [_means(line, step) for line, step in zip(query, steps, strict=True)],
        "keyCenters": [_means(line, step) for line, step in zip(key, steps, strict=True)],
        "covering": covering,
    }


def _means(values: list[float], step: int) -> list[float]:
    chunks = [values[start : start + step] for start in range(0, len(values), step)]
    return [round(sum(chunk) / len(chunk), 4) for chunk in chunks]


def _statistics(record: BlockRecord, batch: int, facts: BlockFacts) -> dict[str, Any]:
    """Return means over all queries and their summary; empty where computing all weights would take minutes."""
    if math.prod(record.geometry.grid) * math.prod(record.geometry.key_grid) > _MOST_PAIRS:
        return {"statistics": {}, "verdict": "", "meaning": "", "isWarning": False}
    found = record.statistics(batch=batch)
    means = {name: value for name, value in asdict(found).items() if isinstance(value, int | float)}
    judged = judge(found, added=facts.added, untrained=facts.untrained)
    return {"statistics": means, "verdict": judged.text, "meaning": judged.meaning, "isWarning": judged.is_warning}


def _floats(values: Tensor | np.ndarray) -> bytes:
    array = values.numpy() if isinstance(values, Tensor) else values
    return np.ascontiguousarray(array, dtype="<f4").tobytes()
