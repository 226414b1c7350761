"""Embeddings of tracklets as JSON, CSV and Parquet files, and the most similar tracklet of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_nonlocal._common.files import replacing, spreadsheet_text, write_json
from torch_nonlocal._common.optional import require
from torch_nonlocal.data.broken import Broken, BrokenClips
from torch_nonlocal.data.tracklets.files import FileTracklets
from torch_nonlocal.data.tracklets.given import given_tracklet
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.tasks.reid.evaluation import NoTrackletsError
from torch_nonlocal.tasks.reid.trained import TrackletEmbedder
from torch_nonlocal.tasks.tables import write_csv


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of the tracklets that could be read.

    Attributes:
        names: paths of the tracklets.
        vectors: (N, E) float32, divided by their Euclidean norm.
        frames: number of frames of each.
    """

    names: tuple[str, ...]
    vectors: Tensor
    frames: tuple[int, ...]

    @cached_property
    def nearest(self) -> list[tuple[str, float]]:
        """The most similar other tracklet of each, with the cosine similarity; ("", 0) for a single tracklet."""
        if len(self.names) < 2:
            return [("", 0.0)] * len(self.names)
        found = []
        for row, vector_E in enumerate(self.vectors):
            similarity_N = self.vectors @ vector_E
            similarity_N[row] = -torch.inf
            best = int(similarity_N.argmax())
            found.append((self.names[best], float(similarity_N[best])))
        return found


def embed_files(
    model: TrackletEmbedder, paths: Sequence[Path], broken: BrokenClips, **options: Any
) -> Embeddings | None:
    """Embed files; those that cannot be read are reported to `broken`. None if no file can be read.

    Args:
        model: a trained network.
        paths: folders of frames, pictures and videos.
        broken: receives the files that cannot be read.
        **options: of `TrackletEmbedder.embed_source`.
    """
    tracklets = []
    for path in paths:
        try:
            tracklets.append(given_tracklet(path))
        except BrokenVideoError as error:
            broken.add(path, error)
    if not tracklets:
        return None
    source = FileTracklets(tracklets, model.settings.size)
    try:
        found = model.embed_source(source, range(len(tracklets)), broken=broken, **options)
    except NoTrackletsError:
        return None
    kept = [source.tracklets[position] for position in found.kept]
    vectors = F.normalize(found.vectors, dim=1)
    return Embeddings(tuple(one.name for one in kept), vectors, tuple(one.length for one in kept))


def write_embeddings_json(path: Path, found: Embeddings, broken: Sequence[Broken], *, weights: str) -> None:
    """Write the embeddings as JSON, with the files that could not be read."""
    rows = [
        {"tracklet": name, "frames": frames, "nearest": near, "similarity": similarity, "embedding": vector.tolist()}
        for name, frames, (near, similarity), vector in zip(
            found.names, found.frames, found.nearest, found.vectors, strict=True
        )
    ]
    write_json(path, {"weights": weights, "tracklets": rows, "not_read": [one._asdict() for one in broken]})


def _columns(found: Embeddings) -> dict[str, Any]:
    near = found.nearest
    return {
        "tracklet": list(found.names),
        "frames": list(found.frames),
        "nearest": [name for name, _ in near],
        "similarity": [similarity for _, similarity in near],
    }


def write_embeddings_csv(path: Path, found: Embeddings) -> None:
    """Write a table: tracklet, frames, nearest, similarity, and a column for each of the E numbers."""
    columns = {
        name: [spreadsheet_text(one) if isinstance(one, str) else one for one in values]
        for name, values in _columns(found).items()
    }
    write_csv(path, {**columns, **{f"e{number}": column for number, column in enumerate(found.vectors.T)}})


def write_embeddings_parquet(path: Path, found: Embeddings) -> None:
    """Write the same table as a Parquet file; the embedding is one column of lists.

    Raises:
        ImportError: pyarrow is not installed.
    """
    pyarrow, parquet = require("pyarrow", extra="parquet"), require("pyarrow.parquet", extra="parquet")
    kind = pyarrow.list_(pyarrow.float32(), found.vectors.shape[1])
    vectors = pyarrow.array(list(found.vectors.numpy()), kind)
    with replacing(path) as temporary:
        parquet.write_table(pyarrow.table({**_columns(found), "embedding": vectors}), temporary)
