"""Whether a call computes, or is only being recorded or lifted by a transform."""

from typing import Any

import torch


def is_recorded(x: Any) -> bool:
    """True under fx symbolic tracing and torch.jit.trace: Python checks of shapes would fail or be frozen."""
    return isinstance(x, torch.fx.Proxy) or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def needs_plain_operations(x: Any) -> bool:
    """True where an operator of our own would not do: exporting, recording, torch.func transforms such as vmap."""
    if is_recorded(x) or torch.compiler.is_exporting():
        return True
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.is_batchedtensor(x)  # pyright: ignore[reportAttributeAccessIssue]


def is_dual(x: Any) -> bool:
    """True for a tensor with a forward-mode tangent."""
    return not torch.compiler.is_compiling() and torch.autograd.forward_ad.unpack_dual(x).tangent is not None
