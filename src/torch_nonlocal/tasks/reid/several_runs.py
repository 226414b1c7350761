"""Test of the runs of several seeds or splits: each by itself, then mean and spread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch_nonlocal._common.files import check_folder, write_json
from torch_nonlocal.tasks.reid.results import run_test
from torch_nonlocal.tasks.reid.settings import ReidTestOptions
from torch_nonlocal.tasks.reid.split_average import spread

SUMMARY = "average.json"
"""File with the metrics of each run, their mean and their sample standard deviation."""


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
        The metrics; means, if there are several runs.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `run_test`.
    """
    runs = runs_below(weights)
    if not runs:
        return run_test(weights, data, out, options, on_progress=on_progress, log=log)
    check_folder(out)
    found: dict[str, dict[str, float]] = {}
    for run in runs:
        log(f"{run.name}:")
        found[run.name] = run_test(run, data, out / run.name, options, on_progress=on_progress, log=log)
    names = [name for name in found[runs[0].name] if all(name in one for one in found.values())]
    spreads = {name: spread(one[name] for one in found.values()) for name in names}
    log(f"mean and standard deviation of {len(runs)} runs, in percent:")
    for name, one in spreads.items():
        log(f"  {name:<16} {one}")
    plain = {name: one._asdict() for name, one in spreads.items()}
    write_json(out / SUMMARY, {"runs": found, "average": plain}, indent=1)
    log(f"metrics of all runs: {out / SUMMARY}")
    return {name: one.mean for name, one in spreads.items()}


def runs_below(weights: Path) -> list[Path]:
    """The folders seed-0, seed-1 and so on with trained weights, by number; none in the folder of a single run."""
    if not weights.is_dir() or (weights / "checkpoints").is_dir():
        return []
    named = [path for path in weights.glob("seed-*") if (path / "checkpoints" / "best.pt").is_file()]
    return sorted(
        (path for path in named if path.name[5:].isdecimal()), key=lambda path: int(path.name.removeprefix("seed-"))
    )
