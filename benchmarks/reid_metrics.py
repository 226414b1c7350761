"""Seconds and extra memory of the retrieval metrics, re-ranking, verification and open set at the size of MARS.

    python benchmarks/reid_metrics.py ../shared/data/mars

The folder holds the index of the 12,180 test tracklets, mars-test.csv (columns tracklet, identity, camera, frames, and
query, which is 1 for queries), and mars_case.py, whose `distances` the first rows score. The embeddings of the other
rows are random points around a center of each person and an offset of each camera; there are no pictures. Every row
runs in a fresh process. Extra memory is the peak above what the inputs take.
"""

import argparse
import csv
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torch_nonlocal.benchmark.meter import measure
from torch_nonlocal.tasks.reid.metrics import PROTOCOLS, Protocol, evaluate, evaluate_blocks, evaluate_embeddings
from torch_nonlocal.tasks.reid.open_set import held_out_identities, identify_embeddings
from torch_nonlocal.tasks.reid.reranking import reranked_blocks
from torch_nonlocal.tasks.reid.verification import verify_embeddings

ROWS = {
    "embeddings": "embeddings, both protocols",
    "reranked": "embeddings, re-ranked, both protocols",
    "verification": "embeddings, verification",
    "open set": "embeddings, open set, half of the persons unknown",
}
NOISES = (0.6, 1.0)


def read_index(folder: Path) -> tuple[Any, Any, Any]:
    """Identities, cameras and rows of the queries."""
    with (folder / "mars-test.csv").open() as file:
        rows = [(int(row["identity"]), int(row["camera"]), int(row["query"])) for row in csv.DictReader(file)]
    ids, cameras, query = np.array(rows).T
    return ids, cameras, np.flatnonzero(query)


def embeddings_of(ids: Any, cameras: Any, width: int, noise: float) -> torch.Tensor:
    """Embeddings with the identities and cameras of an index, float32."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((ids.max() + 1, width), np.float32)
    own = rng.standard_normal((len(ids), width), np.float32)  # junk and distractors are nobody else
    embeddings = np.where((ids > 0)[:, None], centers[np.maximum(ids, 0)], own)
    embeddings += np.float32(noise) * rng.standard_normal((len(ids), width), np.float32)
    embeddings += 0.5 * rng.standard_normal((cameras.max() + 1, width), np.float32)[cameras]
    return torch.from_numpy(embeddings)


def prepared_distances(protocol: Protocol, folder: Path, noise: float) -> Callable[[], Any]:
    """Scoring of the distances of mars_case.py, which are in memory."""
    spec = importlib.util.spec_from_file_location("mars_case", folder / "mars_case.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"cannot load {folder / 'mars_case.py'}")
    mars_case = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mars_case)
    ids, cameras, queries = read_index(folder)
    distances = mars_case.distances(ids, cameras, queries, noise)
    return lambda: evaluate(
        distances, ids, cameras, ids[queries], cameras[queries], protocol=protocol, query_index=queries
    )


def prepared(name: str, folder: Path, width: int, noise: float) -> Callable[[], Any]:
    """The work of a row of `ROWS`, with its inputs in memory."""
    ids, cameras, queries = read_index(folder)
    embeddings = embeddings_of(ids, cameras, width, noise)
    labels = ids, cameras, ids[queries], cameras[queries]
    chosen = embeddings[torch.from_numpy(queries)]
    work: dict[str, Callable[[], Any]] = {
        "embeddings": lambda: evaluate_embeddings(chosen, embeddings, *labels, query_index=queries),
        "reranked": lambda: evaluate_blocks(
            reranked_blocks(chosen, embeddings, query_index=queries), *labels, query_index=queries
        ),
        "verification": lambda: verify_embeddings(chosen, embeddings, *labels),
        "open set": lambda: identify_embeddings(
            chosen, embeddings, *labels, unknown_ids=held_out_identities(labels[2], 0.5)
        ),
    }
    return work[name]


def shown(scores: Any) -> str:
    """The main figures of a result."""
    results = scores if isinstance(scores, dict) else {"": scores}
    if all(hasattr(one, "mean_ap") for one in results.values()):
        return "; ".join(
            f"{one.protocol}: mAP {one.mean_ap:.8f}, rank-1 {one.rank(1):.8f}, mINP {one.mean_inp:.4f}"
            for one in results.values()
        )
    if hasattr(scores, "area"):
        point = scores.at_false_accept_rate(0.001)
        return f"area {scores.area:.4f}, EER {scores.equal_error_rate:.4f}, TAR {point.true_rate:.4f} at FAR 0.001"
    return f"DIR {scores.at_false_positive_rate(0.01).true_rate:.4f} at FPIR 0.01"


def print_row(title: str, prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> None:
    """Measure one row and print it."""
    result = shown(prepare(*arguments)())
    cost = measure(prepare, *arguments, repeats=1)
    cells = f"{cost.seconds:.1f} | {cost.cpu_seconds:.1f} | {cost.extra_bytes / 2**20:,.0f}"
    print(f"| {title} | {cells} | {result} |", flush=True)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of mars-test.csv and mars_case.py")
    parser.add_argument("--width", type=int, default=2048, help="width of the embeddings")
    parser.add_argument("--noise", type=float, default=3.0, help="spread of a person's embeddings around its center")
    options = parser.parse_args()
    print("| from | seconds | CPU s | extra MB | result |")
    print("|---|---|---|---|---|")
    for noise in NOISES:
        for protocol in PROTOCOLS:
            print_row(f"distances, noise {noise}", prepared_distances, protocol, options.folder, noise)
    for name, title in ROWS.items():
        print_row(title, prepared, name, options.folder, options.width, options.noise)


if __name__ == "__main__":
    main()
