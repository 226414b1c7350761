"""Mixed precision, denormal numbers, and out-of-memory errors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from torch_nonlocal.training.config import TrainConfig
from torch_nonlocal.training.errors import TrainingMemoryError

_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_INITIAL_SCALE = 2.0**16
_GROWTH_INTERVAL = 2000


def check_precision(config: TrainConfig, device: torch.device) -> None:
    """Check that the device supports the precision, and that `accelerate launch` asks for no other one.

    Raises:
        ValueError: fp16, or bf16 with channels_last, on a CPU; or `accelerate launch` asks for another precision.
    """
    if config.precision == "fp16" and device.type == "cpu":
        raise ValueError("precision='fp16': expected a GPU; on a CPU use 'bf16' or 'no'")
    if config.precision == "bf16" and config.channels_last is True and device.type == "cpu":
        # torch 2.14 computes wrong or infinite gradients of Conv3d weights on small maps here, without an error
        raise ValueError("channels_last=True with precision='bf16': expected a GPU; on a CPU use only one of the two")
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if launched not in ("no", config.precision):
        raise ValueError(
            f"accelerate launch has --mixed_precision {launched}, the configuration precision={config.precision!r}; "
            f"use precision={launched!r}, which is saved with the run"
        )


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """The autocast context of forward passes."""
    return torch.autocast(device.type, dtype=_DTYPES[config.precision], enabled=config.precision != "no")


class LossScale:
    """Dynamic loss scale for fp16, a power of two that keeps small gradients from underflow; 1 for other precisions.

    When the gradient overflows, the step is skipped and the scale halved; after 2,000 successful steps it doubles.
    Unlike torch's GradScaler it decides by the norm of the whole gradient, which every process has, sharded or not.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.value = _INITIAL_SCALE if enabled else 1.0
        self._good = 0

    def succeeded(self) -> None:
        """Record a finite gradient."""
        self._good += 1
        if self.enabled and self._good % _GROWTH_INTERVAL == 0:
            self.value *= 2

    def overflowed(self) -> bool:
        """Record a gradient that is not finite. Returns False if a smaller scale cannot help."""
        self._good = 0
        if not self.enabled or self.value <= 1:
            return False
        self.value /= 2
        return True

    def state(self) -> dict[str, float]:
        """The state for a checkpoint."""
        return {"value": self.value, "good": self._good}

    def restore(self, state: dict[str, float]) -> None:
        """Restore the state of a checkpoint."""
        self.value, self._good = state["value"], int(state["good"])


@contextmanager
def flushed_denormals(device: torch.device) -> Iterator[None]:
    """Flush numbers below the smallest normal number to zero, in this thread: CPUs compute with them many times slower.

    No effect on other devices. The mode is restored on exit.
    """
    before = _flushes_denormals()
    torch.set_flush_denormal(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes_denormals() -> bool:
    tiny = torch.tensor(torch.finfo(torch.float32).tiny)
    return (tiny / 2).item() == 0


@contextmanager
def memory_errors(config: TrainConfig, part: int) -> Iterator[None]:
    """Turn an out-of-memory error into one that names the options to lower.

    Args:
        config: of the run.
        part: items that a process computes at once.

    Raises:
        TrainingMemoryError: out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        ways = [f"accumulate={config.accumulate * 2} (the same step from parts half as large)"] if part > 1 else []
        ways += [f"batch_size below {config.batch_size} (and lr in proportion)"] if part > 1 else []
        ways += ["precision='bf16'"] if config.precision == "no" else []
        ways += ["smaller inputs", "checkpoint=True for the non-local blocks"]
        ways += [] if config.shard else ["shard=True with several GPUs"]
        raise TrainingMemoryError(
            f"out of memory with {part} items at once; try {'; or '.join(ways)}. {error}"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator" in str(error) or "out of memory" in str(error).lower()
