"""The processes of a run, and models replicated or sharded over them."""

from typing import TYPE_CHECKING

from torch_nonlocal._common.lazy import lazy_exports

if TYPE_CHECKING:
    from torch_nonlocal.distributed.processes import Processes
    from torch_nonlocal.distributed.rank import is_main_process
    from torch_nonlocal.distributed.sharding import DistributedModel, gather_full, shard_like

__all__ = ["DistributedModel", "Processes", "gather_full", "is_main_process", "shard_like"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DistributedModel": ".sharding",
        "Processes": ".processes",
        "gather_full": ".sharding",
        "is_main_process": ".rank",
        "shard_like": ".sharding",
    },
)
