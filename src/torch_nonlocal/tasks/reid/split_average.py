"""Averages over random splits, such as the ten of iLIDS-VID and PRID2011, with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from torch_nonlocal.tasks.reid.labels import Array
from torch_nonlocal.tasks.reid.metrics import Protocol, RetrievalScores

_NOT_AVERAGED = ("protocol", "scored", "skipped")


class Spread(NamedTuple):
    """Mean and spread of a metric.

    Attributes:
        mean: mean over the splits.
        deviation: sample standard deviation, divided by the number of splits - 1; None for a single split.
    """

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        """In percent, such as "85.3 ± 1.2"."""
        text = f"{100 * self.mean:.1f}"
        return text if self.deviation is None else f"{text} ± {100 * self.deviation:.1f}"


@dataclass(frozen=True, eq=False)
class SplitAverage:
    """Retrieval metrics averaged over splits.

    Attributes:
        protocol: the protocol of all splits.
        splits: number of splits.
        metrics: mean and spread by name: rank1, rank5, rank10, rank20, mean_ap, mean_inp.
        cmc: mean of the curves, as long as the longest; shorter ones end at a constant.
    """

    protocol: Protocol
    splits: int
    metrics: dict[str, Spread]
    cmc: Array

    def plain(self) -> dict[str, Any]:
        """The averages as JSON values, such as {"mean_ap": 0.5, "mean_ap_deviation": 0.02}."""
        values: dict[str, Any] = {"protocol": self.protocol, "splits": self.splits}
        for name, (mean, deviation) in self.metrics.items():
            values |= {name: mean, f"{name}_deviation": deviation}
        return values


def average_splits(results: Sequence[RetrievalScores]) -> SplitAverage:
    """Mean and sample standard deviation of each metric over splits.

    Raises:
        ValueError: there are no results, or they are of different protocols.
    """
    if not results:
        raise ValueError("there are no splits to average, expected at least one")
    protocols = {one.protocol for one in results}
    if len(protocols) > 1:
        raise ValueError("the splits have different protocols, whose numbers cannot be averaged")
    rows = [one.plain() for one in results]
    metrics = {name: spread([row[name] for row in rows]) for name in rows[0] if name not in _NOT_AVERAGED}
    longest = max(len(one.cmc) for one in results)
    cmc = np.mean([np.pad(one.cmc, (0, longest - len(one.cmc)), mode="edge") for one in results], axis=0)
    return SplitAverage(results[0].protocol, len(results), metrics, cmc)


def spread(values: Iterable[float]) -> Spread:
    """Mean and sample standard deviation of at least one value.

    Raises:
        ValueError: there are no values.
    """
    numbers = list(values)
    if not numbers:
        raise ValueError("there are no values to average, expected at least one")
    return Spread(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None)
