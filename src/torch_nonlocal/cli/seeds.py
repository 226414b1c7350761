"""Training with several seeds: one run each, and the mean and the spread of their best metrics."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch_nonlocal._common.files import write_json

if TYPE_CHECKING:
    from torch_nonlocal.training import Result

SUMMARY = "seeds.json"
"""File in the folder of the runs: the metric of each run, their mean, standard deviation, minimum and maximum."""


class SeedRun(NamedTuple):
    """A run of one seed."""

    seed: int
    folder: Path
    result: "Result"


def seed_folders(out: Path, first: int, count: int) -> dict[int, Path]:
    """The folder of each seed's run; none for a single run, whose folder is `out`.

    Raises:
        ValueError: `count` is below 1, or `out` is the folder of a single run, or of several for a single one.
    """
    if count < 1:
        raise ValueError(f"--seeds {count}: expected 1 or more runs")
    if count == 1:
        if any(out.glob("seed-*/config.json")):
            raise ValueError(f"{out} holds the runs of several seeds: expected --seeds, or another folder: --out")
        return {}
    if (out / "config.json").exists():
        raise ValueError(f"--seeds {count}: {out} holds a single run; expected another folder: --out")
    return {seed: out / f"seed-{seed}" for seed in range(first, first + count)}


def check_comparable(folders: dict[int, Path], has_metric: Callable[[], bool]) -> None:
    """Check before the first run that the runs will have a metric; not when they resume.

    Raises:
        ValueError: they will have none.
    """
    if not folders or any((folder / "config.json").exists() for folder in folders.values()):
        return
    if not has_metric():
        raise ValueError(
            f"--seeds {len(folders)}: no validation data, so the runs have no metric to compare; expected validation "
            "data, such as --val FOLDER, or a single run"
        )


def train_seeds(folders: dict[int, Path], train: Callable[[int, Path], "Result"], *, compared: bool) -> list[SeedRun]:
    """Train with each seed in turn; finished runs are not changed. An interrupted run is the last of the list.

    Args:
        folders: of the runs by seed.
        train: trains with a seed in a folder.
        compared: whether the metrics of the runs are to be compared.

    Raises:
        ValueError: a run has no metric that can be compared.
    """
    runs = []
    for seed, folder in folders.items():
        result = train(seed, folder)
        runs.append(SeedRun(seed, folder, result))
        if result.status == "stopped":
            break
        if not compared:
            continue
        if not has_metric(result):
            raise ValueError(f"--seeds: the run in {folder} has no metric to compare; expected validation data")
    return runs


def has_metric(result: "Result") -> bool:
    """Whether a run was evaluated by a metric."""
    return result.best is not None and result.best["metric"] != "step"


def summary(runs: Sequence[SeedRun]) -> dict[str, Any]:
    """The metric of each run, and their mean, standard deviation (of a sample), minimum and maximum, as JSON values."""
    bests: list[Any] = [run.result.best for run in runs]
    values = [best["value"] for best in bests]
    rows = [
        {"seed": run.seed, "folder": run.folder.name, "value": best["value"], "step": best["step"]}
        for run, best in zip(runs, bests, strict=True)
    ]
    return {
        "metric": bests[0]["metric"],
        "runs": rows,
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
        "min": min(values),
        "max": max(values),
    }


def write_summary(out: Path, runs: Sequence[SeedRun]) -> list[str]:
    """Write `SUMMARY`; returns the lines of a table."""
    found = summary(runs)
    write_json(out / SUMMARY, found, indent=1)
    metric = found["metric"]
    lines = [f"{'seed':>6}  {metric:>12}  {'after step':>10}"]
    lines += [f"{row['seed']:>6}  {row['value']:>12.4f}  {row['step']:>10,}" for row in found["runs"]]
    spread = f"standard deviation {found['std']:.4f}, {found['min']:.4f} to {found['max']:.4f}"
    return [*lines, f"{'mean':>6}  {found['mean']:>12.4f}  {spread}", f"metrics of all seeds: {out / SUMMARY}"]
