"""Batches from worker processes that survive signals to the process group and are replaced if they are killed."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import Any

from torch.utils.data import DataLoader

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
"""Signals that ask a run to stop. The main process handles them; its workers ignore them."""

_ATTEMPTS = 3  # deaths of workers before the same batch
_log = logging.getLogger("torch_nonlocal")


class WorkerError(RuntimeError):
    """Worker processes die again and again; the message says how."""


class _WorkerDiedError(Exception):
    """A worker ended while its batches are needed."""


class WorkerBatches(Iterator[Any]):
    """The batches of a `DataLoader`, each exactly once and in order, whatever happens to its workers.

    A signal to the whole process group (Ctrl-C, a batch system, a closed terminal) reaches the workers, too. They
    ignore it, so that the main process can finish its step. A worker that is killed, for example because memory is
    short, is replaced: the loader starts again at the batch that is due.

    Use it as a context, or call `close`: no worker outlives it.

    Args:
        loader_from: builds the loader of the batches from number n on, with `worker_init_fn=ignore_stop_signals`;
            n = 0 first.
        warn: called with one line when a worker is replaced; None logs it.

    Raises:
        WorkerError: workers die three times before the same batch.
    """

    def __init__(
        self, loader_from: Callable[[int], DataLoader[Any]], *, warn: Callable[[str], None] | None = None
    ) -> None:
        self._loader_from, self._warn = loader_from, warn or _log.warning
        self._iterator: Any = None
        self._workers: list[BaseProcess] = []
        self._number = 0  # of the batch that is due
        self._deaths = 0  # before it
        self._waiting = False
        self._child_handler: Any = None

    def __enter__(self) -> WorkerBatches:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def __next__(self) -> Any:
        """The batch that is due."""
        while True:
            try:
                batch = self._read()
            except _WorkerDiedError as death:
                problem = str(death)
            else:
                self._number, self._deaths = self._number + 1, 0
                return batch
            self._deaths += 1
            self.close()
            if self._deaths == _ATTEMPTS:
                raise WorkerError(
                    f"workers that load data died {_ATTEMPTS} times before batch {self._number + 1:,}; the last one "
                    f"{problem}. If memory is short, use fewer workers or smaller batches; workers=0 loads without them"
                )
            self._warn(f"a worker that loads data {problem}; it is replaced")

    def close(self) -> None:
        """End the workers; one that does not end within seconds is killed."""
        iterator, self._iterator = self._iterator, None
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()  # not left to __del__: a traceback may hold the iterator
        for worker in self._workers:
            if worker.is_alive():
                worker.kill()
                worker.join()
        self._workers = []
        if self._child_handler is not None:
            signal.signal(signal.SIGCHLD, self._child_handler)
            self._child_handler = None

    def _read(self) -> Any:
        self._waiting = True
        try:
            if self._iterator is None:
                self._iterator = self._start()
            self._check()
            return next(self._iterator)
        except (RuntimeError, OSError, EOFError) as error:
            # A batch of a dead worker cannot be received, which may be noticed before the death itself.
            ended = connection.wait([worker.sentinel for worker in self._workers], timeout=1 if self._workers else 0)
            for worker in self._workers:
                if worker.sentinel in ended:
                    worker.join(1)
            death = self._death() or ("ended unexpectedly" if "DataLoader worker (pid" in str(error) else "")
            if not death:
                raise
            raise _WorkerDiedError(death) from None
        finally:
            self._waiting = False

    def _start(self) -> Iterator[Any]:
        before = multiprocessing.active_children()
        with _signals_blocked():  # from the fork on; workers inherit it
            iterator = iter(self._loader_from(self._number))
        self._workers = [child for child in multiprocessing.active_children() if child not in before]
        if self._workers and hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
            # The loader's own handler raises wherever the main process is, even in the middle of an optimizer step.
            self._child_handler = signal.signal(signal.SIGCHLD, self._on_child) or signal.SIG_DFL
        return iterator

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        if self._waiting:
            self._check()

    def _check(self) -> None:
        death = self._death()
        if death:
            raise _WorkerDiedError(death)

    def _death(self) -> str:
        """How a worker died; "" if none did. The exit code of workers that end normally is 0."""
        for worker in self._workers:
            code = worker.exitcode
            if code:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
                return f"(process {worker.pid}) {how}"
        return ""


def ignore_stop_signals(worker: int) -> None:
    """Ignore `STOP_SIGNALS` in this process; a `worker_init_fn`."""
    for one in STOP_SIGNALS:
        signal.signal(one, signal.SIG_IGN)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block `STOP_SIGNALS` in this thread and in processes forked from it; those that arrive are handled afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
