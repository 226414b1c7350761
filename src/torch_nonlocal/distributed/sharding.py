"""Models replicated (DDP) or sharded (FSDP2) over the processes, and tensors in and out of shards."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.distributed.processes import Processes


class DistributedModel:
    """A model on this process's device, synchronized with the other processes.

    Args:
        model: moved to the device, and for FSDP2 sharded, in place.
        processes: the processes that train it.
        shard: use FSDP2 instead of DDP.

    Attributes:
        model: the model itself.
        wrapped: the module to call in training: the model, or its DistributedDataParallel wrapper.
        sharded: whether the model is sharded.
    """

    def __init__(self, model: nn.Module, processes: Processes, *, shard: bool) -> None:
        self.model = model.to(processes.device)
        self.wrapped: nn.Module = self.model
        self.sharded = shard and processes.count > 1
        if self.sharded:
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                torch.distributed.broadcast(tensor.detach(), src=0)  # start from rank 0's weights, as DDP does
            _shard(self.model, processes)
        elif processes.count > 1:
            devices = [processes.device] if processes.device.type == "cuda" else None
            self.wrapped = nn.parallel.DistributedDataParallel(self.model, device_ids=devices)

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        """Context of one accumulated part of a step: only the backward pass of the last part exchanges gradients."""
        if isinstance(self.wrapped, nn.parallel.DistributedDataParallel) and not last:
            with self.wrapped.no_sync():
                yield
            return
        if self.sharded:
            self.wrapped.set_requires_gradient_sync(last)  # pyright: ignore[reportCallIssue]
        yield


def _shard(model: nn.Module, processes: Processes) -> None:
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.device_mesh.init_device_mesh(processes.device.type, (processes.count,))
    for child in model.children():
        # Containers without a forward are never called, so they cannot gather their weights.
        units = child.children() if isinstance(child, nn.ModuleList | nn.ModuleDict) else [child]
        for unit in units:
            if any(True for _ in unit.parameters()):
                fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)


def gather_full(value: Any) -> Any:
    """The full tensor of a sharded one, in every process (all must call it); any other value unchanged."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def shard_like(value: Any, like: Any) -> Any:
    """A full tensor sharded like another; unchanged if `like` is not sharded or has another shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value
