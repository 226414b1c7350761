"""What `nonlocal test reid` writes: scores.json, rankings.csv and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from torch_nonlocal._common.files import check_folder, spreadsheet_text, write_json
from torch_nonlocal._common.optional import require_all
from torch_nonlocal._common.text import counted
from torch_nonlocal.tasks.reid.metrics import RANKS, Protocol, RetrievalScores
from torch_nonlocal.tasks.reid.rankings import Rankings, rank_matches
from torch_nonlocal.tasks.reid.report import threshold_text, write_report
from torch_nonlocal.tasks.reid.settings import ReidTestOptions
from torch_nonlocal.tasks.reid.testing import Tested, ranked_run
from torch_nonlocal.tasks.tables import write_csv

TITLES = {"mean_ap": "mAP", **{f"rank{number}": f"rank {number}" for number in RANKS}, "mean_inp": "mINP"}
"""The metrics of tables, by their names in `RetrievalScores.plain`."""


def run_test(
    weights: Path,
    data: Path | None,
    out: Path,
    options: ReidTestOptions,
    *,
    on_progress: Callable[[int, int], None] | None,
    log: Callable[[str], None],
) -> Mapping[Protocol, RetrievalScores]:
    """Test trained weights and write the results to a folder; arguments as in `TaskSpec.test`.

    Returns:
        The scores by protocol.

    Raises:
        FileNotFoundError: the weights do not exist.
        ValueError: there are no such data, the weights are of another task, there is nothing to test on, or `out` is a
            file.
        ImportError: a package is not installed.
    """
    check_folder(out)
    require_all(("jinja2", "matplotlib"), extra="reid")
    tested = ranked_run(weights, data, options, on_progress=on_progress)
    out.mkdir(parents=True, exist_ok=True)
    rankings = rank_matches(tested.blocks(), tested.labels(), next(iter(tested.scores)))
    scores = {name: one.plain() for name, one in tested.scores.items()}
    data_name = "handwritten persons" if data is None else str(data)
    content = {
        "scores": scores,
        "verification": _verification(tested),
        "open_set": None if tested.open_set is None else tested.open_set.plain(),
        "distance": options.distance,
        "reranked": options.rerank,
        "views": options.views,
        "notes": list(tested.notes),
        "not_read": [entry._asdict() for entry in tested.not_read],
        "weights": str(weights),
        "data": data_name,
    }
    write_json(out / "scores.json", content, indent=1)
    write_csv(out / "rankings.csv", _listed(tested, rankings))
    for note in tested.notes:
        log(note)
    for line in (*score_lines(tested.scores), *_threshold_lines(tested)):
        log(line)
    if tested.not_read:
        log(f"tracklets that could not be read: {len(tested.not_read)}, listed in scores.json")
    log("drawing the report ..." if options.pictures else "writing the report ...")
    about = {"weights": str(weights), "data": data_name}
    page = write_report(tested, out, rankings, about=about)
    log(f"scores and rankings: {out}/, report: {page}")
    return tested.scores


def score_lines(scores: Mapping[Any, RetrievalScores]) -> list[str]:
    """A table of the metrics, one line for each protocol."""
    lines = [f"{'protocol':<10}" + "".join(f"{title:>9}" for title in (*TITLES.values(), "queries"))]
    for name, one in scores.items():
        plain = one.plain()
        values = [plain[title] for title in TITLES]
        skipped = f" ({counted(one.skipped, 'query', 'queries')} without a match skipped)" if one.skipped else ""
        lines.append(f"{name:<10}" + "".join(f"{value:>9.4f}" for value in values) + f"{one.scored:>9,}{skipped}")
    return lines


def _verification(tested: Tested) -> dict[str, Any] | None:
    """The verification scores with the point at the chosen false-accept rate, as JSON values."""
    if tested.verification is None:
        return None
    chosen = tested.verification.plain_point(tested.options.false_accept)
    return {**tested.verification.plain(), "chosen": chosen}


def _threshold_lines(tested: Tested) -> list[str]:
    """What a threshold of the distance achieves, for known and for unknown persons."""
    rate, lines = tested.options.false_accept, []
    if tested.verification is not None:
        one, point = tested.verification, tested.verification.at_false_accept_rate(rate)
        lines.append(f"same or different: equal error rate {one.equal_error_rate:.4f}, area {one.area:.4f}")
        if isfinite(point.threshold):
            accepted = f"{point.true_rate:.1%} of the same and {point.false_rate:.2%} of different identities"
            name = threshold_text(point.threshold, tested.options.distance)
            lines.append(f"  {name} accepts {accepted} (--false-accept {rate:g})")
    if tested.open_set is not None:
        point = tested.open_set.at_false_positive_rate(rate)
        found = f"{point.true_rate:.1%} of the enrolled are found, {point.false_rate:.2%} of the unknown are accepted"
        lines.append(f"open set, half of the identities not in the gallery: {found}")
    return lines


def _listed(tested: Tested, rankings: Rankings) -> dict[str, Any]:
    """The columns of rankings.csv: the nearest gallery tracklets of each query that count."""
    ranked, tracklets = tested.ranked, tested.retrieval.source.tracklets
    columns: dict[str, list[Any]] = {
        name: [] for name in ("query", "identity", "rank", "match", "match_identity", "distance", "right", "protocol")
    }
    for number, rows in enumerate(rankings.rows):
        query = tracklets[ranked.query_at[number]]
        for place, row in enumerate(rows[rows >= 0].tolist()):
            match = tracklets[ranked.gallery_at[row]]
            right = "yes" if rankings.right[number, place] else "no"
            distance = f"{rankings.distances[number, place]:.6f}"
            found = match.name, match.identity, distance, right
            cells = (query.name, query.identity, place + 1, *found, rankings.protocol)
            for name, cell in zip(columns, cells, strict=True):
                columns[name].append(spreadsheet_text(cell) if isinstance(cell, str) else cell)
    return columns
