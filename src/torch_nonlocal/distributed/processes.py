"""The processes of a run, as accelerate found them: started alone, by `accelerate launch` or by torchrun.

accelerate finds the device and the process group. Its own checkpoints are not used (its random states are pickles),
and the network is spread by torch's DDP or FSDP2 itself: accelerate knows no FSDP2 on CPUs, and its loading of sharded
weights takes every buffer of a batch norm for a sharded one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_TRUE = ("1", "true", "yes")


class Processes:
    """This process among the others.

    Raises:
        ImportError: accelerate is missing.
        RuntimeError: several processes were started, but they cannot reach each other.
    """

    def __init__(self) -> None:
        try:
            import accelerate
        except ImportError as error:
            raise ImportError("training needs accelerate: pip install 'torch-nonlocal[train]'") from error
        # Without cpu=True accelerate takes every process of torchrun for a lonely one on a machine without accelerator.
        forced = os.environ.get("ACCELERATE_USE_CPU", "").lower() in _TRUE
        self._state = accelerate.PartialState(cpu=forced or not torch.accelerator.is_available(), **_restart())
        self.device = torch.device(self._state.device or "cpu")
        self.count: int = self._state.num_processes
        self.rank: int = self._state.process_index
        self.is_main: bool = self._state.is_main_process
        self.asked_to_shard = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in _TRUE
        expected = int(os.environ.get("WORLD_SIZE", "1"))
        if expected != self.count:
            raise RuntimeError(
                f"{expected} processes were started, but accelerate sees {self.count} on {self.device}; "
                "start one process, or train on CPUs with ACCELERATE_USE_CPU=1"
            )

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes."""
        if self.count == 1:
            return values
        from accelerate.utils import reduce

        return reduce(values, reduction="mean")  # pyright: ignore[reportReturnType]

    def gather(self, values: Tensor) -> Tensor:
        """The processes' vectors, of equal length, one behind the other."""
        if self.count == 1:
            return values
        from accelerate.utils import gather

        return gather(values)  # pyright: ignore[reportReturnType]

    def wait(self) -> None:
        """Until every process is here."""
        self._state.wait_for_everyone()

    def send(self, values: Any) -> Any:
        """Tensors, or nests of them, on this process's device."""
        from accelerate.utils import send_to_device

        return send_to_device(values, self.device, non_blocking=self.device.type == "cuda")

    def copy_buffers(self, model: nn.Module) -> None:
        """Give every process the main one's buffers (statistics of batch norms)."""
        if self.count > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def average_buffers(self, model: nn.Module) -> None:
        """Give every process the mean of all floating buffers."""
        if self.count > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.mean(buffer))


def is_main_process() -> bool:
    """Whether this process is the one that speaks; known before the processes have met."""
    return os.environ.get("RANK", "0") == "0"


def _restart() -> dict[str, Any]:
    """How to meet the other processes after torchrun has restarted them; nothing at a first start.

    torchrun's store may still hold the addresses of the processes that died (torch 2.14, --standalone), so every start
    after the first keeps its own under a name of its own.
    """
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if count == "0" or torch.distributed.is_initialized():
        return {}
    store, rank, world_size = next(torch.distributed.rendezvous("env://"))  # pyright: ignore[reportPrivateImportUsage]
    store = torch.distributed.PrefixStore(f"restart_{count}", store)  # pyright: ignore[reportPrivateImportUsage]
    return {"store": store, "rank": rank, "world_size": world_size}


class Spread:
    """A network on this process's device, in step with the other processes.

    Args:
        model: the network; moved, and for FSDP2 sharded, in place.
        processes: which it is spread over.
        shard: FSDP2 instead of DDP.

    Attributes:
        model: the network itself.
        run: what to call: the network, or DDP around it.
    """

    def __init__(self, model: nn.Module, processes: Processes, *, shard: bool) -> None:
        self.model = model.to(processes.device)
        self.run: nn.Module = self.model
        self.sharded = shard and processes.count > 1
        if self.sharded:
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                torch.distributed.broadcast(tensor.detach(), src=0)  # all start from the main one's, as with DDP
            _shard(self.model, processes)
        elif processes.count > 1:
            devices = [processes.device] if processes.device.type == "cuda" else None
            self.run = nn.parallel.DistributedDataParallel(self.model, device_ids=devices)

    @contextmanager
    def part(self, *, last: bool) -> Iterator[None]:
        """One part of an update: only the last part's backward exchanges gradients."""
        if isinstance(self.run, nn.parallel.DistributedDataParallel) and not last:
            with self.run.no_sync():
                yield
            return
        if self.sharded:
            self.run.set_requires_gradient_sync(last)  # pyright: ignore[reportCallIssue]
        yield


def _shard(model: nn.Module, processes: Processes) -> None:
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.device_mesh.init_device_mesh(processes.device.type, (processes.count,))
    for child in model.children():
        # Containers without a forward of their own are never called, so they cannot bring their weights together.
        units = child.children() if isinstance(child, nn.ModuleList | nn.ModuleDict) else [child]
        for unit in units:
            if any(True for _ in unit.parameters()):
                fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(value: Any) -> Any:
    """A sharded tensor as a whole one, in every process (all must ask); anything else as it is."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def shared_out(value: Any, like: Any) -> Any:
    """A whole tensor sharded like another; as it is where that one is not sharded, or the value is a scalar."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value
