"""The page: checks the input and the size of the file, and saves it."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap

from torch_nonlocal._common.files import replacing
from torch_nonlocal._common.optional import require_all
from torch_nonlocal._common.text import counted
from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.view.clips import Point, as_clip, as_query, nearest_frame
from torch_nonlocal.view.colors import FAINTEST, NEGLIGIBLE, OWN_FRAME, SIGNED_CMAP, bright_part
from torch_nonlocal.view.facts import BlockFacts, Facts
from torch_nonlocal.view.overlays import ALPHA, CMAP
from torch_nonlocal.view.page import bundle, frames
from torch_nonlocal.view.page.payload import Store, least_size, positions_of, prepare
from torch_nonlocal.view.placement import axis_centers

TITLE = "What every pixel attends to"
MAX_BYTES = 32 * 2**20
_MEGABYTE = 1e6


class Page:
    """An interactive page that shows the weights of any pixel: one HTML file, which needs no server or network.

    The file contains the frames, and theta and phi of each block, from which it computes the weights of a position on
    click. They are rounded to the fewest bits (8 to 16, one scale per position) for which the 20 largest weights of
    sampled rows have a relative error of at most 2 %. The page states the bits and the error. Notebooks show the page.

    Args:
        clip: (T, H, W, 3) or another layout of `torch_nonlocal.view`: the clip that the model ran on. It may have more
            pixels than the model's input; positions are scaled accordingly.
        seen: the result of `nl.watch`, records by name, or a single record.
        batch: index of the clip in the batch.
        point: the first query, (frame, y, x) in pixels of the clip, or (y, x) in an image. Default: the position with
            the largest evidence for the predicted class of a trained network, else the region with the most
            contrast and motion.
        title: title of the page.
        max_bytes: largest size of the file.
        coarser: 1 keeps the grid of the blocks. With 2, 3, ..., theta and phi are averaged over that many cells in y
            and in x: an approximation for a smaller file, whose measured distance the page states.
        facts: file, network, class scores and times, which the page states.

    Attributes:
        html: the page as text.

    Raises:
        ValueError: no block has run, a record does not match the clip, a point or batch index is out of range, or the
            page is larger than `max_bytes`; the message gives its size and ways to reduce it.
        ImportError: Jinja2 is not installed.

    Example:
        >>> with nl.watch(model) as seen:
        ...     model(clip)
        >>> nl.view.Page(frames, seen)
    """

    def __init__(
        self,
        clip: Any,
        seen: Mapping[str, BlockRecord] | BlockRecord,
        *,
        batch: int = 0,
        point: Sequence[float] | None = None,
        title: str = TITLE,
        max_bytes: int = MAX_BYTES,
        coarser: int = 1,
        facts: Facts | None = None,
    ) -> None:
        records = _records(seen)
        clip_THWC = as_clip(clip)
        facts = facts or Facts()
        start = as_query(point, clip_THWC)
        for record in records.values():
            _check(record, clip_THWC.shape, batch)
        _check_facts(facts, records, len(clip_THWC))
        if coarser < 1 or int(coarser) != coarser:
            raise ValueError(f"coarser={coarser}: expected a whole number of at least 1 (the grid of the blocks)")
        require_all(("jinja2",), extra="view")

        limit = _Limit(records, max_bytes, coarser)
        least = sum(least_size(record, coarser=coarser) for record in records.values())
        limit.check(least, 0)
        limit.check(least, frames.estimated_size(clip_THWC), tolerance=2)  # before the clip and the blocks are encoded
        pictures = frames.data_uris(clip_THWC)
        blocks = {name: prepare(record, batch=batch, coarser=coarser) for name, record in records.items()}
        numbers = sum(block.size for block in blocks.values())
        limit.check(numbers, sum(map(len, pictures)))

        store = Store()
        first = next(iter(records))
        page = {
            "title": title,
            "clip": list(clip_THWC.shape[:3]),
            "frames": pictures,
            "pixelated": frames.is_small(clip_THWC),
            "alpha": ALPHA,
            "faintest": FAINTEST,
            "ownFrame": OWN_FRAME,
            "colors": {
                "unsigned": _colors(colormaps[CMAP]),
                "signed": _colors(colormaps[SIGNED_CMAP]),
                "arrows": _colors(bright_part(CMAP)),
            },
            "negligible": NEGLIGIBLE,
            "start": start or first_query(records[first], facts.of(first), clip_THWC),
            "facts": {
                "file": facts.file,
                "labels": list(facts.labels),
                "size": facts.size,
                "why": facts.why or reason(first, facts.of(first), given=start is not None),
                "beside": facts.beside,
                "origin": facts.origin,
            },
            "blocks": [
                {**block.describe(store, clip_THWC.shape, facts.of(name)), "name": name}
                for name, block in blocks.items()
            ],
        }
        self.html = bundle.render(title, page, store.texts)
        limit.check(numbers, len(self.html.encode()) - numbers)  # the estimate omits scripts and style

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to an .html file, atomically, and return its path.

        Raises:
            ValueError: the folder does not exist; no file is written.
        """
        with replacing(path) as temporary:
            temporary.write_bytes(self.html.encode())
        return Path(path)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, for notebooks."""
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts allow-downloads" '
            'style="width: 100%; height: 900px; border: 0" title="Interactive page of attention weights"></iframe>'
        )


def save_page(
    path: str | os.PathLike[str],
    clip: Any,
    seen: Mapping[str, BlockRecord] | BlockRecord,
    *,
    batch: int = 0,
    point: Sequence[float] | None = None,
    title: str = TITLE,
    max_bytes: int = MAX_BYTES,
    coarser: int = 1,
    facts: Facts | None = None,
) -> Path:
    """Write an interactive page, one HTML file; `Page` describes it and its arguments.

    Args:
        path: the .html file, written atomically.
        clip: as for `Page`.
        seen: as for `Page`.
        batch: as for `Page`.
        point: as for `Page`.
        title: as for `Page`.
        max_bytes: as for `Page`.
        coarser: as for `Page`.
        facts: as for `Page`.

    Returns:
        The path of the file.

    Raises:
        ValueError: as `Page`, or the folder does not exist. No file is written.
        ImportError: Jinja2 is not installed.

    Example:
        >>> with nl.watch(model) as seen:
        ...     model(clip)
        >>> nl.view.save_page("page.html", frames, seen)
    """
    page = Page(
        clip, seen, batch=batch, point=point, title=title, max_bytes=max_bytes, coarser=coarser, facts=facts
    )  # fmt: skip
    return page.save(path)


def reason(block: str, facts: BlockFacts, *, given: bool) -> str:
    """Return why the first query was chosen, as a sentence that remains true when another block is shown.

    Args:
        block: name of the block that it was chosen for.
        facts: facts about the block.
        given: whether the caller chose it, and `first_query` did not.
    """
    if given:
        return "Given, not chosen automatically."
    if not facts.has_evidence:
        return "Chosen automatically: the region of the frames with the most contrast and motion."
    score = f"for {facts.classes[0][0]}, the predicted class" if facts.classes else "for the score"
    return (
        f"Chosen automatically in {block}: the position with the most positive gradient \u00d7 activation "
        f"({float(facts.evidence.max()):+.3g} logit) {score}."
    )


def first_query(record: BlockRecord, facts: BlockFacts, clip_THWC: np.ndarray) -> Point:
    """Return the position with the largest evidence for the predicted class; without evidence, the most salient one.

    Args:
        record: record of the block.
        facts: facts about the block.
        clip_THWC: the clip.
    """
    if not facts.has_evidence:
        return frames.eye_catcher(clip_THWC)
    evidence_THW = np.asarray(facts.evidence).reshape((1,) * (3 - len(record.geometry.grid)) + record.geometry.grid)
    cell = np.unravel_index(int(evidence_THW.argmax()), evidence_THW.shape)
    centers, _ = axis_centers(record.geometry, clip_THWC.shape)
    t, y, x = (
        min(max(line[int(index)], 0.0), pixels - 1.0)
        for line, index, pixels in zip(centers, cell, clip_THWC.shape, strict=False)
    )
    return nearest_frame(t, len(clip_THWC)), y, x


def _records(seen: Mapping[str, BlockRecord] | BlockRecord) -> dict[str, BlockRecord]:
    if isinstance(seen, BlockRecord):
        return {seen.name or "block": seen}
    if not isinstance(seen, Mapping):
        raise TypeError(f"seen={type(seen).__name__}: expected the result of nl.watch, records by name or one record")
    if not seen:
        raise ValueError("no block has run: run the model inside `with nl.watch(model) as seen`, then save the page")
    return dict(seen)


def _check(record: BlockRecord, clip_shape: Sequence[int], batch: int) -> None:
    if not 0 <= batch < record.batch_size:
        raise ValueError(f"batch={batch}: expected 0 to {record.batch_size - 1}, the batch that {record.name!r} ran on")
    grid = record.geometry.grid
    cells = grid[0] if len(grid) == 3 else 1
    if len(grid) < 3 and clip_shape[0] > 1:
        raise ValueError(
            f"{record.name!r} ran on images ({len(grid)}D map) but the clip has "
            f"{counted(clip_shape[0], 'frame')}: "
            f"pass the image of this record, such as clip[{batch}]"
        )
    if cells > clip_shape[0]:
        raise ValueError(
            f"{record.name!r} has {counted(cells, 'frame')} but the clip has {clip_shape[0]}: "
            "pass the clip that the model ran on"
        )


def _check_facts(facts: Facts, records: Mapping[str, BlockRecord], total: int) -> None:
    if facts.labels and len(facts.labels) != total:
        raise ValueError(f"facts.labels: got {len(facts.labels)}, expected one for each of {counted(total, 'frame')}")
    unknown = [name for name in (*facts.blocks, facts.beside) if name and name not in records]
    if unknown:
        raise ValueError(f"facts: no record of block {unknown[0]!r}; records: {', '.join(records)}")
    for name, block in facts.blocks.items():
        shape, grid = getattr(block.evidence, "shape", None), records[name].geometry.grid
        if shape is not None and tuple(shape) != grid:
            raise ValueError(f"facts: evidence of {name!r} has shape {tuple(shape)}, expected {grid}, the block's grid")


class _Limit:
    """The limit on the size of the page; what exceeds it raises an error that lists ways to reduce it."""

    def __init__(self, records: Mapping[str, BlockRecord], max_bytes: int, coarser: int) -> None:
        self._blocks = len(records)
        self._positions = max(positions_of(record, coarser=coarser)[0] for record in records.values())
        self._max_bytes = max_bytes
        self._coarser = coarser

    def check(self, numbers: int, others: int, *, tolerance: int = 1) -> None:
        """Check the bytes of theta and phi, and of everything else, which may be overestimated by a factor."""
        if numbers + others // tolerance <= self._max_bytes:
            return
        smaller = self._coarser * 2
        guess = (others + numbers * (self._coarser / smaller) ** 2) / _MEGABYTE
        raise ValueError(
            f"the page would take {(numbers + others) / _MEGABYTE:.1f} MB, more than max_bytes={self._max_bytes} "
            f"({self._max_bytes / _MEGABYTE:.1f} MB); "
            f"theta and phi of {self._blocks} block(s), up to {self._positions:,} positions, take "
            f"{numbers / _MEGABYTE:.1f} MB; pass coarser={smaller} (about {guess:.1f} MB, an approximation on a "
            "coarser grid), fewer frames or blocks, or a larger max_bytes"
        )


def _colors(cmap: Colormap) -> str:
    """256 colors of a color map as hexadecimal text."""
    return "".join(bytes(int(value) for value in cmap(level, bytes=True)[:3]).hex() for level in range(256))
