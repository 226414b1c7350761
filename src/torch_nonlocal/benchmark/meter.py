"""Seconds and peak memory of a piece of work, in a fresh process."""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What one piece of work took.

    Attributes:
        seconds: median over the repeats, after one warm-up.
        extra_bytes: the process's high-water mark above what it held before the first run.
    """

    seconds: float
    extra_bytes: int


def measure(prepare: Callable[..., Callable[[], Any]], *args: Any, repeats: int = 3) -> Cost:
    """Run `prepare(*args)()` in a fresh process and meter it.

    Args:
        prepare: a module-level function; makes the inputs and returns the work to meter.
        *args: for `prepare`, picklable.
        repeats: timed runs, after one that is not.

    Raises:
        RuntimeError: the process died (killed for memory, say) or raised; the message tells.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(sender, prepare, args, repeats), daemon=True)
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process died with exit code {process.exitcode}") from None
    process.join()
    if isinstance(answer, Cost):
        return answer
    raise RuntimeError(answer)


def peak_bytes() -> int:
    """High-water mark of this process's resident memory, since the start or the last `reset_peak`."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> None:
    """Let the high-water mark start again from what is held now; without effect where the system cannot."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        try:
            reset.write_text("5")
        except OSError:
            return  # not allowed here: the mark then includes the preparation, so extra memory reads lower


def _worker(sender: Any, prepare: Callable[..., Callable[[], Any]], args: tuple[Any, ...], repeats: int) -> None:
    try:
        work = prepare(*args)
        reset_peak()
        before = peak_bytes()
        work()
        extra = peak_bytes() - before
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        sender.send(Cost(statistics.median(times) if times else float("nan"), extra))
    except BaseException as error:
        sender.send(f"{type(error).__name__}: {error}")
