"""`optimize`: a network made faster on a CPU, by measurement, in place and undoably."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torch_nonlocal._common.capture import capture_outputs, evaluating
from torch_nonlocal._common.wrappers import named_modules
from torch_nonlocal.insertion.probe import call
from torch_nonlocal.layers import Block
from torch_nonlocal.optimization.convolutions import (
    Uses,
    can_be_fast,
    drop_packed,
    make_fast,
    named_forward,
    own_type,
    packed_forward,
    uses_of,
)

TOLERANCE = 1e-5  # of the largest absolute value of the output
_GAIN = 0.95  # a layer is changed if it takes less than this share of its time
_ROUNDS = 3


@dataclass(frozen=True)
class Optimized:
    """What `optimize` chose. `print` shows it in a sentence.

    Attributes:
        layers: names of the convolutions that use oneDNN by name.
        convolutions: number of the convolutions of the network outside its blocks.
        seconds_before: seconds of a forward pass before (of a training step with training=True), the fastest of three.
        seconds_after: the same afterwards.
        error: largest difference of the output, relative to its largest absolute value.
        reason: why nothing was changed; "" if something was.
    """

    layers: tuple[str, ...]
    convolutions: int
    seconds_before: float
    seconds_after: float
    error: float
    reason: str = ""
    _before: tuple[tuple[nn.Module, Uses], ...] = field(default=(), repr=False, compare=False)

    def undo(self) -> None:
        """Give the modules the code back that they had before."""
        _set(self._before)
        for module, _ in self._before:
            drop_packed(module)

    def __str__(self) -> str:
        if self.reason:
            return f"nothing was changed: {self.reason}"
        share = self.seconds_after / self.seconds_before
        return (
            f"{len(self.layers)} of {self.convolutions} convolutions use oneDNN by name: "
            f"{self.seconds_before:.3f} s -> {self.seconds_after:.3f} s per pass (x {share:.2f}); "
            f"the output differs by {self.error:.0e} of its largest value"
        )


def optimize(model: nn.Module, example_input: Any, *, training: bool = False) -> Optimized:
    """Make a network faster on the CPU, in place: choose by measuring, and check the output.

    Each convolution outside the blocks is timed as it is and with oneDNN called by name, for inference with weights
    that are packed once, on the input that it gets from the example; the faster one is kept. The outputs of the network
    before and after are compared. Parameters, state_dict keys and hooks do not change. Packed weights take as much
    memory as the weights, and are packed again when the weights change. Calls on other devices or in other dtypes,
    under autocast, and compiled or exported code run as before.

    Args:
        model: a network; changed in place. The mode does not change; the trial runs in eval mode without gradients.
        example_input: an input of the model, as for `nl.insert`, of a typical size.
        training: measure forward and backward, and change the calls with gradients instead of those without.

    Returns:
        What was chosen; its `undo` method gives the network back as it was.

    Example:
        >>> print(nl.optimize(model, torch.randn(1, 3, 32, 224, 224)))
    """
    inside = {module for block in model.modules() if isinstance(block, Block) for module in block.modules()}
    convs = {n: m for n, m in named_modules(model).items() if isinstance(m, nn.Conv2d | nn.Conv3d) and m not in inside}
    offered = {name: conv for name, conv in convs.items() if can_be_fast(conv)}
    if not offered:
        why = "it has no convolution in float32 on a CPU" if not convs else "oneDNN does not compute its convolutions"
        return Optimized((), len(convs), 0.0, 0.0, 0.0, why)
    with evaluating(model), torch.no_grad():
        return _chosen(model, example_input, offered, len(convs), training)


def _chosen(model: nn.Module, example_input: Any, offered: dict[str, Any], count: int, training: bool) -> Optimized:
    def run() -> list[Tensor]:
        torch.manual_seed(0)
        with capture_outputs({"": model}) as seen, torch.set_grad_enabled(training):
            call(model, example_input)
            outputs = [one for one in tree_leaves(seen[""]) if isinstance(one, Tensor)]
            wanted = [one.sum() for one in outputs if one.requires_grad]
            if wanted:  # gradients are computed and dropped, so those of the parameters do not change
                torch.autograd.grad(torch.stack(wanted).sum(), trained, allow_unused=True)
        return [one.detach() for one in outputs]

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = run()
    faster = _faster_layers(offered, run, training)
    if not faster:
        return Optimized((), count, 0.0, 0.0, 0.0, "no convolution was faster with oneDNN called by name")
    own = tuple((offered[name], uses_of(offered[name])) for name in faster)
    changed = tuple((one, uses._replace(**{"training" if training else "inference": True})) for one, uses in own)
    _set(changed)
    error = max((_difference(one, other) for one, other in zip(expected, run(), strict=True)), default=0.0)
    before, after = [], []
    for _ in range(_ROUNDS):  # alternating, since other work on the machine comes and goes
        for uses, times in ((own, before), (changed, after)):
            _set(uses)
            times.append(_seconds(run))
    if not error <= TOLERANCE or min(after) >= min(before):
        _set(own)
        why = "the network was not faster" if error <= TOLERANCE else f"the output differed by {error:.0e}"
        return Optimized((), count, min(before), min(before), 0.0, why)
    return Optimized(tuple(faster), count, min(before), min(after), error, _before=own)


def _set(uses: Sequence[tuple[nn.Module, Uses]]) -> None:
    for module, one in uses:
        make_fast(module, one)


def _faster_layers(offered: dict[str, Any], run: Callable[[], Any], training: bool) -> list[str]:
    """The layers that take less time with oneDNN, each timed on the input it gets in a run of the network."""
    known: dict[Any, bool] = {}
    faster: list[str] = []

    def hook_of(name: str) -> Callable[..., None]:
        def hook(conv: Any, args: tuple[Any, ...]) -> None:
            x = args[0]
            key = (conv.weight.shape, conv.stride, conv.padding, conv.dilation, conv.groups, x.shape, x.stride())
            if key not in known:
                known[key] = _is_faster(conv, x.detach(), x.requires_grad, training)
            if known[key] and name not in faster:
                faster.append(name)

        return hook

    handles = [conv.register_forward_pre_hook(hook_of(name)) for name, conv in offered.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return faster


def _is_faster(conv: Any, x: Tensor, needs_gradient: bool, training: bool) -> bool:
    fast = named_forward if training else packed_forward
    wanted = [one for one in (x.requires_grad_(needs_gradient), *conv.parameters()) if one.requires_grad]

    def work(forward: Callable[[Any, Tensor], Tensor]) -> None:
        with torch.set_grad_enabled(training):
            y = forward(conv, x)
            if training and wanted:
                torch.autograd.grad(y.sum(), wanted)

    try:
        work(fast)
    except RuntimeError:  # oneDNN refuses the geometry
        return False
    plain, packed = [], []
    for _ in range(_ROUNDS):
        plain.append(_seconds(lambda: work(own_type(conv).forward)))
        packed.append(_seconds(lambda: work(fast)))
    return min(packed) < _GAIN * min(plain)


def _seconds(work: Callable[[], Any]) -> float:
    """Seconds of a call: CPU time with one thread, which other work on the machine affects less."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def _difference(one: Tensor, other: Tensor) -> float:
    if not one.is_floating_point() or one.numel() == 0:
        return 0.0 if torch.equal(one, other) else float("inf")
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-30))
