"""Training that loses nothing: one loop for any network and task, on one process or many.

Knows no task, no model and no data set: `fit` gets them.
"""

from torch_nonlocal.distributed.processes import is_main_process
from torch_nonlocal.training.checkpoint import is_begun
from torch_nonlocal.training.config import TrainConfig
from torch_nonlocal.training.errors import CheckpointError, NonFiniteLossError, TrainingMemoryError
from torch_nonlocal.training.loop import Result, fit
from torch_nonlocal.training.run_folder import load_weights_file

__all__ = [
    "CheckpointError",
    "NonFiniteLossError",
    "Result",
    "TrainConfig",
    "TrainingMemoryError",
    "fit",
    "is_begun",
    "is_main_process",
    "load_weights_file",
]
