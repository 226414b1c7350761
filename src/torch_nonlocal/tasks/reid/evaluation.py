"""Embeddings of tracklets by a network, and the ranking of queries in training.

Shapes: N tracklets, E embedding width.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from torch_nonlocal._common.text import counted, listed
from torch_nonlocal._common.workers import WorkerBatches, ignore_stop_signals
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.tracklets.tracklet import TrackletSource
from torch_nonlocal.models.inputs import Inputs
from torch_nonlocal.tasks.base import OnError
from torch_nonlocal.tasks.reid.clips import TrackletViews, collate_views
from torch_nonlocal.tasks.reid.data import Retrieval
from torch_nonlocal.tasks.reid.settings import ReidSettings


class NoTrackletsError(ValueError):
    """No tracklet can be read."""


class Embedded(NamedTuple):
    """Embeddings of the readable tracklets.

    Attributes:
        vectors: (N, E) float32 on the CPU, means over the views, not normalized.
        kept: position of each row in the given indices.
    """

    vectors: Tensor
    kept: list[int]


@torch.no_grad()
def embed(
    model: nn.Module,
    source: TrackletSource,
    indices: Sequence[int],
    settings: ReidSettings,
    inputs: Inputs,
    *,
    views: int = 1,
    batch: int = 16,
    workers: int = 0,
    on_error: OnError = "skip",
    broken: BrokenClips | None = None,
    on_views: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Embed tracklets with a network in eval mode.

    Args:
        model: clips (B, 3, T, H, W) -> embeddings (B, E).
        source: the tracklets.
        indices: those that are embedded.
        settings: frames of a clip.
        inputs: normalization.
        views: clips per tracklet, evenly spaced.
        batch: clips per forward pass.
        workers: processes that decode.
        on_error: "skip" or "fail" for tracklets that cannot be read.
        broken: receives the tracklets that cannot be read.
        on_views: called after each batch with the number of finished clips and their total.

    Raises:
        NoTrackletsError: no tracklet can be read.
        BrokenVideoError: a tracklet cannot be read, with on_error="fail".
        ValueError: an embedding is not finite; the message names the tracklets.
    """
    parameter = next(model.parameters())
    items = TrackletViews(source, indices, settings, views=views, on_error=on_error, broken=broken)
    total = len(items)

    def loader_from(number: int) -> DataLoader[Any]:
        rest = Subset(items, range(number * batch, total))
        options: dict[str, Any] = {"collate_fn": collate_views, "worker_init_fn": ignore_stop_signals}
        return DataLoader(rest, batch_size=batch, num_workers=workers, **options)

    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    with WorkerBatches(loader_from) as batches:
        for number, (clips, positions) in enumerate(batches, 1):
            if clips.numel():
                x = inputs.normalize(clips.to(parameter.device)).to(parameter.dtype)
                for row, position in zip(model(x).float().cpu(), positions.tolist(), strict=True):
                    sums[position] = sums[position] + row if position in sums else row
                    counts[position] = counts.get(position, 0) + 1
            if on_views is not None:
                on_views(min(number * batch, total), total)
    # a tracklet of which a clip cannot be read is left out: its mean would be that of other frames
    sums = {position: one for position, one in sums.items() if counts[position] == items.views[position]}
    if not sums:
        raise NoTrackletsError(f"none of the {counted(len(indices), 'tracklet')} can be read")
    kept = sorted(sums)
    vectors = torch.stack([sums[position] / counts[position] for position in kept])
    check_finite(vectors, [source.tracklets[indices[position]].name for position in kept])
    return Embedded(vectors, kept)


def check_finite(vectors_NE: Tensor, names: Sequence[str]) -> None:
    """Check that embeddings are finite.

    Raises:
        ValueError: some are not; the message names the tracklets.
    """
    bad = [name for name, good in zip(names, vectors_NE.isfinite().all(1).tolist(), strict=True) if not good]
    if bad:
        raise ValueError(f"embeddings with NaN or infinite values: {listed(bad, most=3)}; the weights may be damaged")


class Ranked(NamedTuple):
    """Embeddings, identities and cameras of queries and gallery, NumPy arrays; rows that could be read.

    Attributes:
        query: (Q, E) embeddings.
        gallery: (G, E) embeddings.
        query_ids, gallery_ids: numbers of identities: -1 for junk, 0 for distractors.
        query_cameras, gallery_cameras: numbers of cameras.
        query_index: rows of the gallery that are the queries; None if the queries are not in the gallery.
        query_at, gallery_at: positions in the tracklets of the source.
    """

    query: Any
    gallery: Any
    query_ids: Any
    gallery_ids: Any
    query_cameras: Any
    gallery_cameras: Any
    query_index: Any
    query_at: list[int]
    gallery_at: list[int]

    @property
    def labels(self) -> tuple[Any, Any, Any, Any]:
        """Identities and cameras as the metrics take them: of the gallery, then of the queries."""
        return self.gallery_ids, self.gallery_cameras, self.query_ids, self.query_cameras


def embedded_retrieval(
    model: nn.Module, retrieval: Retrieval, settings: ReidSettings, inputs: Inputs, **options: Any
) -> Ranked:
    """Embed queries and gallery, each tracklet once; see `embed` for the options.

    Raises:
        NoTrackletsError: no query or no gallery tracklet can be read.
    """
    import numpy as np

    wanted = sorted({*retrieval.query, *retrieval.gallery})
    found = embed(model, retrieval.source, wanted, settings, inputs, **options)
    row_of = {wanted[position]: row for row, position in enumerate(found.kept)}
    vectors = found.vectors.numpy()
    gallery_at = [index for index in retrieval.gallery if index in row_of]
    query_at = [index for index in retrieval.query if index in row_of]
    if not query_at or not gallery_at:
        raise NoTrackletsError("no query or no gallery tracklet can be read")
    place = {index: row for row, index in enumerate(gallery_at)}
    ids, cameras = np.array(retrieval.identities), np.array(retrieval.cameras)
    index = None if retrieval.query_index is None else np.array([place[at] for at in query_at])
    rows = [[row_of[at] for at in which] for which in (query_at, gallery_at)]
    return Ranked(
        vectors[rows[0]],
        vectors[rows[1]],
        ids[query_at],
        ids[gallery_at],
        cameras[query_at],
        cameras[gallery_at],
        index,
        query_at,
        gallery_at,
    )
