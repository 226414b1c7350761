"""What `nonlocal test reid` writes: scores.json and rankings.csv."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torch_nonlocal._common.files import check_folder, spreadsheet_text, write_json
from torch_nonlocal._common.text import counted
from torch_nonlocal.tasks.reid.metrics import RANKS, RetrievalScores
from torch_nonlocal.tasks.reid.settings import ReidTestOptions
from torch_nonlocal.tasks.reid.testing import Tested, ranked_run
from torch_nonlocal.tasks.tables import write_csv

_LISTED = 10  # matches of each query in rankings.csv


def run_test(
    weights: Path,
    data: Path | None,
    out: Path,
    options: ReidTestOptions,
    *,
    on_progress: Callable[[int, int], None] | None,
    log: Callable[[str], None],
) -> dict[str, float]:
    """Test trained weights and write the results to a folder; arguments as in `TaskSpec.test`.

    Returns:
        "mAP_common", "rank1_common" and so on.

    Raises:
        FileNotFoundError: the weights or the data do not exist.
        ValueError: the weights are of another task, there is nothing to test on, or `out` is a file.
        ImportError: a package is not installed.
    """
    check_folder(out)
    tested = ranked_run(weights, data, options, on_progress=on_progress)
    out.mkdir(parents=True, exist_ok=True)
    scores = {name: one.plain() for name, one in tested.scores.items()}
    content = {
        "scores": scores,
        "verification": None if tested.verification is None else tested.verification.plain(),
        "open_set": None if tested.open_set is None else tested.open_set.plain(),
        "distance": options.distance,
        "reranked": options.rerank,
        "views": options.views,
        "notes": list(tested.notes),
        "not_read": [entry._asdict() for entry in tested.not_read],
        "weights": str(weights),
        "data": "handwritten persons" if data is None else str(data),
    }
    write_json(out / "scores.json", content, indent=1)
    write_csv(out / "rankings.csv", _rankings(tested))
    for note in tested.notes:
        log(note)
    for line in (*score_lines(tested.scores), *_threshold_lines(tested)):
        log(line)
    if tested.not_read:
        log(f"tracklets that could not be read: {len(tested.not_read)}, listed in scores.json")
    log(f"scores and rankings: {out}/")
    return {
        f"{name}_{protocol}": value
        for protocol, one in tested.scores.items()
        for name, value in (("mAP", one.mean_ap), ("rank1", one.rank(1)), ("mINP", one.mean_inp))
    }


def score_lines(scores: Mapping[Any, RetrievalScores]) -> list[str]:
    """A table of the metrics, one line for each protocol."""
    titles = ["mAP", *(f"rank {number}" for number in RANKS), "mINP", "queries"]
    lines = [f"{'protocol':<10}" + "".join(f"{title:>9}" for title in titles)]
    for name, one in scores.items():
        values = [one.mean_ap, *(one.rank(number) for number in RANKS), one.mean_inp]
        skipped = f" ({counted(one.skipped, 'query', 'queries')} without a match skipped)" if one.skipped else ""
        lines.append(f"{name:<10}" + "".join(f"{value:>9.4f}" for value in values) + f"{one.scored:>9,}{skipped}")
    return lines


def _threshold_lines(tested: Tested) -> list[str]:
    """What a threshold of the distance achieves, for known and for unknown persons."""
    rate, lines = tested.options.false_accept, []
    if tested.verification is not None:
        one, point = tested.verification, tested.verification.at_false_accept_rate(rate)
        lines.append(f"same or different: equal error rate {one.equal_error_rate:.4f}, area {one.area:.4f}")
        if np.isfinite(point.threshold):
            accepted = f"{point.true_rate:.1%} of the same and {point.false_rate:.2%} of different identities"
            name = tested.options.distance
            lines.append(f"  {name} distance up to {point.threshold:.4f} accepts {accepted} (--false-accept {rate:g})")
    if tested.open_set is not None:
        point = tested.open_set.at_false_positive_rate(rate)
        found = f"{point.true_rate:.1%} of the enrolled are found"
        lines.append(f"open set, half of the identities not in the gallery: {found}, {point.false_rate:.2%} of others")
    return lines


def _rankings(tested: Tested) -> dict[str, Any]:
    """The nearest gallery tracklets of each query that count: without junk and the query's own camera."""
    ranked, tracklets = tested.ranked, tested.retrieval.source.tracklets
    columns: dict[str, list[Any]] = {
        name: [] for name in ("query", "identity", "rank", "match", "match_identity", "distance", "right")
    }
    for start, distances_BG in tested.blocks():
        for offset, row_G in enumerate(np.asarray(distances_BG)):
            number = start + offset
            identity, camera = ranked.query_ids[number], ranked.query_cameras[number]
            counts = ranked.gallery_ids != -1
            counts &= ~((ranked.gallery_ids == identity) & (ranked.gallery_cameras == camera))
            rows = np.flatnonzero(counts)
            nearest = rows[np.argsort(row_G[rows], kind="stable")[:_LISTED]]
            query = tracklets[ranked.query_at[number]]
            for rank, row in enumerate(nearest.tolist(), 1):
                match = tracklets[ranked.gallery_at[row]]
                right = "yes" if ranked.gallery_ids[row] == identity else "no"
                cells = (query.name, query.identity, rank, match.name, match.identity, f"{row_G[row]:.6f}", right)
                for name, cell in zip(columns, cells, strict=True):
                    columns[name].append(spreadsheet_text(cell) if isinstance(cell, str) else cell)
    return columns
