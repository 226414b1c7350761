"""The report of a test: one HTML page beside its pictures."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from torch_nonlocal._common.files import printable, write_text
from torch_nonlocal._common.optional import require
from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.insertion import blocks
from torch_nonlocal.tasks.reid.metrics import RANKS
from torch_nonlocal.tasks.reid.rankings import Rankings
from torch_nonlocal.tasks.reid.report_pictures import FOLDER, Drawing, forget_pictures
from torch_nonlocal.tasks.reid.testing import Tested
from torch_nonlocal.tasks.reid.verification import RATES, OperatingPoint, VerificationScores

PAGE = "report.html"
_BEST, _LINKED = 3, 2  # queries


def write_report(tested: Tested, out: Path, rankings: Rankings, *, about: dict[str, str]) -> Path:
    """Write report.html and its pictures, in the folder pictures beside it.

    An earlier report in the folder and its pictures are removed first.

    Args:
        tested: the outcome of the test.
        out: an existing folder.
        rankings: matches of each query.
        about: further lines of the table of settings by their names.

    Returns:
        The path of the page.

    Raises:
        ImportError: a package is not installed.
    """
    template = _template()
    (out / PAGE).unlink(missing_ok=True)  # otherwise a page without its pictures is left if drawing fails
    forget_pictures(out / FOLDER)
    options, verification = tested.options, tested.verification
    chosen = None if verification is None else verification.at_false_accept_rate(options.false_accept)
    pictures: dict[str, Any] | None = None
    if options.pictures:
        drawing = Drawing(tested, rankings, out / FOLDER)
        worst, best = chosen_queries(tested.scores[rankings.protocol].average_precisions, options.pictures)
        linked = [*worst[:_LINKED], *best[:1]]
        pictures = {
            "curves": drawing.curves(verification, chosen),
            "overview": drawing.overview(),
            "worst": [drawing.ranked(query, f"worst-{n:02}") for n, query in enumerate(worst, 1)],
            "best": [drawing.ranked(query, f"best-{n:02}") for n, query in enumerate(best, 1)],
            "links": {drawing.outcome(query): drawing.links(query, n) for n, query in enumerate(linked, 1)},
        }
    html = template.render(
        about={name: printable(value) for name, value in {**about, **_settings(tested)}.items()},
        notes=[printable(note) for note in tested.notes],
        not_read=len(tested.not_read),
        ranks=RANKS,
        scores=tested.scores,
        protocol=rankings.protocol,
        reranked=options.rerank,
        verification=None if verification is None or chosen is None else _verification(verification, chosen, tested),
        open_set=_open_set(tested),
        pictures=pictures,
    )
    write_text(out / PAGE, html)
    return out / PAGE


def _template() -> Any:
    jinja2 = require("jinja2", extra="view")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((files("torch_nonlocal.tasks.reid") / "report.html.j2").read_text("utf-8"))


def chosen_queries(average_precisions_Q: Any, worst: int) -> tuple[list[int], list[int]]:
    """The queries with the lowest average precisions, and at most three others with the highest ones.

    Args:
        average_precisions_Q: NaN for queries that were not scored.
        worst: number of queries with the lowest ones.
    """
    scored = np.flatnonzero(np.isfinite(average_precisions_Q))
    order = scored[np.argsort(average_precisions_Q[scored], kind="stable")].tolist()
    rest = order[worst:]
    return order[:worst], sorted(rest, key=lambda query: -average_precisions_Q[query])[: min(_BEST, worst)]


def _settings(tested: Tested) -> dict[str, str]:
    options, settings = tested.options, tested.model.settings
    queries, gallery = len(tested.ranked.query_at), len(tested.ranked.gallery_at)
    places = list(blocks(tested.model.network))
    blocks_text = f"{counted(len(places), 'block')} at {listed(places)}" if places else "no blocks"
    return {
        "network": f"{settings.network}, {blocks_text}, embeddings of {tested.model.dimension} values",
        "clips": f"{settings.frames} at {settings.height} x {settings.width} pixels, "
        f"{counted(options.views, 'clip')} per tracklet",
        "distance": f"{options.distance}{', k-reciprocal re-ranking' if options.rerank else ''}",
        "tracklets": f"{counted(queries, 'query', 'queries')}, gallery of {gallery:,}",
    }


def _verification(scores: VerificationScores, chosen: OperatingPoint, tested: Tested) -> dict[str, Any]:
    metric, asked = tested.options.distance, tested.options.false_accept

    def row(rate: float) -> dict[str, str]:
        point = scores.at_false_accept_rate(rate)
        return {
            "rate": f"{rate:g}",
            "threshold": threshold_text(point.threshold, metric),
            "far": f"{point.false_rate:.4f}",
            "tar": f"{point.true_rate:.4f}",
        }

    return {
        "rows": [row(rate) for rate in sorted({*RATES, asked}, reverse=True)],
        "asked": f"{asked:g}",
        "area": f"{scores.area:.4f}",
        "equal": f"{scores.equal_error_rate:.4f}",
        "equal_threshold": threshold_text(scores.equal_error_threshold, metric),
        "threshold": threshold_text(chosen.threshold, metric),
        "accepts": bool(np.isfinite(chosen.threshold)),
        "far": f"{chosen.false_rate:.2%}",
        "tar": f"{chosen.true_rate:.2%}",
        "same": f"{scores.same_pairs:,}",
        "different": f"{scores.different_pairs:,}",
    }


def _open_set(tested: Tested) -> dict[str, str] | None:
    if tested.open_set is None:
        return None
    point = tested.open_set.at_false_positive_rate(tested.options.false_accept)
    return {
        "asked": f"{tested.options.false_accept:g}",
        "threshold": threshold_text(point.threshold, tested.options.distance),
        "found": f"{point.true_rate:.2%}",
        "known": f"{tested.open_set.known:,}",
        "wrong": f"{point.false_rate:.2%}",
        "unknown": f"{tested.open_set.unknown:,}",
    }


def threshold_text(distance: float, metric: str) -> str:
    """A threshold of a distance, as users compare with it: a similarity for the cosine distance."""
    if not np.isfinite(distance):
        return "none: no pair is accepted"
    return f"similarity \u2265 {1 - distance:.4f}" if metric == "cosine" else f"distance \u2264 {distance:.4f}"
