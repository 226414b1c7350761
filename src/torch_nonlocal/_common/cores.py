"""The CPU cores that a process may use, and those that other work keeps busy. Imports no third-party package."""

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: those of its CPU affinity, or fewer if its container has a smaller CPU quota."""
    cores = len(_own_cores())
    quota = _quota()
    return cores if quota is None else max(1, min(cores, int(quota + 0.5)))


def busy_cores(seconds: float) -> int:
    """How many of the cores that this process may use other work kept busy during the last `seconds`, rounded.

    Sleeps for this time; call it while this process has nothing to compute. Returns 0 where the system has no
    /proc/stat (macOS, Windows).
    """
    before = _busy_and_all()
    time.sleep(seconds)
    after = _busy_and_all()
    shares = [
        (after[core][0] - before[core][0]) / (after[core][1] - before[core][1])
        for core in before
        if core in after and after[core][1] > before[core][1]
    ]
    return int(sum(shares) + 0.5)


def _own_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _busy_and_all() -> dict[int, tuple[int, int]]:
    """For each core of this process, the ticks spent on work and all ticks since the start of the machine."""
    try:
        lines = _STAT.read_text().splitlines()
    except OSError:
        return {}
    own, found = _own_cores(), {}
    for line in lines:
        name, *values = line.split()
        number = name.removeprefix("cpu")
        if name.startswith("cpu") and number.isdigit() and int(number) in own:
            ticks = [int(value) for value in values[:8]]  # guest time is part of user time
            found[int(number)] = sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # less idle and waiting for disks
    return found


def _quota() -> float | None:
    """The CPU quota of the container in cores (cgroup 2, or 1 before it); None if there is none."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        cores = int(quota) / int(period)  # "max" or -1 without a quota
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None
