"""Whether a call computes, or is only being recorded or lifted by a transform."""

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from torch_nonlocal._common.autocast import autocast_dtype


def is_recorded(x: Any) -> bool:
    """True under fx symbolic tracing and torch.jit.trace: Python checks of shapes would fail or be frozen."""
    return isinstance(x, torch.fx.Proxy) or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def is_exported(x: Any) -> bool:
    """True while a graph for other programs is recorded: torch.export, ONNX, fx, torch.jit.trace."""
    return is_recorded(x) or torch.compiler.is_exporting()


def needs_plain_operations(x: Any) -> bool:
    """True where an operator of our own would not do: exporting, recording, torch.func transforms such as vmap."""
    return is_exported(x) or _is_transformed()


def is_plain_call(x: torch.Tensor) -> bool:
    """True where a kernel of another library can compute: an ordinary tensor, eager code, no transform, no autocast."""
    return (
        type(x) is torch.Tensor
        and not torch.compiler.is_compiling()
        and not needs_plain_operations(x)
        and autocast_dtype(x.device) is None
    )


def is_dual(x: Any) -> bool:
    """True for a tensor with a forward-mode tangent."""
    if torch.compiler.is_compiling() or torch.autograd.forward_ad._current_level < 0:
        return False
    return torch.autograd.forward_ad.unpack_dual(x).tangent is not None


def has_values(x: torch.Tensor) -> bool:
    """False for a fake tensor: `plan` runs the code inside operators without values, to count its memory."""
    return not isinstance(x, FakeTensor)


def _is_transformed() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]


# As torch.compiler.assume_constant_result does, whose first call imports all of torch.compile. Tracing then takes the
# answer of the real call, which is right: transforms that are traced are active while they are.
_is_transformed._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
