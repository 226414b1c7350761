"""Seconds and extra memory of the retrieval metrics, re-ranking, verification and open set at the size of MARS.

    python benchmarks/reid_metrics.py --index ../shared/data/mars/mars-test.csv

The index is a CSV file with the columns tracklet, identity, camera, frames and query (1 for queries) of the 12,180 test
tracklets. Embeddings are random points around one center a person and one offset a camera; there are no pictures. Every
row runs in a fresh process. Extra memory is the peak above what the inputs take.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torch_nonlocal.benchmark.meter import measure
from torch_nonlocal.tasks.reid.distances import distance_blocks
from torch_nonlocal.tasks.reid.metrics import evaluate, evaluate_blocks, evaluate_embeddings
from torch_nonlocal.tasks.reid.open_set import held_out_identities, identify_embeddings
from torch_nonlocal.tasks.reid.reranking import reranked_blocks
from torch_nonlocal.tasks.reid.verification import verify_embeddings

ROWS = {
    "official": "distances, official protocol",
    "common": "distances, common protocol",
    "embeddings": "embeddings, both protocols",
    "reranked": "embeddings, re-ranked, both protocols",
    "verification": "embeddings, verification",
    "open set": "embeddings, open set, half of the persons unknown",
}


def case(index: Path, width: int, noise: float) -> tuple[Any, ...]:
    """Embeddings, identities, cameras and queries of an index."""
    with index.open() as file:
        rows = [(int(row["identity"]), int(row["camera"]), int(row["query"])) for row in csv.DictReader(file)]
    ids, cameras, query = np.array(rows).T
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((ids.max() + 1, width), np.float32)
    embeddings = rng.standard_normal((len(ids), width), np.float32)
    embeddings = np.where((ids > 0)[:, None], centers[np.maximum(ids, 0)] + np.float32(noise) * embeddings, embeddings)
    embeddings += 0.5 * rng.standard_normal((cameras.max() + 1, width), np.float32)[cameras]
    return torch.from_numpy(embeddings), ids, cameras, np.flatnonzero(query)


def prepared(name: str, index: Path, width: int, noise: float) -> Callable[[], Any]:
    """The work of a row, with its inputs in memory."""
    embeddings, ids, cameras, queries = case(index, width, noise)
    labels = ids, cameras, ids[queries], cameras[queries]
    chosen = embeddings[torch.from_numpy(queries)]
    if name in ("official", "common"):
        distances = np.empty((len(ids), len(queries)))
        for start, distances_BG in distance_blocks(chosen, embeddings):
            distances[:, start : start + len(distances_BG)] = distances_BG.T
        return lambda: evaluate(distances, *labels, protocol=name, query_index=queries)
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
            f"{one.protocol}: mAP {one.mean_ap:.4f}, rank-1 {one.rank(1):.4f}, mINP {one.mean_inp:.4f}"
            for one in results.values()
        )
    if hasattr(scores, "area"):
        point = scores.at_false_accept_rate(0.001)
        return f"area {scores.area:.4f}, EER {scores.equal_error_rate:.4f}, TAR {point.true_rate:.4f} at FAR 0.001"
    return f"DIR {scores.at_false_positive_rate(0.01).true_rate:.4f} at FPIR 0.01"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, required=True, help="CSV file of the test tracklets")
    parser.add_argument("--width", type=int, default=2048, help="width of the embeddings")
    parser.add_argument("--noise", type=float, default=5.0, help="spread of a person's tracklets around its center")
    options = parser.parse_args()
    print("| from | seconds | CPU s | extra MB | result |")
    print("|---|---|---|---|---|")
    for name, title in ROWS.items():
        arguments = name, options.index, options.width, options.noise
        result = shown(prepared(*arguments)())
        cost = measure(prepared, *arguments, repeats=1)
        cells = f"{cost.seconds:.1f} | {cost.cpu_seconds:.1f} | {cost.extra_bytes / 2**20:,.0f}"
        print(f"| {title} | {cells} | {result} |", flush=True)


if __name__ == "__main__":
    main()
