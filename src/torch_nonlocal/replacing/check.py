"""The numerical check of a module against its family: output and gradients on random values, in float64.

A copy with random parameters and buffers runs, since a new module whose last norm is zero is the identity whatever it
computes. The module itself, its buffers and the random numbers of the process are not changed.
"""

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torch_nonlocal._common.text import reason_of
from torch_nonlocal._common.wrappers import is_a
from torch_nonlocal.replacing.family import Family

TOLERANCE = 1e-5  # of the largest absolute value of each output and gradient
_FLOOR = 1e-6  # of the largest value of all outputs and gradients
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_WEIGHT_HOOKS = (SpectralNorm, WeightNorm, BasePruningMethod)  # they compute a weight before each forward


@dataclass(frozen=True)
class Checked:
    """The result of a check.

    Attributes:
        error: largest difference of an output or gradient, relative to its largest absolute value; inf if its own code
            did not run.
        where: what differs most, such as "the gradient of phi.0.weight".
        failure: the error that the module's own code raised; None if it ran.
    """

    error: float
    where: str
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """Whether outputs and gradients agree."""
        return self.error <= TOLERANCE


class Trial:
    """A copy of a module with random parameters and buffers, compared with one family after the other.

    Args:
        module: a module with its own code.

    Raises:
        ValueError: if the module cannot be copied.
    """

    def __init__(self, module: nn.Module) -> None:
        try:
            self._copy = _randomized(module)
        except Exception as error:  # the code of others
            raise ValueError(f"it cannot be copied: {reason_of(error)}") from error
        self._on_mps = next((one.device.type for one in module.parameters()), "cpu") == "mps"
        self._own: dict[Any, dict[str, Tensor | None]] = {}

    def check(self, family: Family) -> Checked:
        """Compare the module with a family in eval and then in train mode.

        Args:
            family: a family whose structure it has.
        """
        trial = self._copy
        family.prepare(trial)
        worst = Checked(0.0, "")
        for training in (False, True):
            trial.train(training)
            shape = tuple(family.example(trial, family.example_size(trial)).shape)
            run = (training, shape, type(family).prepare)
            try:
                if run not in self._own:
                    self._own[run] = _own_results(trial, shape)
                own = self._own[run]
            except Exception as error:  # the code of others
                return Checked(float("inf"), "", reason_of(error))
            try:
                ours = _results(trial, lambda x: family.run(trial, x), shape)
            except Exception as error:  # the structure differs in a way that `mismatch` does not see
                return Checked(float("inf"), f"an error of the family: {reason_of(error)}")
            largest = max(float(value.abs().max()) for value in own.values() if value is not None and value.numel())
            for name, value in own.items():
                error = _difference(value, ours.get(name), _FLOOR * largest)
                if not error <= worst.error:
                    worst = Checked(error, f"{name} in {'train' if training else 'eval'} mode")
            if not worst.passed:
                break
        return worst

    def builds_map(self, family: Family) -> bool:
        """Return whether the own code of the module makes a tensor with two axes of the sizes N and M.

        Args:
            family: the family that it agrees with.
        """
        if self._on_mps:
            return True  # PyTorch's fused attention builds the map there
        trial = self._copy.eval()
        widths = {size for one in [*trial.parameters(), *trial.buffers()] for size in one.shape}
        size = list(family.example_size(trial))
        for _ in range(len(widths) + 2):
            example = family.example(trial, size).double().normal_()
            _, queries, keys, _, _ = family.sizes(trial, example.shape)
            if not {queries, keys} & widths and queries > 2 * len(example):  # no parameter has an axis of this size
                with _Maps(queries, keys) as maps, torch.no_grad(), torch.autocast("cpu", enabled=False):
                    trial(example)
                return maps.found
            size[-1] += 2
        return True


class _Maps(TorchDispatchMode):
    """Notes whether a tensor has the axes N and M."""

    def __init__(self, queries: int, keys: int) -> None:
        super().__init__()
        self._axes, self.found = sorted((queries, keys)), False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for one in tree_leaves(outputs):
            if isinstance(one, Tensor):
                sizes = [size for size in one.shape if size in self._axes]
                self.found |= len(sizes) > 1 and {*self._axes} <= {*sizes}
        return outputs


