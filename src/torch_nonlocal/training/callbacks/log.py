"""The log of a run: metrics.jsonl, TensorBoard curves, and a bar or lines for who is watching."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch_nonlocal._common import files

Say = Callable[[str], None]


class Log:
    """Open while a run goes on; in all but the main process, silent.

    Args:
        metrics: the metrics.jsonl file. Lines of updates or tests that the run will do again are removed from it.
        board: folder of the TensorBoard files; what is to be done again is marked as outdated there.
        steps: updates of the whole run.
        step: updates done.
        tested: updates done at the last test.
        say: gets messages, one line each; None for a progress bar on a terminal (with rich) and lines elsewhere.
        silent: write nothing.

    Raises:
        ImportError: TensorBoard is missing.
    """

    def __init__(
        self, metrics: Path, board: Path, *, steps: int, step: int, tested: int, say: Say | None, silent: bool
    ) -> None:
        self._steps, self._silent = steps, silent
        self._bar: Any = None
        self._started, self._first_step = time.monotonic(), step
        if silent:
            return
        self._board = board_writer()(str(board), purge_step=step + 1 if step else None, flush_secs=20)
        _forget_after(metrics, step, tested)
        self._file = metrics.open("a")
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        if say is None and sys.stderr.isatty():
            self._bar = _Bar.if_possible(steps, step)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._silent:
            return
        if self._bar is not None:
            self._bar.close()
        self._file.close()
        self._board.close()

    def say(self, text: str) -> None:
        """A message for people."""
        if not self._silent:
            (self._bar.say if self._bar is not None else self._say)(text)

    def moved(self, step: int, loss: float) -> None:
        """An update is done."""
        if self._bar is not None:
            self._bar.move(step, loss)

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Means since the last call, after `step` updates."""
        self._write("train", step, values)
        if not self._silent and self._bar is None:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name in _SHOWN)
            self._say(f"{step:,}/{self._steps:,}  {shown}  {self._left(step)} left")

    def test(self, step: int, values: Mapping[str, float]) -> None:
        """Results of a test after `step` updates."""
        self._write("test", step, values)
        shown = [f"{name} {value:.4g}" for name, value in values.items() if not name.startswith("attention/")]
        if shown:
            self.say(f"test after {step:,} updates: {'  '.join(shown)}")

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if self._silent:
            return
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name if "/" in name else f"{kind}/{name}", value, step)
        if kind == "test":
            self._board.flush()

    def _left(self, step: int) -> str:
        done = step - self._first_step
        seconds = (time.monotonic() - self._started) / max(done, 1) * (self._steps - step)
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


_SHOWN = ("epoch", "loss", "accuracy", "lr", "clips_per_second")


class _Bar:
    """A progress bar with loss and time to go."""

    def __init__(self, progress: Any, steps: int, step: int) -> None:
        self._progress = progress
        self._progress.start()
        self._task = progress.add_task("train", total=steps, completed=step, loss=float("nan"))

    @classmethod
    def if_possible(cls, steps: int, step: int) -> "_Bar | None":
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        except ImportError:
            return None
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"), TimeRemainingColumn())
        return cls(Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True)), steps, step)

    def move(self, step: int, loss: float) -> None:
        self._progress.update(self._task, completed=step, loss=loss)

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self._progress.stop()


def _forget_after(metrics: Path, step: int, tested: int) -> None:
    """Keep the lines of what is done for good: a killed run may have written more, the last line perhaps in part."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text().splitlines():
        try:
            found = json.loads(line)
            good = found["step"] <= (tested if found["kind"] == "test" else step)
        except (ValueError, KeyError, TypeError):
            continue
        if good:
            kept.append(line + "\n")
    text = "".join(kept).encode()
    files.write_bytes(metrics, lambda file: file.write(text))


def board_writer() -> Any:
    """torch's SummaryWriter.

    Raises:
        ImportError: TensorBoard is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("training writes curves for TensorBoard: pip install 'torch-nonlocal[train]'") from error
    return SummaryWriter
