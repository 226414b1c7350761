"""Curves of a test: CMC, ROC, and the distances of pairs of the same and of different identities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from torch_nonlocal._common.optional import require
from torch_nonlocal.tasks.reid.distances import Metric
from torch_nonlocal.tasks.reid.labels import Array
from torch_nonlocal.tasks.reid.metrics import RetrievalScores
from torch_nonlocal.tasks.reid.verification import OperatingPoint, VerificationScores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, INK, PALE = "#0072b2", "#d55e00", "#1a1a1a", "#8a8a8a"
SIZE = (5.6, 4.2)
"""Width and height of a figure in inches."""

_RANKS, _BINS = 20, 50


def cmc_picture(scores: Mapping[Any, RetrievalScores]) -> Figure:
    """The CMC up to rank 20, one line for each protocol.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = _axes("cumulative matching characteristic (CMC)")
    ranks = np.arange(1, _RANKS + 1)
    styles = ((BLUE, "-", "o"), (ORANGE, "--", "s"))
    for (name, one), (color, line, marker) in zip(scores.items(), styles, strict=False):
        label = f"{name}: rank 1 {one.rank(1):.3f}, mAP {one.mean_ap:.3f}"
        axes.plot(ranks, one.cmc[:_RANKS], line, color=color, marker=marker, markersize=4, label=label)
    lowest = min(one.rank(1) for one in scores.values())
    axes.set(xlabel="rank", ylabel="queries with a match up to this rank", xlim=(0.5, _RANKS + 0.5))
    axes.set_ylim(max(np.floor(10 * lowest - 0.5) / 10, 0), 1.01)
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.legend()
    return figure


def roc_picture(scores: VerificationScores, chosen: OperatingPoint) -> Figure:
    """The ROC with a logarithmic axis of false-accept rates, the chosen threshold and the equal error rate marked.

    Args:
        scores: verification scores.
        chosen: the point of the chosen threshold.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = _axes("verification (ROC)")
    least = min(10 ** np.floor(np.log10(1 / scores.different_pairs)), 0.1)
    far, tar = scores.false_accept_rates, scores.true_accept_rates
    kept = _corners(far, tar)
    axes.plot(far[kept].clip(least), tar[kept], color=BLUE, drawstyle="steps-post", label=f"area {scores.area:.4f}")
    chance = np.geomspace(least, 1, 100)
    axes.plot(chance, chance, ":", color=PALE, label="chance")
    rate = scores.equal_error_rate
    marks: dict[str, Any] = {"linestyle": "none", "clip_on": False, "zorder": 3}  # also on the border
    equal = f"equal error rate {rate:.4f}"
    axes.plot(max(rate, least), 1 - rate, marker="D", color=INK, markersize=6, label=equal, **marks)
    label = f"chosen: false accepts {chosen.false_rate:.4f}, true accepts {chosen.true_rate:.4f}"
    axes.plot(
        max(chosen.false_rate, least), chosen.true_rate, marker="o", color=ORANGE, markersize=8, label=label, **marks
    )
    axes.set_xscale("log")
    axes.set(xlabel="false-accept rate", ylabel="true-accept rate", xlim=(least, 1), ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)  # a curve may be anywhere in the axes
    return figure


def pairs_picture(scores: VerificationScores, chosen: OperatingPoint, metric: Metric) -> Figure:
    """Histograms of the similarities (or Euclidean distances) of same and different pairs, with the threshold.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = _axes("pairs of tracklets")
    edges, same, different = pair_shares(scores, _BINS)
    is_cosine = metric == "cosine"
    places = 1 - edges if is_cosine else edges
    for shares, color, line, name in ((different, ORANGE, "--", "different"), (same, BLUE, "-", "same")):
        axes.stairs(shares, places, color=color, fill=True, alpha=0.25)
        number = scores.same_pairs if name == "same" else scores.different_pairs
        axes.stairs(shares, places, color=color, linestyle=line, linewidth=1.6, label=f"{name} identity: {number:,}")
    if np.isfinite(chosen.threshold):
        at = 1 - chosen.threshold if is_cosine else chosen.threshold
        axes.axvline(at, color=INK, linewidth=1.2, linestyle="-.", label=f"threshold {at:.3f}")
    axes.set(xlabel="cosine similarity" if is_cosine else "Euclidean distance", ylabel="share of the pairs")
    axes.set_ylim(0)
    axes.legend()
    return figure


def pair_shares(scores: VerificationScores, bins: int) -> tuple[Array, Array, Array]:
    """Histograms of distances, from the rates of accepted pairs.

    Args:
        scores: verification scores.
        bins: number of bins.

    Returns:
        Edges (bins + 1,) from the smallest to the largest threshold, and the shares (bins,) of the same and of the
        different pairs in (edge, next edge]; the first bin includes its left edge.
    """
    thresholds = scores.thresholds[1:]
    edges = np.linspace(thresholds[0], thresholds[-1], bins + 1)
    edges[-1] = thresholds[-1]
    until = np.searchsorted(thresholds, edges, "right")
    until[0] = 0
    return edges, np.diff(scores.true_accept_rates[until]), np.diff(scores.false_accept_rates[until])


def _corners(far: Array, tar: Array) -> Array:
    """Points of a ROC where it turns; the others lie on its horizontal and vertical lines."""
    flat = (np.diff(tar, prepend=-1) == 0) & (np.diff(tar, append=2) == 0)
    steep = (np.diff(far, prepend=-1) == 0) & (np.diff(far, append=2) == 0)
    return np.flatnonzero(~(flat | steep))


def _axes(title: str) -> tuple[Any, Any]:
    figure = require("matplotlib.figure", extra="view").Figure(figsize=SIZE, layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes
