"""N x M maps that a module returns beside its output, built only if they are used."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

_METADATA = {
    Tensor.shape.__get__,  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.dtype.__get__,  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.device.__get__,  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.ndim.__get__,  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.layout.__get__,  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.is_cuda.__get__,  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.nelement,
    Tensor.is_floating_point,
    Tensor.__len__,
}


class DeferredMap(Tensor):
    """A tensor that is computed at its first use. Shape, dtype and device are known before.

    Any operation, also of autograd, acts on the computed tensor, which is kept. Until then, it holds what it is
    computed from, of size N + M.
    """

    _build: Callable[[], Tensor]
    _built: Tensor | None

    @staticmethod
    def __new__(
        cls, build: Callable[[], Tensor], shape: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> Any:
        made = Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=dtype, device=device)  # pyright: ignore
        made._build, made._built = _in_present_modes(build, device.type), None
        return made

    def __init__(self, *_: Any) -> None:
        pass

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(DeferredMap, _built, (args, kwargs or {}))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer callers that do not ask `__torch_function__`, such as functions written in C++. Without gradients."""
        args, kwargs = tree_map_only(DeferredMap, lambda one: _built(one).detach(), (args, kwargs or {}))
        return func(*args, **kwargs)


def deferred(build: Callable[[], Tensor], shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor that `build` computes at its first use. Compiled and exported code computes it at once.

    Args:
        build: computes the tensor. It runs in the modes of now: with gradients, and under autocast, if they are on now.
        shape: shape of the tensor.
        dtype: its dtype.
        device: its device.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return build()
    return DeferredMap(build, shape, dtype, device)


def _built(one: DeferredMap) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():  # of attribute access
        if one._built is None:
            one._built = one._build()
            one._build = _no_longer  # releases what it was computed from
        return one._built


def _no_longer() -> Tensor:
    raise AssertionError("the map was built before")


def _in_present_modes(build: Callable[[], Tensor], kind: str) -> Callable[[], Tensor]:
    grad = torch.is_grad_enabled()
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None

    def run() -> Tensor:
        cast = contextlib.nullcontext() if half is None else torch.autocast(kind, half)
        with torch.set_grad_enabled(grad), cast:
            return build()

    return run
