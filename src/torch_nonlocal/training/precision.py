"""Mixed precision, memory layout, and what to say when memory runs out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.training.config import TrainConfig
from torch_nonlocal.training.errors import TrainingMemoryError

_TYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_FIRST_SCALE = 2.0**16
_GROW_AFTER = 2000


def check_precision(config: TrainConfig, device: torch.device) -> None:
    """Check that the device can do it, and that `accelerate launch` was not told otherwise.

    Raises:
        ValueError: fp16, or bf16 with channels innermost, on a CPU; another precision asked for by `accelerate launch`.
    """
    if config.precision == "fp16" and device.type == "cpu":
        raise ValueError("precision='fp16': expected a GPU; on a CPU use 'bf16' or 'no'")
    if config.precision == "bf16" and config.channels_last and device.type == "cpu":
        # torch 2.14: gradients of Conv3d kernels on small maps come out wrong, or infinite, without a word
        raise ValueError("channels_last=True with precision='bf16': expected a GPU; on a CPU give one of the two")
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if launched not in ("no", config.precision):
        raise ValueError(
            f"accelerate launch was told --mixed_precision {launched}, the settings say {config.precision!r}: "
            f"give precision={launched!r}, which is saved with the run"
        )


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """The context for forward passes."""
    return torch.autocast(device.type, dtype=_TYPES[config.precision], enabled=config.precision != "no")


class LossScale:
    """A power of two on the loss that keeps small gradients above fp16's smallest number; 1 for other precisions.

    Halved, and the update left out, when the gradient overflows; doubled after 2,000 updates without. Unlike torch's
    GradScaler it is decided on the norm of the whole gradient, which every process knows, sharded or not.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.value = _FIRST_SCALE if enabled else 1.0
        self._good = 0

    def succeeded(self) -> None:
        """The gradient was finite."""
        self._good += 1
        if self.enabled and self._good % _GROW_AFTER == 0:
            self.value *= 2

    def overflowed(self) -> bool:
        """The gradient was not finite; False if a smaller scale cannot help."""
        self._good = 0
        if not self.enabled or self.value <= 1:
            return False
        self.value /= 2
        return True

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"value": self.value, "good": self._good}

    def restore(self, state: dict[str, float]) -> None:
        """From a checkpoint."""
        self.value, self._good = state["value"], int(state["good"])


def weights_channels_last(model: nn.Module) -> None:
    """Lay out the kernels of 2D and 3D convolutions with channels innermost, in place."""
    for parameter in model.parameters():
        if parameter.ndim in _FORMATS:
            parameter.data = parameter.data.to(memory_format=_FORMATS[parameter.ndim])


def input_channels_last(value: Any) -> Any:
    """An image or clip batch with channels innermost; anything else as it is."""
    if isinstance(value, Tensor) and value.ndim in _FORMATS:
        return value.to(memory_format=_FORMATS[value.ndim])
    return value


@contextmanager
def memory_errors(config: TrainConfig, part: int) -> Iterator[None]:
    """Turn a lack of memory inside into a message that names the settings to lower.

    Args:
        config: of the run.
        part: clips that a process computes at once.

    Raises:
        TrainingMemoryError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        ways = [f"accumulate={config.accumulate * 2} (the same update from parts half as large)"] if part > 1 else []
        ways += [f"batch_size below {config.batch_size} (lr in proportion)"] if part > 1 else []
        ways += ["precision='bf16'"] if config.precision == "no" else []
        ways += ["fewer frames or smaller crops", "checkpoint=True for the non-local blocks"]
        ways += [] if config.shard else ["shard=True with several GPUs"]
        raise TrainingMemoryError(
            f"out of memory with {part} clips at once; try {'; or '.join(ways)}. {error}"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator" in str(error) or "out of memory" in str(error).lower()