def _own_results(trial: nn.Module, shape: tuple[int, ...]) -> dict[str, Tensor | None]:
    """The results of the module's own code; without gradients if it has none, as mmcv's concatenation form."""
    try:
        return _results(trial, trial, shape)
    except Exception:  # the code of others
        return _results(trial, trial, shape, gradients=False)


def _results(
    trial: nn.Module, forward: Any, shape: tuple[int, ...], *, gradients: bool = True
) -> dict[str, Tensor | None]:
    """The outputs, the buffers after the run, and the gradients of the input and of all parameters."""
    draw = torch.Generator().manual_seed(1)
    state = {name: buffer.clone() for name, buffer in trial.named_buffers()}
    x = torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=gradients)
    trial.zero_grad(set_to_none=True)
    results: dict[str, Tensor | None] = {}
    try:
        with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(gradients), torch.autocast("cpu", enabled=False):
            torch.manual_seed(0)
            outputs = [one for one in tree_leaves(forward(x)) if isinstance(one, Tensor)]
            results |= {f"output {number}": one.detach() for number, one in enumerate(outputs)}
            if gradients:
                loss = sum((one * torch.randn(one.shape, generator=draw, dtype=one.dtype)).sum() for one in outputs)
                assert isinstance(loss, Tensor)
                loss.backward()
                results["the gradient of the input"] = x.grad
                results |= {f"the gradient of {name}": one.grad for name, one in trial.named_parameters()}
        results |= {f"the buffer {name}": buffer.clone() for name, buffer in trial.named_buffers()}
    finally:
        with torch.no_grad():
            for name, buffer in trial.named_buffers():
                buffer.copy_(state[name])
    return results


def _randomized(module: nn.Module) -> nn.Module:
    """A copy in float64 on the CPU, random and without hooks, except those that compute weights."""
    draw = torch.Generator().manual_seed(0)
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        spread = max(parameter.shape[1:].numel(), 1) ** -0.5 if parameter.ndim > 1 else 0.5
        values = torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * spread
        memo[id(parameter)] = nn.Parameter(values)
    for buffer in module.buffers():
        if buffer.is_floating_point():  # a factor of ones or an offset of zeros would hide that it is used
            values = torch.rand(buffer.shape, generator=draw, dtype=torch.float64) + 0.5
        elif buffer.is_meta:
            values = torch.zeros(buffer.shape, dtype=buffer.dtype)
        else:
            values = buffer.detach().to("cpu", copy=True)
        memo[id(buffer)] = values
    for one in module.modules():
        for value in vars(one).values():  # a weight that a hook or a pruning computed
            if isinstance(value, Tensor):
                memo[id(value)] = value.detach().to("cpu", torch.float64 if value.is_floating_point() else value.dtype)
        for kind in _HOOKS:
            hooks = vars(one)[kind]
            kept = [(key, copy.copy(hook)) for key, hook in hooks.items() if isinstance(hook, _WEIGHT_HOOKS)]
            memo[id(hooks)] = OrderedDict(kept)
    for one in reversed([*module.modules()]):
        if is_a(one, "torch", "FSDPModule"):  # its class refuses copies
            memo[id(one)] = _without_sharding(one, memo)
    return copy.deepcopy(module, memo)


def _without_sharding(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy of a module of FSDP2 as an instance of the class that it had before."""
    classes = type(module).__mro__
    before = [kind.__name__ for kind in classes].index("FSDPModule") + 1
    copied = nn.Module.__new__(classes[before])
    for name, value in vars(module).items():
        if not name.startswith("__composable_api_state"):
            vars(copied)[name] = copy.deepcopy(value, memo)
    return copied


def _difference(one: Tensor | None, other: Tensor | None, floor: float) -> float:
    """The largest difference relative to the largest value; inf if one is missing or has another shape.

    Args:
        one: an output or gradient, None if there is none.
        other: the one to compare.
        floor: values below it count as zero, such as the gradient of a bias before a batch norm.
    """
    if one is None or other is None:
        return 0.0 if one is other or not (one if other is None else other).any() else float("inf")  # pyright: ignore
    if one.shape != other.shape:
        return float("inf")
    if one.numel() == 0:
        return 0.0
    one, other = one.double(), other.double()
    return float((one - other).abs().max() / one.abs().max().clamp(min=floor))
