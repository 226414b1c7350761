"""A polite end: the first SIGTERM or Ctrl-C lets the update finish and a checkpoint be written."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_ASKED = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Inside the context, the first SIGTERM or SIGINT sets `asked`; the second acts as it would without us.

    Only the main thread may handle signals: elsewhere nothing is changed and `asked` stays False.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._note) for one in _ASKED}
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for one, handler in self._before.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)  # None: it was not set from Python
        self._before = {}
