"""Save the page: check everything, know the size, then write."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps

from torch_nonlocal._common.files import replacing
from torch_nonlocal._common.optional import require_all
from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.view.clips import as_clip, as_query
from torch_nonlocal.view.colors import SIGNED_CMAP
from torch_nonlocal.view.overlays import ALPHA, CMAP
from torch_nonlocal.view.page import bundle, frames
from torch_nonlocal.view.page.payload import Block, Store, prepare

MAX_BYTES = 32 * 2**20
_MEGABYTE = 1e6


def save_page(
    path: str | os.PathLike[str],
    clip: Any,
    seen: Mapping[str, BlockRecord] | BlockRecord,
    *,
    batch: int = 0,
    point: Sequence[float] | None = None,
    title: str = "What every pixel looks at",
    max_bytes: int = MAX_BYTES,
    coarser: int = 1,
) -> Path:
    """Writes one HTML file in which every pixel can be asked what it looks at: no network, no server.

    The file carries the frames and each block's theta and phi, rounded to the fewest bits (8 to 16, one scale a
    position) that keep the 20 strongest weights of sampled rows within 2 % of themselves; the page states bits and
    error. It computes a position's weights when it is clicked.

    Args:
        path: the file to write, .html; written under a temporary name, then renamed.
        clip: (T, H, W, 3) and the other layouts of `torch_nonlocal.view`: the clip the blocks saw. It may have more
            pixels than the network's input; positions scale with it.
        seen: what `nl.watch` gives, records by name, or one record.
        batch: which clip of the batch.
        point: (frame, y, x) in pixels of the clip, or (y, x) of an image: the query shown first; None: where the middle
            frame varies most.
        title: of the page.
        max_bytes: the largest file to write.
        coarser: 1 for the blocks' own grid. 2, 3, ...: theta and phi are averaged over that many cells in y and in x,
            which makes a big page smaller; an approximation, which the page states with its measured distance.

    Returns:
        The path written.

    Raises:
        ValueError: nothing has run, another clip's record, a point or batch index outside, a page above `max_bytes`
            (the message gives the size and what makes it smaller). Nothing is written then.
        ImportError: Jinja2 is missing.

    Example:
        >>> with nl.watch(model) as seen:
        ...     model(clip)
        >>> nl.view.save_page("page.html", frames, seen)
    """
    records = _records(seen)
    clip_THWC = as_clip(clip)
    start = as_query(point, clip_THWC)
    for record in records.values():
        _check(record, clip_THWC.shape, batch)
    if coarser < 1 or int(coarser) != coarser:
        raise ValueError(f"coarser={coarser}: expected 1 (the blocks' own grid), 2, 3, ...")
    require_all(("jinja2",), extra="view")

    pictures = frames.data_uris(clip_THWC)
    blocks = {name: prepare(record, batch=batch, coarser=coarser) for name, record in records.items()}
    _check_size(sum(block.size for block in blocks.values()), sum(map(len, pictures)), blocks, max_bytes, coarser)

    store = Store()
    page = {
        "title": title,
        "clip": list(clip_THWC.shape[:3]),
        "frames": pictures,
        "pixelated": frames.is_small(clip_THWC),
        "alpha": ALPHA,
        "colors": {"unsigned": _colors(CMAP), "signed": _colors(SIGNED_CMAP)},
        "start": start or frames.eye_catcher(clip_THWC),
        "blocks": [{**block.describe(store, clip_THWC.shape), "name": name} for name, block in blocks.items()],
    }
    html = bundle.render(title, page, store.texts).encode()
    if len(html) > max_bytes:  # the estimate was a little low
        _refuse(len(html), blocks, max_bytes, coarser)
    with replacing(path) as temporary:
        temporary.write_bytes(html)
    return Path(path)


def _records(seen: Mapping[str, BlockRecord] | BlockRecord) -> dict[str, BlockRecord]:
    if isinstance(seen, BlockRecord):
        return {seen.name or "block": seen}
    if not isinstance(seen, Mapping):
        raise TypeError(f"seen: expected what nl.watch gives, records by name or one record; got {type(seen).__name__}")
    if not seen:
        raise ValueError("no block has run: run the model inside `with nl.watch(model) as seen`, then save the page")
    return dict(seen)


def _check(record: BlockRecord, clip_shape: Sequence[int], batch: int) -> None:
    if not 0 <= batch < record.batch_size:
        raise ValueError(f"batch={batch} is outside: {record.name!r} saw a batch of {record.batch_size}")
    grid = record.geometry.grid
    cells = grid[0] if len(grid) == 3 else 1
    if len(grid) < 3 and clip_shape[0] > 1:
        raise ValueError(
            f"{record.name!r} ran on single images ({len(grid)}D map), the clip has {clip_shape[0]} frames: "
            f"give the image it saw, such as clip[{batch}]"
        )
    if cells > clip_shape[0]:
        raise ValueError(
            f"{record.name!r} has {cells} frames, the clip {clip_shape[0]}: is it the clip that the model saw?"
        )


def _check_size(numbers: int, pictures: int, blocks: Mapping[str, Block], max_bytes: int, coarser: int) -> None:
    if numbers + pictures > max_bytes:
        _refuse(numbers + pictures, blocks, max_bytes, coarser, numbers)


def _refuse(size: int, blocks: Mapping[str, Block], max_bytes: int, coarser: int, numbers: int | None = None) -> None:
    positions = max(len(block.maps.query) for block in blocks.values())
    numbers = sum(block.size for block in blocks.values()) if numbers is None else numbers
    smaller = coarser * 2
    guess = (size - numbers + numbers * (coarser / smaller) ** 2) / _MEGABYTE
    raise ValueError(
        f"the page would take {size / _MEGABYTE:.1f} MB, more than max_bytes={max_bytes} "
        f"({max_bytes / _MEGABYTE:.1f} MB): "
        f"{numbers / _MEGABYTE:.1f} MB are theta and phi of {len(blocks)} block(s), {positions:,} positions. "
        f"Smaller: coarser={smaller} (about {guess:.1f} MB, an approximation on a coarser grid), fewer frames or "
        "blocks; or raise max_bytes"
    )


def _colors(cmap: str) -> str:
    """256 colors as one hexadecimal text."""
    return "".join(bytes(int(value) for value in colormaps[cmap](level, bytes=True)[:3]).hex() for level in range(256))
