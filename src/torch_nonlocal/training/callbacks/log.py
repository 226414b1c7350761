"""The log of a run: metrics.jsonl, TensorBoard curves, and a progress bar or lines of text."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from torch_nonlocal._common import files
from torch_nonlocal._common.heartbeat import FIRST, Heartbeat, duration
from torch_nonlocal._common.optional import missing
from torch_nonlocal._common.progress import ProgressBar
from torch_nonlocal._common.terminal import print_errors

PrintLine = Callable[[str], None]
_HIDDEN = ("gradient_norm", "waiting_for_data", "seconds")  # in the files only
_RATE = "items/s"  # beside the bar
_SOON = 5.0  # seconds after which the first step that ends is reported at once
_EVALUATION = ("validation", "eval", "test")  # former versions wrote "eval" and "test"


class Log:
    """Context that logs a run; silent in all processes but the main one.

    Args:
        metrics: path of metrics.jsonl. Lines of steps or evaluations that the run will repeat are removed from it.
        board: folder of the TensorBoard files; steps to repeat are marked as outdated there.
        steps: steps of the whole run.
        step: steps done.
        evaluated: steps done at the last evaluation.
        batch_size: items per step.
        print_line: called with each message, one line, also from another thread; None shows a progress bar in a
            terminal (with rich) and prints to stderr elsewhere. Without a bar, what is in progress is printed whenever
            no line was printed for a while.
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
        batch_size: int,
        print_line: PrintLine | None,
        silent: bool,
    ) -> None:
        self._steps, self._silent = steps, silent
        self._bar: ProgressBar | None = None
        self._batch_size = batch_size
        self._started, self._first_step = time.monotonic(), step
        self._step, self._loss, self._seconds = step, 0.0, 0.0
        self._doing, self._since = "starting", self._started
        self._is_step_shown = False
        if silent:
            return
        self._board = _board_writer(board, step)
        _drop_repeated(metrics, step, evaluated)
        self._file = metrics.open("a")
        self._heartbeat = Heartbeat(self._progress_line, print_line or print_errors)
        if print_line is None and sys.stderr.isatty():
            bar = ProgressBar("train", steps, done=step, values=("loss", _RATE))
            if bar.visible:
                bar.start()
                self._bar = bar
        if self._board is None:
            self.message(f"no TensorBoard curves; {missing(['tensorboard'])}")

    def __enter__(self) -> "Log":
        if not self._silent and self._bar is None:
            self._heartbeat.__enter__()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._silent:
            return
        if self._bar is not None:
            self._bar.stop()
        else:
            self._heartbeat.__exit__()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def message(self, text: str) -> None:
        """Print a message."""
        if self._silent:
            return
        if self._bar is not None:
            self._bar.print(text)
        else:
            self._heartbeat.print(text, progress=False)

    def doing(self, what: str) -> None:
        """Note what is in progress from now on, such as "waiting for data"."""
        self._doing, self._since = what, time.monotonic()

    def stepped(self, step: int, loss: float, seconds: float) -> None:
        """Show that a step is done, which took these seconds."""
        self._step, self._loss, self._seconds = step, loss, self._seconds + seconds
        self.doing("finishing the step")
        if self._silent:
            return
        if self._bar is not None:
            values: dict[str, Any] = {"loss": loss, _RATE: self._rate()}
            self._bar.update(step, **values)
        elif not self._is_step_shown and time.monotonic() - self._started >= _SOON:
            self._heartbeat.print(self._progress_line())

    def train(self, step: int, values: Mapping[str, float]) -> None:
        """Log means over the steps since the last call, after `step` steps."""
        self._write("train", step, values)
        if not self._silent and self._bar is None:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in _HIDDEN)
            self._heartbeat.print(self._line(step, shown))

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of an evaluation after `step` steps."""
        self._write("validation", step, values)
        shown = [f"{name} {value:.4g}" for name, value in values.items() if not name.startswith("attention/")]
        if shown:
            self.message(f"validation after {step:,} steps: {'  '.join(shown)}")

    @property
    def has_board(self) -> bool:
        """Whether this process writes TensorBoard files."""
        return not self._silent and self._board is not None

    def pictures(self, images: Mapping[str, Tensor]) -> None:
        """Add pictures, (H, W, 3) uint8 by tag, after the last step, to TensorBoard."""
        if self.has_board:
            for name, image in images.items():
                self._board.add_image(name, image, self._step, dataformats="HWC")
            self._board.flush()

    def hyperparameters(self, values: Mapping[str, Any], best: Mapping[str, Any] | None) -> None:
        """Add the hyperparameters of a finished run and its best metric to TensorBoard; only numbers and text."""
        if self.has_board and best is not None:
            plain = {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}
            self._board.add_hparams(plain, {f"best/{best['metric']}": best["value"]}, run_name=".")

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

    def _progress_line(self) -> str:
        """How far the run is, and what is in progress if that takes long."""
        shown = f"loss {self._loss:.4g}  items_per_second {self._rate():.4g}" if self._step > self._first_step else ""
        line, seconds = self._line(self._step, shown), time.monotonic() - self._since
        return f"{line}  {self._doing} for {seconds:.0f} s" if seconds >= FIRST else line

    def _line(self, step: int, shown: str) -> str:
        """The line of a step; without values before the first step."""
        done = step - self._first_step
        if not done:
            return f"{step:,}/{self._steps:,}"
        self._is_step_shown = True
        seconds = (time.monotonic() - self._started) / done * (self._steps - step)
        return f"{step:,}/{self._steps:,}  {shown}  {duration(seconds)} left"

    def _rate(self) -> float:
        """Items per second in the steps of this start."""
        return self._batch_size * (self._step - self._first_step) / max(self._seconds, 1e-9)


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
