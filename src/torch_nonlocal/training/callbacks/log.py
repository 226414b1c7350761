"""The log of a run: metrics.jsonl, TensorBoard curves, and a progress bar or lines of text."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch_nonlocal._common import files
from torch_nonlocal._common.optional import missing
from torch_nonlocal._common.progress import ProgressBar
from torch_nonlocal._common.terminal import print_lines

PrintLine = Callable[[str], None]
_HIDDEN = ("gradient_norm", "waiting_for_data", "seconds")  # in the files only
_EVALUATION = ("validation", "eval", "test")  # former versions wrote "eval" and "test"


class Log:
    """Context that logs a run; silent in all processes but the main one.

    Args:
        metrics: path of metrics.jsonl. Lines of steps or evaluations that the run will repeat are removed from it.
        board: folder of the TensorBoard files; steps to repeat are marked as outdated there.
        steps: steps of the whole run.
        step: steps done.
        evaluated: steps done at the last evaluation.
        print_line: called with each message, one line; None shows a progress bar in a terminal (with rich) and prints
            to stderr elsewhere.
        silent: write nothing.
    """

    def __init__(
        self,
        metrics: Path,
        board: Path,
        *,
        steps: int,
        step: int,
        evaluated: int,
        print_line: PrintLine | None,
        silent: bool,
    ) -> None:
        self._steps, self._silent = steps, silent
        self._bar: ProgressBar | None = None
        self._started, self._first_step = time.monotonic(), step
        if silent:
            return
        self._board = _board_writer(board, step)
        _drop_repeated(metrics, step, evaluated)
        self._file = metrics.open("a")
        self._print = print_line or (lambda text: print_lines(text, file=sys.stderr))
        if print_line is None and sys.stderr.isatty():
            bar = ProgressBar("train", steps, done=step, values=("loss",))
            if bar.visible:
                bar.start()
                self._bar = bar
        if self._board is None:
            self.message(f"no TensorBoard curves; {missing(['tensorboard'])}")

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._silent:
            return
        if self._bar is not None:
            self._bar.stop()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def message(self, text: str) -> None:
        """Print a message."""
        if not self._silent:
            (self._bar.print if self._bar is not None else self._print)(text)

    def stepped(self, step: int, loss: float) -> None:
        """Show that a step is done."""
        if self._bar is not None:
            self._bar.update(step, loss=loss)

    def train(self, step: int, values: Mapping[str, float]) -> None:
        """Log means over the steps since the last call, after `step` steps."""
        self._write("train", step, values)
        if not self._silent and self._bar is None:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in _HIDDEN)
            self._print(f"{step:,}/{self._steps:,}  {shown}  {self._left(step)} left")

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of an evaluation after `step` steps."""
        self._write("validation", step, values)
        shown = [f"{name} {value:.4g}" for name, value in values.items() if not name.startswith("attention/")]
        if shown:
            self.message(f"validation after {step:,} steps: {'  '.join(shown)}")

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if self._silent:
            return
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        if self._board is None:
            return
        for name, value in values.items():
            self._board.add_scalar(name if "/" in name else f"{kind}/{name}", value, step)
        if kind == "validation":
            self._board.flush()

    def _left(self, step: int) -> str:
        done = step - self._first_step
        seconds = (time.monotonic() - self._started) / max(done, 1) * (self._steps - step)
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _drop_repeated(metrics: Path, step: int, evaluated: int) -> None:
    """Keep the lines of what is saved: a killed run may have written more, the last line possibly incomplete."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text().splitlines():
        try:
            found = json.loads(line)
            is_saved = found["step"] <= (evaluated if found["kind"] in _EVALUATION else step)
        except (ValueError, KeyError, TypeError):
            continue
        if is_saved:
            kept.append(line + "\n")
    text = "".join(kept).encode()
    files.write_bytes(metrics, lambda file: file.write(text))


def _board_writer(board: Path, step: int) -> Any:
    """A TensorBoard writer that hides the curves beyond `step`; None if TensorBoard is not installed.

    torch's SummaryWriter is used directly and not as an accelerate tracker: trackers are managed by an Accelerator,
    which this loop does not use, and flush to disk after every line.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(board), purge_step=step + 1 if step else None, flush_secs=20)
