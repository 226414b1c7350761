"""Graceful interruption: the first SIGTERM or Ctrl-C lets the current step finish and a checkpoint be written."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Context in which the first SIGTERM or SIGINT sets `requested`; the second has its usual effect.

    Only the main thread can handle signals: in other threads nothing changes and `requested` stays False.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {one: signal.signal(one, self._handle) for one in _SIGNALS}
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for one, handler in self._previous.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)  # None: not installed from Python
        self._previous = {}
