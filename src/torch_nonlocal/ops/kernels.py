"""Fused attention kernels: a registry, and a check of each before its first use.

A kernel computes the softmax forms over keys in memory linear in N + M. Kernels are compiled for many devices, dtypes
and widths, and some combinations have returned wrong results or raised errors. Before a kernel is first used in a
process for a device model, a dtype and a width, it is compared there with the definition on a small input, forward and,
for training, backward. A kernel that fails is left out with a warning, and the next one or tiles are used.

Kernels of other packages are registered by `register`; the latest is tried first. PyTorch's is in `ops.fused`.
"""

import operator
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_nonlocal.ops import dense

TOLERANCES = {torch.float64: 1e-6, torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest error relative to the largest value of a tensor. Accelerators may multiply float32 as TF32."""


@dataclass(frozen=True)
class Kernel:
    """A way to compute the softmax forms over keys without the N x M map.

    Attributes:
        name: its name in messages, such as "PyTorch's fused attention kernel".
        cannot_run: called with device, dtype, D and V. Returns the reason why the kernel cannot run, or None.
        run: called with theta (B, N, D), phi (B, M, D), g (B, M, V) and `scale`. Returns y (B, N, V), with a gradient.
        wins: called with device and D. Returns whether the kernel is faster than tiles.
    """

    name: str
    cannot_run: Callable[[torch.device, torch.dtype, int, int], str | None]
    run: Callable[..., Tensor]
    wins: Callable[[torch.device, int], bool] = lambda device, width: True


_kernels: list[Kernel] = []
_verdicts: dict[tuple[str, torch.device, torch.dtype, int, bool], str | None] = {}
_by_model: dict[tuple[str, str, torch.dtype, int, bool], str | None] = {}
_lock = threading.RLock()


def register(kernel: Kernel) -> None:
    """Try a kernel before all others. It replaces a kernel of the same name.

    Raises:
        ValueError: if the kernel has no name.
    """
    if not kernel.name:
        raise ValueError("a kernel needs a name, which messages and its checks refer to; got ''")
    unregister(kernel.name)
    _kernels.insert(0, kernel)


def unregister(name: str) -> None:
    """Remove a kernel and the results of its checks. Unknown names are ignored."""
    with _lock:
        _kernels[:] = [kernel for kernel in _kernels if kernel.name != name]
        for key in [key for key in _verdicts if key[0] == name]:
            del _verdicts[key]
        for place in [place for place in _by_model if place[0] == name]:
            del _by_model[place]


def first(
    device: torch.device, dtype: torch.dtype, width: int, values: int, *, training: bool, winning: bool = False
) -> Kernel | None:
    """Return the first kernel that can run and has passed its check, or None.

    Args:
        device: device of the inputs.
        dtype: dtype of the inputs.
        width: D.
        values: V.
        training: whether its gradients are needed.
        winning: consider only kernels that are faster than tiles.
    """
    for kernel in _kernels:
        if winning and not kernel.wins(device, width):
            continue
        if why_not(kernel, device, dtype, width, values, training=training) is None:
            return kernel
    return None


def why_not(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, width: int, values: int, *, training: bool
) -> str | None:
    """Return why a kernel is not used, or None: it cannot run, or its check failed."""
    reason = kernel.cannot_run(device, dtype, width, values)
    width = operator.index(width)  # torch.compile then has one graph per width
    return reason if reason is not None else _verdict(kernel.name, device, dtype, width, training)


def _verdict(name: str, device: torch.device, dtype: torch.dtype, width: int, training: bool) -> str | None:
    key = name, device, dtype, width, training
    return _verdicts[key] if key in _verdicts else _first_verdict(key)


# As torch.compiler.assume_constant_result does: torch.compile takes the verdict of the real call.
_verdict._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def _first_verdict(key: tuple[str, torch.device, torch.dtype, int, bool]) -> str | None:
    name, device, dtype, width, training = key
    if not width:  # there is nothing to compare
        return None
    if device.type == "cuda" and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return None  # other work would break the CUDA graph
    with _lock:
        if key in _verdicts:
            return _verdicts[key]
        model = _model(device)
        if model is None:  # the device is not here: only the choice for it is asked for
            return None
        kernel = next((one for one in _kernels if one.name == name), None)
        if kernel is None:
            return "it is no longer registered"
        place = name, model, dtype, width, training
        if place not in _by_model:
            _by_model[place] = reason = _failure(kernel, device, dtype, width, training)
            if reason is not None:
                warnings.warn(
                    f"{name} is not used for {dtype}, D = {width} on {model}: {reason}. Another algorithm is used.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            elif training:
                _by_model.setdefault((name, model, dtype, width, False), None)
        _verdicts[key] = _by_model[place]
        return _verdicts[key]


def _model(device: torch.device) -> str | None:
    """The device type and the name of the model, or None if this machine has no such device."""
    if device.type == "cpu":
        return "cpu"
    module = getattr(torch, device.type, None)
    if module is None or not getattr(module, "is_available", lambda: True)():
        return None
    named = getattr(module, "get_device_name", None)
    return device.type if named is None else f"{device.type} ({named(device)})"


def _failure(kernel: Kernel, device: torch.device, dtype: torch.dtype, width: int, training: bool) -> str | None:
    """Compare a kernel with the definition. Return what is wrong, or None.

    It runs in a thread of its own, where no mode of the caller is active: autocast, inference mode, fake tensors, hooks
    of saved tensors, a default device.
    """
    found: list[str | None] = []

    def work() -> None:
        try:
            found.append(_difference(kernel, device, dtype, width, training))
        except Exception as error:
            found.append(f"it raises {type(error).__name__}: {error}")

    thread = threading.Thread(target=work, name="torch-nonlocal-check")
    thread.start()
    thread.join()
    return found[0]


def _difference(kernel: Kernel, device: torch.device, dtype: torch.dtype, width: int, training: bool) -> str | None:
    batch, queries, keys = 2, 37, 70  # no multiples of the sizes of a kernel's blocks
    theta, phi, g, dy = (
        _numbers((batch, count, width), offset).to(dtype).double()
        for offset, count in enumerate((queries, keys, keys, queries))
    )
    scale = 4 * width**-0.5  # some weights are close to one, most are not
    expected = _results(dense.softmax, (theta, phi, g), dy, scale, training)
    inputs = tuple(tensor.to(device, dtype) for tensor in (theta, phi, g))
    results = _results(kernel.run, inputs, dy.to(device, dtype), scale, training)
    allowed = TOLERANCES.get(dtype, max(TOLERANCES.values()))
    for name, result, right in zip(("output", "gradient of theta", "of phi", "of g"), results, expected, strict=False):
        if result.shape != right.shape:
            return f"its {name} has the shape {tuple(result.shape)}, expected {tuple(right.shape)}"
        error = ((result.to("cpu", torch.float64) - right).abs().amax() / right.abs().amax()).item()
        if not error <= allowed:
            return f"its {name} differs from the definition by {error:.2g} of the largest value, allowed {allowed:g}"
    return None


def _results(
    run: Callable[..., Tensor], inputs: tuple[Tensor, ...], dy: Tensor, scale: float, training: bool
) -> list[Tensor]:
    if not training:
        with torch.no_grad():
            return [run(*inputs, scale=scale)]
    leaves = [tensor.requires_grad_() for tensor in inputs]
    y = run(*leaves, scale=scale)
    # A scalar, since torch.autograd.grad with grad_outputs imports sympy.
    return [y.detach(), *torch.autograd.grad((y.to(dy.dtype) * dy).sum(), leaves)]


def _numbers(shape: tuple[int, ...], offset: int) -> Tensor:
    """Numbers in (-1, 1) that look random. Random ones would change the state of the generator."""
    count = torch.Size(shape).numel()
    index = torch.arange(count, dtype=torch.float64, device="cpu") + offset * 7919
    return ((index * 12.9898).sin() * 43758.5453).frac().view(shape)
