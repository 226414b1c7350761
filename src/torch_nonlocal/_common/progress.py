"""A progress bar on a terminal; a line from time to time where standard error is a file or a pipe, or without rich."""

import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from torch_nonlocal._common.heartbeat import Heartbeat, duration
from torch_nonlocal._common.optional import is_installed
from torch_nonlocal._common.terminal import print_errors, terminal


class ProgressBar:
    """A bar with a counter, named values and the remaining time, on standard error. A context manager.

    Without a terminal, a line tells how far the work is, first after 8 seconds and then every 30.

    Args:
        description: what is in progress.
        total: number of units; None while it is unknown.
        unit: the units' name in the plural, printed after the counter.
        done: units done before.
        values: names of numbers shown beside the bar, such as ("loss",); set by `update`.

    Example:
        >>> with ProgressBar("test", unit="views") as bar:
        ...     bar.update(8, total=40)
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        *,
        unit: str = "",
        done: int = 0,
        values: tuple[str, ...] = (),
    ) -> None:
        self._description, self._unit = description.strip(), unit
        self._done, self._total, self._first = done, total, done
        self._started = time.monotonic()
        self._heartbeat: Heartbeat | None = None
        self._progress = _rich_progress(unit, values) if is_installed("rich") else None
        if self._progress is not None:
            blank = dict.fromkeys(values, float("nan"))
            self._task = self._progress.add_task(description, total=total, completed=done, **blank)

    @property
    def visible(self) -> bool:
        """Whether anything is drawn."""
        return self._progress is not None and not self._progress.disable

    def update(self, done: int, total: int | None = None, *, description: str | None = None, **values: float) -> None:
        """Set the number of units done and, if given, the total, the description and the named values."""
        self._done, self._total = done, self._total if total is None else total
        self._description = self._description if description is None else description.strip()
        if self._progress is not None:
            changes: dict[str, Any] = {"completed": done, **values}
            changes |= {} if total is None else {"total": total}
            changes |= {} if description is None else {"description": description}
            self._progress.update(self._task, **changes)

    def advance(self) -> None:
        """Count one more unit."""
        self._done += 1
        if self._progress is not None:
            self._progress.advance(self._task)

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        if self._progress is not None:
            with suppress(OSError):  # the terminal is closed
                self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self) -> None:
        """Draw the bar from now on."""
        self._started = time.monotonic()
        if self._progress is not None and self.visible:
            self._progress.start()
        else:
            self._heartbeat = Heartbeat(self._line, print_errors)
            self._heartbeat.__enter__()

    def stop(self) -> None:
        """Leave the bar as it is."""
        if self._heartbeat is not None:
            self._heartbeat.__exit__()
            self._heartbeat = None
        elif self._progress is not None:
            with suppress(OSError):
                self._progress.stop()

    def _line(self) -> str:
        """How far the work is, as a line."""
        seconds, new = time.monotonic() - self._started, self._done - self._first
        of = f"{self._done:,}/{self._total:,}" if self._total is not None else f"{self._done:,}"
        words = [f"{self._description}:" if self._description else "", of, self._unit]
        rate = f", {new / seconds:.3g} per second" if new else f" after {duration(seconds)}"
        left = duration(seconds / new * (self._total - self._done)) if new and self._total is not None else ""
        return " ".join(filter(None, words)) + rate + (f", {left} left" if left else "")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()


def _rich_progress(unit: str, values: tuple[str, ...]) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns: list[Any] = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn(unit)] if unit else []
    columns += [TextColumn(f"{name} {{task.fields[{name}]:.3f}}") for name in values]
    console = terminal(stderr=True)
    return Progress(*columns, TimeElapsedColumn(), Remaining(), console=console, disable=not console.is_terminal)
