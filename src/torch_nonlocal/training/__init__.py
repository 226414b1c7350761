"""Training: one loop for any model and task, on one process or many, resumable bit for bit.

It knows no task, model or data set: `fit` trains a `Task`.
"""

from typing import TYPE_CHECKING

from torch_nonlocal._common.lazy import lazy_exports

if TYPE_CHECKING:
    from torch_nonlocal._common.locks import FolderInUseError
    from torch_nonlocal._common.workers import WorkerError
    from torch_nonlocal.distributed.processes import ProcessLostError
    from torch_nonlocal.distributed.rank import is_main_process
    from torch_nonlocal.training.checkpoint import is_begun
    from torch_nonlocal.training.config import TrainConfig
    from torch_nonlocal.training.errors import CheckpointError, NonFiniteLossError, RunLengthError, TrainingMemoryError
    from torch_nonlocal.training.loop import Result, fit
    from torch_nonlocal.training.run_folder import load_weights_file
    from torch_nonlocal.training.sampler import BatchSampler, Item, ShuffledBatches
    from torch_nonlocal.training.task import Metric, Task

__all__ = [
    "BatchSampler",
    "CheckpointError",
    "FolderInUseError",
    "Item",
    "Metric",
    "NonFiniteLossError",
    "ProcessLostError",
    "Result",
    "RunLengthError",
    "ShuffledBatches",
    "Task",
    "TrainConfig",
    "TrainingMemoryError",
    "WorkerError",
    "fit",
    "is_begun",
    "is_main_process",
    "load_weights_file",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "BatchSampler": ".sampler",
        "CheckpointError": ".errors",
        "FolderInUseError": "torch_nonlocal._common.locks",
        "Item": ".sampler",
        "Metric": ".task",
        "NonFiniteLossError": ".errors",
        "ProcessLostError": "torch_nonlocal.distributed.processes",
        "Result": ".loop",
        "RunLengthError": ".errors",
        "ShuffledBatches": ".sampler",
        "Task": ".task",
        "TrainConfig": ".config",
        "TrainingMemoryError": ".errors",
        "WorkerError": "torch_nonlocal._common.workers",
        "fit": ".loop",
        "is_begun": ".checkpoint",
        "is_main_process": "torch_nonlocal.distributed.rank",
        "load_weights_file": ".run_folder",
    },
)
