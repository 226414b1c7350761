"""N x M maps that a module returns beside its output, built only if they are used."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from torch_nonlocal._common.tracing import is_dual, needs_plain_operations

Build = Callable[[Tensor, Tensor], Tensor]


class DeferredMap(Tensor):
    """A tensor that is computed at its first use and kept. Shape, dtype and device are known before.

    For autograd, it is the output of one operation on theta and phi. Below autograd, any operation on it computes it
    and acts on the result. Until then, it holds what it is computed from, of size N + M.
    """

    _build: Callable[[], Tensor] | None
    _built: Tensor | None

    @staticmethod
    def __new__(cls, build: Callable[[], Tensor], shape: Sequence[int], like: Tensor) -> Any:
        made = Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=like.dtype, device=like.device)  # pyright: ignore
        made._build, made._built = build, None
        return made

    def __init__(self, *_: Any) -> None:
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(DeferredMap, DeferredMap.values_now, (args, kwargs or {}))
        return func(*args, **kwargs)

    def values_now(self) -> Tensor:
        """Return the values as a plain tensor without a gradient."""
        if self._built is None:
            assert self._build is not None
            with torch.no_grad():
                self._built = self._build()
            self._build = None  # releases what it was computed from
        return self._built

    def plain(self) -> Tensor:
        """Return the map as a plain tensor with its gradient."""
        return _Plain.apply(self)  # pyright: ignore[reportReturnType]

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain().numpy(*args, **kwargs)

    def tolist(self) -> Any:
        return self.plain().tolist()

    def __repr__(self, **kwargs: Any) -> str:
        return repr(self.plain())

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.plain().detach().clone().requires_grad_(self.requires_grad)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.plain().__reduce_ex__(protocol)


def deferred_map(build: Build, theta: Tensor, phi: Tensor, shape: Sequence[int]) -> Tensor:
    """Return `build(theta, phi)`, computed at its first use. Compiled and exported code computes it at once.

    Args:
        build: computes the map (B, N, M), or its transpose, from theta and phi by ordinary operations.
        theta: (B, D, N).
        phi: (B, D, M).
        shape: shape of the map.
    """
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if traced or needs_plain_operations(theta) or is_dual(theta) or is_dual(phi):
        return build(theta, phi)
    return _Deferred.apply(_as_now(build, theta.device.type), theta, phi, shape)  # pyright: ignore[reportReturnType]


class _Deferred(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, build: Build, theta: Tensor, phi: Tensor, shape: Sequence[int]) -> Tensor:
        ctx.save_for_backward(theta, phi)
        ctx.build = build
        like = build(theta[..., :1], phi[..., :1])  # of its dtype, which autocast may choose
        theta, phi = theta.detach(), phi.detach()
        return DeferredMap(lambda: build(theta, phi), shape, like)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        twice = torch.is_grad_enabled()  # create_graph=True
        with torch.enable_grad():
            theta, phi = (one if one.requires_grad else one.detach().requires_grad_() for one in ctx.saved_tensors)
            found = torch.autograd.grad(ctx.build(theta, phi), (theta, phi), grads, create_graph=twice)
        return None, *found, None


class _Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: DeferredMap) -> Tensor:
        return one.values_now().view_as(one.values_now())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0]


def _as_now(build: Build, kind: str) -> Build:
    """Let a function run under the autocast of now."""
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None

    def run(theta: Tensor, phi: Tensor) -> Tensor:
        with nullcontext() if half is None else torch.autocast(kind, half):
            return build(theta, phi)

    return run
