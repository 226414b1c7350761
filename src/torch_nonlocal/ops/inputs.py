"""Checks and conversions of the inputs of the forms."""

import torch
from torch import Tensor

from torch_nonlocal._common.autocast import autocast_dtype
from torch_nonlocal._common.tracing import is_dual, is_recorded, needs_plain_operations
from torch_nonlocal.ops.names import Algorithm, Normalize


def differentiable(algorithm: Algorithm, *inputs: Tensor | None) -> Algorithm:
    """Return the algorithm, or "dense" where only ordinary operations have derivatives: transforms and tangents."""
    if algorithm == "dense" or needs_plain_operations(inputs[0]):
        return "dense"
    if any(tensor is not None and is_dual(tensor) for tensor in inputs):
        if algorithm == "auto":
            return "dense"
        raise NotImplementedError(
            f"algorithm={algorithm!r} has no forward-mode derivatives: expected 'dense', which consists of ordinary "
            "PyTorch operations, or 'auto', which then uses it"
        )
    return algorithm


def one_dtype(form: str, **given: Tensor) -> tuple[Tensor, ...]:
    """Convert to the dtype of autocast, as for matrix products. Without autocast, all dtypes must agree."""
    tensors = tuple(given.values())
    half = autocast_dtype(tensors[0].device)
    if half is not None:
        return tuple(tensor if tensor.dtype == torch.float64 else tensor.to(half) for tensor in tensors)
    if len({tensor.dtype for tensor in tensors}) > 1:
        dtypes = ", ".join(f"{name} {tensor.dtype}" for name, tensor in given.items())
        raise ValueError(f"{form}: expected one dtype, got {dtypes}")
    return tensors


def check_bias(key_bias: Tensor | None, phi: Tensor, normalize: Normalize) -> None:
    """Raise ValueError for a key bias of another shape than (B, M), or one that would cancel."""
    if key_bias is None:
        return
    if normalize == "queries":
        raise ValueError("key_bias has no effect with normalize='queries': it cancels in the softmax over queries")
    if not is_recorded(phi) and key_bias.shape != phi.shape[:2]:
        raise _shape_error("embedded_gaussian", "key_bias (B, M) with phi (B, M, D)", key_bias=key_bias, phi=phi)


def check_features(form: str, theta: Tensor, phi: Tensor, g: Tensor) -> None:
    """Raise ValueError if the shapes of theta, phi and g disagree, or there are no keys."""
    if is_recorded(theta):
        return
    agree = (
        theta.ndim == phi.ndim == g.ndim == 3
        and theta.shape[0] == phi.shape[0] == g.shape[0]
        and theta.shape[2] == phi.shape[2]
        and phi.shape[1] == g.shape[1]
    )
    if not agree:
        raise _shape_error(form, "theta (B, N, D), phi (B, M, D), g (B, M, V)", theta=theta, phi=phi, g=g)
    _check_keys(form, theta, g)


def check_scores(a: Tensor, b: Tensor, g: Tensor) -> None:
    """Raise ValueError if the shapes of a, b and g disagree, or there are no keys."""
    if is_recorded(a):
        return
    agree = (
        a.ndim == b.ndim == 2 and g.ndim == 3 and a.shape[0] == b.shape[0] == g.shape[0] and b.shape[1] == g.shape[1]
    )
    if not agree:
        raise _shape_error("concatenation", "a (B, N), b (B, M), g (B, M, V)", a=a, b=b, g=g)
    _check_keys("concatenation", a, g)


def _check_keys(form: str, queries: Tensor, g: Tensor) -> None:
    """Refuse queries without keys, for which eq. 1 is 0 / 0. Without queries the result is empty."""
    if g.shape[1] == 0 and queries.shape[1] != 0:
        raise ValueError(f"{form}: expected at least one key, got M = 0 keys for N = {queries.shape[1]} queries")


def check_choice(name: str, given: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError if an option has none of the allowed values."""
    if given not in allowed:
        raise ValueError(f"{name}={given!r}: expected one of {', '.join(map(repr, allowed))}")


def _shape_error(form: str, expected: str, **given: Tensor) -> ValueError:
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in given.items())
    return ValueError(f"{form}: expected {expected}, got {shapes}")
