"""`nonlocal bench`: time and memory, side by side."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from torch_nonlocal.benchmark import report
from torch_nonlocal.benchmark.table import Row, cells, run_cell


def bench(
    *,
    quick: bool = False,
    out: Path = Path("bench-out"),
    json: Path | None = None,
    repeats: int = 5,
    forms: tuple[str, ...] = (),
) -> None:
    """Time and memory of this library, the definition, PyTorch's attention, mmcv and timm, in one run.

    Contenders take turns; medians count; peak memory is that of a fresh process. A contender that is not installed or
    cannot run a size says so in its row. Writes benchmark.md, benchmark.json and benchmark.png.

    Example: nonlocal bench --quick

    Args:
        quick: a two-minute subset.
        out: folder for the table and the plot; made if missing.
        json: write the figures to this file, too.
        repeats: timed repeats of each contender.
        forms: only these pairwise forms, such as embedded_gaussian.
    """
    chosen = [cell for cell in cells(quick=quick) if not forms or cell.form in forms]
    if not chosen or repeats < 1:
        raise ValueError(f"--forms {' '.join(forms)} --repeats {repeats}: nothing to measure")
    out.mkdir(parents=True, exist_ok=True)
    console, groups = Console(), []
    with Progress(
        TextColumn("{task.description:<38}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        task = progress.add_task("", total=len(chosen))
        for cell in chosen:
            progress.update(task, description=f"{cell.form} N={cell.positions:,} D={cell.width}")
            groups.append(run_cell(cell, repeats=min(repeats, 2) if quick else repeats))
            progress.advance(task)
            _write(groups, out, json)  # what is measured is kept if the run is stopped
    console.print(_table(groups))
    console.print(f"{report.machine()}\ntable, figures and plot are in {out}/", highlight=False)


def _write(groups: list[list[Row]], out: Path, json: Path | None) -> None:
    (out / "benchmark.md").write_text(report.markdown(groups))
    for path in (out / "benchmark.json", json):
        if path is not None:
            report.write_json(groups, path)
    report.plot(groups, out / "benchmark.png")


def _table(groups: list[list[Row]]) -> Table:
    table = Table(*report.HEADER)
    for rows in groups:
        ours = next((row for row in rows if row.contender == "ours"), None)
        for row in rows:
            table.add_row(*report.cells_of(row, ours), end_section=row is rows[-1])
    return table
