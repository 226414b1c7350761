"""What `nonlocal predict` does with a network of re-identification: it embeds tracklets."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.progress import ProgressBar
from torch_nonlocal._common.terminal import print_lines, terminal

if TYPE_CHECKING:
    from torch_nonlocal.tasks.reid.trained import TrackletEmbedder


def predict_embeddings(
    model: "TrackletEmbedder",
    paths: Sequence[Path],
    problems: Sequence[str],
    *,
    weights: Path,
    files: dict[str, Path | None],
    views: int | None,
    batch_size: int,
    workers: int,
) -> None:
    """Embed tracklets, print the most similar other one of each, and write the embeddings.

    Args:
        model: the network.
        paths: folders of frames, pictures and videos.
        problems: lines about paths that are no tracklets.
        weights: its file.
        files: JSON, CSV and Parquet files to write, by format.
        views: clips per tracklet; None for the default.
        batch_size: clips per forward pass.
        workers: processes that decode.
    """
    from torch_nonlocal.data.broken import BrokenClips
    from torch_nonlocal.tasks.reid import embedding_files
    from torch_nonlocal.tasks.reid.trained import VIEWS

    broken = BrokenClips()
    with ProgressBar("predict", unit="clips") as bar:
        options = {"views": views or VIEWS, "batch": batch_size, "workers": workers, "on_views": bar.update}
        found = embedding_files.embed_files(model, paths, broken, **options)
    entries = broken.entries()
    written = [path for path in files.values() if path is not None]
    if found is not None:
        if (path := files.get("json")) is not None:
            embedding_files.write_embeddings_json(path, found, entries, weights=str(weights))
        if (path := files.get("csv")) is not None:
            embedding_files.write_embeddings_csv(path, found)
        if (path := files.get("parquet")) is not None:
            embedding_files.write_embeddings_parquet(path, found)
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("tracklet", overflow="fold")
        table.add_column("frames", justify="right", no_wrap=True)
        table.add_column("most similar", overflow="fold")
        table.add_column("cosine", justify="right", no_wrap=True)
        for name, frames, (near, similarity) in zip(found.names, found.frames, found.nearest, strict=True):
            cells = (escape(printable(near)), f"{similarity:.4f}") if near else ("", "")
            table.add_row(escape(printable(name)), str(frames), *cells)
        terminal().print(table)
        print_lines(f"embeddings of {found.vectors.shape[1]} numbers, divided by their Euclidean norm")
    for entry in entries:
        print_lines(f"{entry.kind}: {entry.reason}")
    for problem in problems:
        print_lines(f"problem: {problem}")
    for path in written:
        print_lines(f"written: {path}" if found is not None else f"not written, no tracklet can be read: {path}")
    if entries or problems:
        print_lines(f"{len(entries)} of {len(paths)} tracklets not read, {len(problems)} other problems")
        sys.exit(1)
