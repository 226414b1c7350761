"""`nonlocal bench`: time and memory, side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from torch_nonlocal._common.files import check_folder, check_output_file, write_text
from torch_nonlocal._common.progress import ProgressBar
from torch_nonlocal._common.terminal import terminal
from torch_nonlocal._common.text import did_you_mean
from torch_nonlocal.cli import needs

if TYPE_CHECKING:
    from torch_nonlocal.benchmark.table import Row


def bench(
    *,
    quick: bool = False,
    out: Path = Path("bench-out"),
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    repeats: int = 5,
    forms: tuple[str, ...] = (),
) -> None:
    """Compare the library's time and memory with the dense reference, PyTorch's attention, and blocks of mmcv and timm.

    Implementations are timed alternately, and medians are reported. Peak memory is measured in a fresh process. An
    implementation that is not installed or cannot run a size is listed with the reason. The command writes
    benchmark.md, benchmark.json and benchmark.png.

    Example: nonlocal bench --quick

    Args:
        quick: run a subset that takes about two minutes.
        out: output folder; created if missing.
        json: another file for the results, as JSON.
        repeats: number of timed runs of each implementation.
        forms: pairwise functions to measure, such as embedded_gaussian; all by default.
    """
    check_folder(out)
    if json is not None:
        check_output_file(json, "--json")
    needs.check("bench")
    if repeats < 1:
        raise ValueError(f"--repeats {repeats}: expected at least 1")
    from torch_nonlocal.benchmark import report
    from torch_nonlocal.benchmark.contenders import FORMS
    from torch_nonlocal.benchmark.table import cells, run_cell

    for form in forms:
        if form not in FORMS:
            raise ValueError(f"--forms {form}: {did_you_mean(form, FORMS)} forms: {', '.join(FORMS)}")
    chosen = [cell for cell in cells(quick=quick) if not forms or cell.form in forms]
    out.mkdir(parents=True, exist_ok=True)
    groups = []
    with ProgressBar("", len(chosen)) as bar:
        for done, cell in enumerate(chosen):
            bar.update(done, description=f"{cell.form} N={cell.positions:,} D={cell.width}".ljust(38))
            groups.append(run_cell(cell, repeats=min(repeats, 2) if quick else repeats))
            bar.advance()
            _write(groups, out, json)  # an interrupted run keeps what it has measured
    console = terminal()
    console.print(_table(groups))
    console.print(
        f"{report.machine()}\nThe table, the figures and the plot are in {out}/", highlight=False, markup=False
    )


def _write(groups: list[list["Row"]], out: Path, json: Path | None) -> None:
    from torch_nonlocal.benchmark import report

    write_text(out / "benchmark.md", report.markdown(groups))
    for path in (out / "benchmark.json", json):
        if path is not None:
            report.write_json(groups, path)
    report.plot(groups, out / "benchmark.png")


def _table(groups: list[list["Row"]]) -> Table:
    from torch_nonlocal.benchmark import report

    table = Table(*report.HEADER)
    for rows in groups:
        ours = next((row for row in rows if row.contender == "ours"), None)
        for row in rows:
            table.add_row(*report.cells_of(row, ours), end_section=row is rows[-1])
    return table
