"""Graceful interruption: the first signal to stop lets the current step finish and a checkpoint be written."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from torch_nonlocal._common.terminal import discard
from torch_nonlocal._common.workers import STOP_SIGNALS
from torch_nonlocal.distributed.processes import ProcessLostError

_SAME_EVENT = 1.0  # seconds; a launcher may pass on a signal that the process group has received already


class StopRequest:
    """Context in which the first SIGTERM, SIGINT or SIGHUP sets `requested`; a later one has its usual effect.

    Signals within a second of the first count as the same one. A signal that is ignored (nohup) stays ignored. Only
    the main thread can handle signals: in other threads nothing changes and `requested` stays False.

    The context stays in force after a ProcessLostError: the launcher stops the processes that are left within a tenth
    of a second, and a process that is about to end by itself must still say why.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._previous: dict[signal.Signals, Any] = {}
        self._terminals: list[int] = []

    def __enter__(self) -> "StopRequest":
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        if threading.current_thread() is threading.main_thread():
            for one in STOP_SIGNALS:
                if signal.getsignal(one) is not signal.SIG_IGN:
                    self._previous[one] = signal.signal(one, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, ProcessLostError):
            self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None):  # the terminal is closed: writing to it would fail
            while self._terminals:
                discard(self._terminals.pop())
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > _SAME_EVENT:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for one, handler in self._previous.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)  # None: not installed from Python
        self._previous = {}
