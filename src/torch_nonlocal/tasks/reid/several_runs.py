"""Test of the runs of several seeds or splits: each by itself, then mean and spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch_nonlocal._common.files import check_folder, write_json
from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.tasks.reid.metrics import LEAST_CMC, PROTOCOLS, Protocol, RetrievalScores
from torch_nonlocal.tasks.reid.results import TITLES, run_test
from torch_nonlocal.tasks.reid.settings import ReidTestOptions
from torch_nonlocal.tasks.reid.split_average import SplitAverage, average_splits

SUMMARY = "average.json"
"""File with the metrics of each run, their mean and sample standard deviation, and the mean CMC by protocol."""


def run_tests(
    weights: Path,
    data: Path | None,
    out: Path,
    options: ReidTestOptions,
    *,
    on_progress: Callable[[int, int], None] | None,
    log: Callable[[str], None],
) -> dict[str, float]:
    """Test a run, or each run of `nonlocal train reid --seeds N`; see `results.run_test`.

    A run is tested on the random split of the data that it was trained on. Of several runs, results are written to
    OUT/seed-0, OUT/seed-1 and so on.

    Args:
        weights: best.pt of a run, the folder of a run, or the folder of runs seed-0, seed-1 and so on.
        data: as for `run_test`.
        out: folder for the results.
        options: options of the test.
        on_progress: called with the number of finished clips of the current run and their total.
        log: receives a summary of the results, one line at a time.

    Returns:
        The metrics, "mAP_common", "rank1_common" and so on; means, if there are several runs.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `run_test`.
    """
    runs, untrained = runs_below(weights)
    if not runs:
        return _metrics(run_test(weights, data, out, options, on_progress=on_progress, log=log))
    check_folder(out)
    found: dict[str, Mapping[Protocol, RetrievalScores]] = {}
    for run in runs:
        log(f"{run.name}:")
        found[run.name] = run_test(run, data, out / run.name, options, on_progress=on_progress, log=log)
    protocols: list[Protocol] = [name for name in PROTOCOLS if all(name in one for one in found.values())]
    averages = [average_splits([one[name] for one in found.values()]) for name in protocols]
    log(f"mean and standard deviation of {counted(len(runs), 'run')}, in percent:")
    for line in _lines(averages):
        log(line)
    if untrained:
        log(f"left out, without trained weights: {listed(path.name for path in untrained)}")
    spreads = {_name(metric, one.protocol): spread for one in averages for metric, spread in one.metrics.items()}
    content = {
        "runs": {name: _metrics(one) for name, one in found.items()},
        "left_out": [path.name for path in untrained],
        "average": {name: one._asdict() for name, one in spreads.items()},
        "cmc": {one.protocol: one.cmc[:LEAST_CMC].tolist() for one in averages},
    }
    write_json(out / SUMMARY, content, indent=1)
    log(f"metrics of all runs: {out / SUMMARY}")
    return {name: one.mean for name, one in spreads.items()}


def runs_below(weights: Path) -> tuple[list[Path], list[Path]]:
    """The folders seed-0, seed-1 and so on, by number: those with trained weights, and those without.

    There are none in the folder of a single run.
    """
    if not weights.is_dir() or (weights / "checkpoints").is_dir():
        return [], []
    named = [path for path in weights.glob("seed-*") if path.is_dir() and path.name[5:].isdecimal()]
    ordered = sorted(named, key=lambda path: int(path.name[5:]))
    trained = [path for path in ordered if (path / "checkpoints" / "best.pt").is_file()]
    return trained, [path for path in ordered if path not in trained]


def _metrics(scores: Mapping[Protocol, RetrievalScores]) -> dict[str, float]:
    return {_name(metric, one.protocol): one.plain()[metric] for one in scores.values() for metric in TITLES}


def _name(metric: str, protocol: Protocol) -> str:
    return f"{TITLES[metric].replace(' ', '')}_{protocol}"


def _lines(averages: list[SplitAverage]) -> list[str]:
    """A table of the averages, one line for each protocol."""
    rows = [[str(one.metrics[name]) for name in TITLES] for one in averages]
    lines = [f"{'protocol':<10}" + "".join(f"{title:>13}" for title in TITLES.values())]
    return lines + [
        f"{one.protocol:<10}" + "".join(f"{cell:>13}" for cell in row) for one, row in zip(averages, rows, strict=True)
    ]
