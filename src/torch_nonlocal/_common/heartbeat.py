"""Lines about work in progress for readers of a pipe or a file, who see no progress bar."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

FIRST, EVERY = 8.0, 30.0
"""Seconds without a line after which one is printed: at the start, and later."""
_LOOK = 0.5


class Heartbeat:
    """Context in which a line is printed whenever none was for a while: after 8 seconds, then every 30.

    The line is printed by a thread, since the work that is in progress may not return for minutes.

    Args:
        line: returns what to print; "" for nothing.
        print_line: prints it.
    """

    def __init__(self, line: Callable[[], str], print_line: Callable[[str], None]) -> None:
        self._line, self._print = line, print_line
        self._lock = threading.RLock()
        self._wait, self._last = FIRST, time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress lines", daemon=True)

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def print(self, text: str, *, progress: bool = True) -> None:
        """Print a line now.

        Args:
            text: the line.
            progress: whether it tells how far the work is, so that the next line is not due for a while.
        """
        with self._lock:
            if progress:
                self._wait, self._last = EVERY, time.monotonic()
            self._print(text)

    def beat(self) -> None:
        """Print a line if one is due."""
        with self._lock:
            text = self._line() if time.monotonic() - self._last >= self._wait else ""
            if text:
                self.print(text)

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK):
            self.beat()


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds, such as 0:03:20."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
