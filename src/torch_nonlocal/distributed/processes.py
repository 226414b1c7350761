"""The processes of a run, as accelerate finds them: one alone, or several started by `accelerate launch` or torchrun.

accelerate finds the device and the process group. Its checkpoints are not used, because its random states are pickles.
Models are replicated or sharded by torch's DDP or FSDP2 directly (`sharding`): accelerate does not support FSDP2 on
CPUs, and when it loads sharded weights it treats every buffer of a batch norm as sharded.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torch_nonlocal._common.optional import require
from torch_nonlocal.distributed.rank import process_count

_LOST = re.compile(r"gloo/|NCCL|Connection (closed|reset)|Broken pipe")
_TRUE = ("1", "true", "yes")
_Result = TypeVar("_Result")


class Processes:
    """This process and the others of the run.

    Attributes:
        device: of this process.
        count: number of processes.
        rank: of this process, from 0.
        is_main: whether this is rank 0.
        shard_requested: whether `accelerate launch` asks for FSDP.

    Raises:
        ImportError: if accelerate is missing.
        RuntimeError: if several processes were started but cannot reach each other.
    """

    def __init__(self) -> None:
        accelerate = require("accelerate")
        # Without cpu=True accelerate treats each process of torchrun as a single one on machines without accelerator.
        forced = os.environ.get("ACCELERATE_USE_CPU", "").lower() in _TRUE
        self._state = accelerate.PartialState(cpu=forced or not torch.accelerator.is_available(), **_restart())
        self.device = torch.device(self._state.device or "cpu")
        self.count: int = self._state.num_processes
        self.rank: int = self._state.process_index
        self.is_main: bool = self._state.is_main_process
        self.shard_requested = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in _TRUE
        expected = process_count()
        if expected != self.count:
            raise RuntimeError(
                f"{expected} processes were started, but accelerate sees {self.count} on {self.device}; "
                "start one process, or train on CPUs with ACCELERATE_USE_CPU=1"
            )

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes."""
        if self.count == 1:
            return values
        return require("accelerate.utils").reduce(values, reduction="mean")

    def gather(self, values: Tensor) -> Tensor:
        """The processes' tensors, of equal shape, concatenated along the first axis."""
        if self.count == 1:
            return values
        return require("accelerate.utils").gather(values)

    def wait(self) -> None:
        """Wait for all processes."""
        self._state.wait_for_everyone()

    def in_main(self, call: Callable[[], _Result]) -> _Result:
        """The result of a call in the main process, in every process; all must call it.

        If it raises an exception, the main process raises it, and the others exit without a message.
        """
        if self.count == 1:
            return call()
        shared: list[Any] = [False, None]
        try:
            if self.is_main:
                shared = [True, call()]
        finally:
            torch.distributed.broadcast_object_list(shared, src=0)
        if not shared[0]:
            sys.exit(2)
        return shared[1]

    def send(self, values: Any) -> Any:
        """Tensors, or nested containers of them, on this process's device."""
        return require("accelerate.utils").send_to_device(values, self.device, non_blocking=self.device.type == "cuda")

    def copy_buffers(self, model: nn.Module) -> None:
        """Copy the main process's buffers (batch norm statistics) to all processes."""
        if self.count > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def average_buffers(self, model: nn.Module) -> None:
        """Set the floating-point buffers of all processes to their mean."""
        if self.count > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.mean(buffer))


class ProcessLostError(SystemExit):
    """Another process of the run ended or cannot be reached; the message is None in all but one of those left.

    A `SystemExit`, because nothing can be done without the others, and their number of tracebacks would hide the cause.
    """


@contextmanager
def lost_processes(processes: Processes) -> Iterator[None]:
    """Context that turns the errors of a lost connection to other processes into one line, from one process.

    Raises:
        ProcessLostError: the connection to another process is lost.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or _LOST.search(str(error))
        if processes.count == 1 or not lost:
            raise
        line = (
            f"rank {processes.rank} of {processes.count}: the connection to another process of this run is lost; it "
            "failed or was killed, see its message or the launcher's. Checkpoints are intact: rerun to resume"
        )
        raise ProcessLostError(line if _is_first_to_notice() else 1) from None


def _is_first_to_notice() -> bool:
    """Whether no other process has asked before; true if that cannot be found out."""
    try:
        return torch.distributed.distributed_c10d._get_default_store().add("torch_nonlocal/lost", 1) == 1
    except (RuntimeError, ValueError):  # the store was in the lost process
        return True


def _restart() -> dict[str, Any]:
    """How to reach the other processes after a restart by torchrun; {} at a first start.

    torchrun's store may still hold the addresses of processes that died (torch 2.14, --standalone), so each restart
    keeps its addresses under its own prefix.
    """
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if count == "0" or torch.distributed.is_initialized():
        return {}
    store, rank, world_size = next(torch.distributed.rendezvous("env://"))  # pyright: ignore[reportPrivateImportUsage]
    store = torch.distributed.PrefixStore(f"restart_{count}", store)  # pyright: ignore[reportPrivateImportUsage]
    return {"store": store, "rank": rank, "world_size": world_size}
