"""The memory format of a run: channels-last or contiguous. On a CPU, a trial before the first step chooses.

Which one is faster depends on the instructions of the CPU as well as on the network. The choice is saved with the
training state: the two formats round differently, and a run resumes bit for bit.
"""

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common.optional import require
from torch_nonlocal._common.seeds import seeded
from torch_nonlocal.distributed.processes import Processes
from torch_nonlocal.training.config import TrainConfig
from torch_nonlocal.training.ema import restore_state

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_ROUNDS, _SECONDS = 2, 3.0  # a second round only if the first took less time
_SHARE, _LEAST = 0.1, 0.01  # contiguous has to be this much faster: noise should not change the numbers of a run


def planned_format(config: TrainConfig, processes: Processes) -> bool | None:
    """Whether a run uses the channels-last format; None if a trial has to find out."""
    if config.channels_last != "auto":
        return config.channels_last
    if processes.device.type != "cpu":
        return True
    if config.precision == "bf16":
        return False  # wrong gradients, see check_precision
    return None if processes.count == 1 and not config.compile else True


def convert_weights(model: nn.Module, *, channels_last: bool) -> None:
    """Convert the weights of 2D and 3D convolutions to a memory format, in place."""
    for parameter in model.parameters():
        if parameter.ndim in _FORMATS:
            memory_format = _FORMATS[parameter.ndim] if channels_last else torch.contiguous_format
            parameter.data = parameter.data.to(memory_format=memory_format)


def batch_channels_last(batch: Any) -> Any:
    """A batch with its 4D and 5D tensors in the channels-last memory format; everything else unchanged."""
    return require("accelerate.utils").recursively_apply(_channels_last, batch)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=_FORMATS[tensor.ndim]) if tensor.ndim in _FORMATS else tensor


def try_formats(
    model: nn.Module, parts: Iterator[Any], compute: Callable[[Any, bool], object], seed: int
) -> tuple[bool, str, Iterator[Any]]:
    """Compute the gradient of the next part in both memory formats and convert the model to the better one.

    Weights, statistics, gradients and random states are afterwards as before.

    Args:
        model: in train mode.
        parts: loaded parts.
        compute: computes and adds the gradient of a loaded part, in the channels-last format or not.
        seed: seed of the random numbers in `compute`.

    Returns:
        Whether channels-last is chosen, a line that says so, and the same parts. Contiguous is chosen if it is clearly
        faster.
    """
    part = next(parts)
    seconds = {True: float("inf"), False: float("inf")}
    begin = time.monotonic()
    with restore_state(model), seeded(seed):
        for number in range(_ROUNDS):
            if number and time.monotonic() - begin > _SECONDS:
                break
            for channels_last in seconds:
                convert_weights(model, channels_last=channels_last)
                loaded = copy.deepcopy(part)
                start = time.process_time()  # not disturbed by other work on the machine
                compute(loaded, channels_last)
                seconds[channels_last] = min(seconds[channels_last], time.process_time() - start)
                model.zero_grad()
    chosen = seconds[True] - seconds[False] <= max(_LEAST, _SHARE * seconds[True])
    convert_weights(model, channels_last=chosen)
    names = {True: "channels last", False: "contiguous"}
    line = (
        f"memory format: {names[chosen]}, {seconds[chosen]:.2f} CPU seconds a step in a trial; "
        f"{names[not chosen]}: {seconds[not chosen]:.2f}"
    )
    return chosen, line, itertools.chain([part], parts)
