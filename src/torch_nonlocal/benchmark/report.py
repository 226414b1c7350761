"""The comparison as Markdown, JSON and a log-log plot."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from torch_nonlocal._common import files
from torch_nonlocal._common.optional import require
from torch_nonlocal._version import __version__
from torch_nonlocal.benchmark.table import Row

HEADER = (
    "form",
    "N",
    "D",
    "contender",
    "forward s",
    "forward + backward s",
    "times ours",
    "extra MB",
    "of matrix rate",
)


def machine() -> str:
    """Describe the machine: processor, cores, threads, instruction set, versions and dtype."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, torch-nonlocal {__version__}, float32"
    )


def cells_of(row: Row, ours: Row | None) -> list[str]:
    """Return the cells of a table row.

    Args:
        row: the row.
        ours: the row of this library in the same cell, for the ratio.
    """
    times = ours.training if ours else None
    ratio = f"{row.training / times:.2f}" if row.training and times else ""
    share = f"{row.share:.2f}" if row.share is not None else ""
    measured = [
        f"{row.forward:.4f}" if row.forward is not None else row.note,
        f"{row.training:.4f}" if row.training is not None else "",
        ratio,
        f"{row.extra_bytes / 2**20:,.0f}" if row.extra_bytes is not None else "",
        share,
    ]
    form = row.cell.form.replace("_", " ") + (", whole block" if row.cell.whole_block else "")
    return [form, f"{row.cell.positions:,}", str(row.cell.width), row.contender, *measured]


def markdown(groups: Sequence[Sequence[Row]]) -> str:
    """Return the table of all rows as Markdown, with the machine and the meaning of the columns."""
    lines = [
        f"Machine: {machine()}. Times are medians of interleaved runs: compare within a form, N and D.",
        "Extra MB: peak memory of forward + backward above the inputs, in a fresh process. Of matrix rate: "
        "FLOPs of the definition, 12 N^2 D, per second, as a share of the rate of matrix products in the same run.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
    ]
    for rows in groups:
        ours = next((row for row in rows if row.contender == "ours"), None)
        lines += ["| " + " | ".join(cells_of(row, ours)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write_json(groups: Sequence[Sequence[Row]], path: Path) -> None:
    """Write all rows and the machine as JSON."""
    content = {"machine": machine(), "rows": [row.as_dict() for rows in groups for row in rows]}
    files.write_json(path, content, indent=1)


def plot(groups: Sequence[Sequence[Row]], path: Path, *, width: int = 256) -> None:
    """Plot time and memory of the operations of one width against N, with logarithmic axes.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    require("matplotlib").use("Agg")
    plt = require("matplotlib.pyplot")

    series: dict[tuple[str, str], list[Row]] = {}
    for row in (row for rows in groups for row in rows):
        if row.training is not None and not row.cell.whole_block and row.cell.width == width:
            series.setdefault((row.cell.form, row.contender), []).append(row)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    colors = dict(
        zip(("embedded_gaussian", "dot_product", "concatenation"), ("#0072B2", "#009E73", "#D55E00"), strict=True)
    )
    lines = {"ours": "-", "dense": "--", "SDPA": ":"}
    for (form, contender), rows in series.items():
        if form in colors:
            label = f"{form.replace('_', ' ')}: {contender}"
            style: dict[str, Any] = {
                "color": colors[form],
                "linestyle": lines[contender],
                "marker": "o",
                "label": label,
            }
            positions = [row.cell.positions for row in rows]
            axes[0].loglog(positions, [row.training for row in rows], **style)
            if all(row.extra_bytes for row in rows):
                axes[1].loglog(positions, [row.extra_bytes / 2**20 for row in rows if row.extra_bytes], **style)
    for axis, label in zip(axes, ("seconds, forward + backward", "peak extra memory, MB"), strict=True):
        axis.set_xlabel("positions N")
        axis.set_ylabel(label)
        axis.grid(True, which="major", alpha=0.3)
    if axes[0].has_data():
        axes[0].legend(fontsize=8)
    figure.suptitle(
        f"One non-local operation, D = {width}: {machine().split(',')[0]}, {os.cpu_count()} cores", fontsize=10
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
