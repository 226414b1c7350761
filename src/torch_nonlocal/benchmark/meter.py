"""Time and peak memory of a function in a fresh process."""

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
    """Time and peak memory of a function.

    Attributes:
        seconds: median time over the repeats, after one warm-up run; NaN with repeats=0.
        extra_bytes: peak resident memory of the first run above the memory before it.
        cpu_seconds: median CPU time of all threads over the repeats, which other programs disturb less.
    """

    seconds: float
    extra_bytes: int
    cpu_seconds: float = float("nan")


def measure(prepare: Callable[..., Callable[[], Any]], *args: Any, repeats: int = 3) -> Cost:
    """Measure `prepare(*args)()` in a fresh process.

    Args:
        prepare: a module-level function that makes the inputs and returns the function to measure.
        *args: picklable arguments of `prepare`.
        repeats: number of timed runs, after one run for memory and warm-up.

    Raises:
        RuntimeError: if the process raises an exception or dies, for example for lack of memory. The message includes
            the exception or the exit code.
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
    """Return the peak resident memory of this process since its start or the last `reset_peak`."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> None:
    """Reset the peak resident memory to the current value, where the system supports it (Linux)."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        try:
            reset.write_text("5")
        except OSError:
            return  # not permitted: the peak then includes the preparation, and the extra memory reads lower


def _worker(sender: Any, prepare: Callable[..., Callable[[], Any]], args: tuple[Any, ...], repeats: int) -> None:
    try:
        work = prepare(*args)
        reset_peak()
        before = peak_bytes()
        work()
        extra = peak_bytes() - before
        times, cpu_times = [], []
        for _ in range(repeats):
            start, cpu_start = time.perf_counter(), time.process_time()
            work()
            times.append(time.perf_counter() - start)
            cpu_times.append(time.process_time() - cpu_start)
        median, cpu_median = (statistics.median(one) if one else float("nan") for one in (times, cpu_times))
        sender.send(Cost(median, extra, cpu_median))
    except BaseException as error:
        sender.send(f"{type(error).__name__}: {error}")
