"""Threads of a command on a CPU that other work may share. Imports torch only to set their number.

An OpenMP thread that waits for the others spins at first. Where other work has a core, the others are late, and the
spinning costs more CPU time than the computation. `wait_passively` lets threads sleep while they wait; it has to come
before the import of torch. `use_free_cores` leaves cores that are busy at the start to the other work.
"""

import os
import sys
from collections.abc import Callable

from torch_nonlocal._common.cores import busy_cores, usable_cores
from torch_nonlocal._common.text import counted

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_NUMBER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def wait_passively() -> None:
    """Let OpenMP threads sleep while they wait, unless the environment says otherwise or torch is already imported."""
    if "torch" not in sys.modules and not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def use_free_cores(show: Callable[[str], None], *, kept: int | None = None, seconds: float = 0.2) -> None:
    """Set torch's number of threads to that of the free cores; if that changes it, show it in one line.

    Nothing is changed where torch computes on a GPU, in one of several processes, or where OMP_NUM_THREADS or
    MKL_NUM_THREADS is set.

    Args:
        show: prints a line.
        kept: the number of threads of a run that resumes, since its results depend on it in the last digits; None
            chooses the number.
        seconds: time over which the load of the cores is measured.
    """
    import torch

    several = os.environ.get("WORLD_SIZE", "1") != "1"
    if torch.accelerator.is_available() or several or any(name in os.environ for name in _NUMBER):
        return
    most = torch.get_num_threads()
    if kept is not None:
        threads, reason = kept, "as before; OMP_NUM_THREADS sets another number"
    else:
        cores, busy = usable_cores(), busy_cores(seconds)
        threads = max(1, min(most, cores - busy))
        reason = f"{counted(cores, 'CPU core')}, {busy} in use by other work"
    torch.set_num_threads(threads)
    if threads != most:
        show(f"{counted(threads, 'thread')}: {reason}")
