"""Positions, memory and time of each place on an example input.

Inputs of the places and memory come from runs with fake tensors, so an input may be larger than the memory of the
machine. Time is measured on a part of the input that has few positions.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from torch_nonlocal._common.capture import evaluating
from torch_nonlocal._common.text import reason_of
from torch_nonlocal._common.wrappers import named_modules
from torch_nonlocal.insertion.probe import call
from torch_nonlocal.planning.fake_run import LiveBytes, fake_copy
from torch_nonlocal.replacing.families import FAMILIES
from torch_nonlocal.replacing.family import Family
from torch_nonlocal.replacing.report import Found, Predicted

_MOST_POSITIONS = 2048  # of a timed run
_ROUNDS = 5


def costs(model: nn.Module, found: dict[str, Found], example_input: Any) -> dict[str, Found]:
    """Return the places with their costs.

    A place has none if it does not run on the example input or cannot be copied.

    Args:
        model: the network before the replacement.
        found: places by name.
        example_input: an input of the model.

    Raises:
        ValueError: if the network does not run on the input. The message includes the network's own error.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    modules = named_modules(model)
    shapes = _input_shapes(model, found, example_input, mode)
    described = dict(found)
    for name, shape in shapes.items():
        with suppress(Exception):  # such as a module that cannot be copied
            predicted = _predicted(modules[name], FAMILIES[found[name].family], shape, mode)
            described[name] = replace(found[name], predicted=predicted)
    return described


def _input_shapes(
    model: nn.Module, found: dict[str, Found], example_input: Any, mode: FakeTensorMode
) -> dict[str, tuple[int, ...]]:
    try:
        network = fake_copy(model, mode)
        example = tree_map_only(Tensor, mode.from_tensor, example_input)
        with mode:
            return _run(network, found, example)
    except Exception:  # a network that depends on values, or cannot be copied, runs itself
        try:
            return _run(model, found, example_input)
        except Exception as error:
            raise ValueError(f"{type(model).__name__} does not run on the example input: {reason_of(error)}") from error


def _run(network: nn.Module, found: dict[str, Found], example: Any) -> dict[str, tuple[int, ...]]:
    """Run a network in eval mode and return the shape of the map that each place is given."""
    shapes: dict[str, tuple[int, ...]] = {}
    modules = named_modules(network)

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            x = FAMILIES[found[name].family].input(module, args, kwargs)
            if x is not None:
                shapes[name] = tuple(x.shape)

        return hook

    handles = [modules[name].register_forward_pre_hook(note(name), with_kwargs=True) for name in found]
    try:
        with evaluating(network), torch.no_grad():
            call(network, example)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _predicted(module: nn.Module, family: Family, shape: Sequence[int], mode: FakeTensorMode) -> Predicted:
    groups, queries, keys, _, _ = family.sizes(module, shape)
    dtype = next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.float32)
    return Predicted(
        shape=tuple(shape),
        queries=queries,
        keys=keys,
        map_bytes=groups * queries * keys * dtype.itemsize,
        memory_before=_peak(module, None, shape, mode),
        memory_after=_peak(module, family, shape, mode),
        time=_time(module, family, shape),
    )


def _peak(module: nn.Module, family: Family | None, shape: Sequence[int], mode: FakeTensorMode) -> int:
    """The peak memory of a run with the module's own code or with its family."""
    trial = fake_copy(module, mode)
    like = next(iter(trial.parameters()), torch.empty(0))
    with mode, LiveBytes() as live, torch.set_grad_enabled(module.training):
        x = torch.empty(tuple(shape), dtype=like.dtype, device=like.device, requires_grad=module.training)
        before = live.live
        output = trial(x) if family is None else family.run(trial, x)
        if module.training:
            first = next(one for one in tree_leaves(output) if isinstance(one, Tensor))
            first.sum().backward()  # a map that is returned beside the output counts if the module's own code builds it
    return live.peak - before


def _time(module: nn.Module, family: Family, shape: Sequence[int]) -> float | None:
    """The CPU time of our forward pass divided by that of the module's own code, medians of alternating runs."""
    parameter = next(iter(module.parameters()), None)
    if parameter is None or parameter.device.type != "cpu" or module.training:
        return None
    trial = copy.deepcopy(module)
    x = torch.randn(_smaller(shape, family.position_axes(shape)), dtype=parameter.dtype)
    own: list[float] = []
    ours: list[float] = []
    with torch.no_grad():
        for _ in range(_ROUNDS):
            own.append(_seconds(lambda: trial(x)))
            ours.append(_seconds(lambda: family.run(trial, x)))
    return sorted(ours)[_ROUNDS // 2] / sorted(own)[_ROUNDS // 2]


def _smaller(shape: Sequence[int], axes: Sequence[int]) -> list[int]:
    """The shape of one item with at most as many positions as a timed run may have.

    Args:
        shape: shape of an input.
        axes: its axes that are positions; the largest is halved repeatedly.
    """
    kept = [1, *shape[1:]]
    while math.prod(kept[axis] for axis in axes) > _MOST_POSITIONS:
        kept[max(axes, key=lambda axis: kept[axis])] //= 2
    return kept


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
