"""The measurements: interleaved times in one process, peak memory in a fresh process each."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from torch_nonlocal.benchmark.contenders import BLOCKS, OPERATIONS, Cell, builds_the_map, prepare
from torch_nonlocal.benchmark.meter import measure

POSITIONS = (784, 3136, 6272, 12544, 50176, 200704)
WIDTHS = (64, 128, 256, 512)
LARGEST_MAPS = 6 * 2**30  # bytes of the about four maps that a contender with maps holds in backward
MATRIX_SIDE = 2048


@dataclass(frozen=True)
class Row:
    """The measurements of one contender in one cell.

    Attributes:
        cell: form and size.
        contender: name of the contender.
        forward: median seconds of forward, or None if the contender did not run.
        training: median seconds of forward and backward, or None.
        extra_bytes: peak memory of forward and backward above the inputs in a fresh process, or None.
        matrix_rate: FLOPs per second of matrix products in the same run.
        note: the reason why the contender did not run, or "".
    """

    cell: Cell
    contender: str
    forward: float | None = None
    training: float | None = None
    extra_bytes: int | None = None
    matrix_rate: float = 0.0
    note: str = ""

    @property
    def share(self) -> float | None:
        """FLOPs of the definition per second as a share of `matrix_rate`; None for other than softmax operations."""
        if self.training is None or self.cell.whole_block or "gaussian" not in self.cell.form:
            return None
        return self.cell.useful_flops / self.training / self.matrix_rate

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {**asdict(self), "share_of_matrix_rate": self.share}


def cells(*, quick: bool) -> list[Cell]:
    """Return the cells to measure: all forms and sizes or, if `quick`, a selection that takes about two minutes."""
    if quick:
        softmax = [Cell("embedded_gaussian", n, d) for n, d in ((784, 256), (3136, 128), (3136, 256))]
        others = [Cell(form, 3136, 256) for form in ("gaussian", "dot_product", "concatenation")]
        return [*softmax, *others, Cell("dot_product", 200704, 64), Cell("embedded_gaussian", 3136, 256, True)]
    softmax = [Cell("embedded_gaussian", n, d) for n in POSITIONS for d in WIDTHS if n * n * d <= 50176**2 * 64]
    gaussian = [Cell("gaussian", n, 256) for n in POSITIONS[:4]]
    linear = [Cell(form, n, 256) for form in ("dot_product", "concatenation") for n in POSITIONS]
    blocks = [Cell(form, n, 256, True) for form in ("embedded_gaussian", "dot_product") for n in (784, 3136, 12544)]
    return [*softmax, *gaussian, *linear, *blocks, Cell("concatenation", 784, 256, True)]


def run_cell(cell: Cell, *, repeats: int, seconds: float = 0.2, memory: bool = True) -> list[Row]:
    """Measure all contenders of a cell. They take turns within each repeat.

    Args:
        cell: form and size.
        repeats: number of timings of each contender; the median is reported.
        seconds: minimum duration of a timing: a fast contender runs several times per repeat.
        memory: measure peak memory as well.
    """
    works: dict[str, dict[bool, Callable[[], Any]]] = {}
    notes: dict[str, str] = {}
    contenders = BLOCKS if cell.whole_block else OPERATIONS
    for contender in contenders:
        needed = 4 * cell.map_bytes * (2 * cell.width if contender == "mmcv" and cell.form == "concatenation" else 1)
        if builds_the_map(contender, cell) and needed > LARGEST_MAPS:
            notes[contender] = f"not run: its N x N maps would take about {needed / 2**30:,.0f} GB"
            continue
        try:
            works[contender] = {backward: prepare(contender, cell, backward) for backward in (False, True)}
        except (ImportError, ValueError) as error:
            notes[contender] = f"not run: {error}"
        except RuntimeError as error:  # the block of another project fails in this form
            notes[contender] = f"not run: {str(error).split('.')[0][:80]}"
    times, matrix_rate = _interleaved(works, repeats, seconds)
    rows = []
    for contender in contenders:
        if contender in notes:
            rows.append(Row(cell, contender, note=notes[contender], matrix_rate=matrix_rate))
            continue
        extra = measure(prepare, contender, cell, True, repeats=0).extra_bytes if memory else None
        forward, training = (statistics.median(times[contender][backward]) for backward in (False, True))
        rows.append(Row(cell, contender, forward, training, extra, matrix_rate))
    return rows


def _interleaved(
    works: dict[str, dict[bool, Callable[[], Any]]], repeats: int, seconds: float
) -> tuple[dict[str, dict[bool, list[float]]], float]:
    times: dict[str, dict[bool, list[float]]] = {name: {False: [], True: []} for name in works}
    counts = {(name, b): _count(work, seconds) for name, pair in works.items() for b, work in pair.items()}
    rates = []
    names = list(works)
    for repeat in range(repeats):
        rates.append(_matrix_rate())
        turn = repeat % max(len(names), 1)  # rotate the order
        for name in names[turn:] + names[:turn]:
            for backward, work in works[name].items():
                times[name][backward].append(_timed(work, counts[name, backward]))
    return times, statistics.median(rates)


def _count(work: Callable[[], Any], seconds: float) -> int:
    return max(1, int(seconds / max(_timed(work, 1), 1e-6)))


def _timed(work: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - start) / count


def _matrix_rate() -> float:
    """Return the FLOPs per second of a square float32 matrix product, the best of three."""
    one = torch.randn(MATRIX_SIDE, MATRIX_SIDE)
    out = torch.empty_like(one)
    best = min(_timed(lambda: torch.mm(one, one, out=out), 1) for _ in range(3))
    return 2 * MATRIX_SIDE**3 / best


def ratios(rows: Iterable[Row]) -> dict[str, float]:
    """Return the time of each other contender of a cell divided by the time of this library, forward and backward."""
    by_name = {row.contender: row for row in rows}
    ours = by_name["ours"].training
    if ours is None:
        return {}
    return {name: row.training / ours for name, row in by_name.items() if row.training is not None and name != "ours"}
