"""Custom operators: one node to torch.compile, autograd and FLOP counters.

`Operator` uses the functions of torch.library that `torch.library.custom_op` is built on. That decorator itself wraps
the kernel in code whose first call imports torch.compile, which takes one second and 150 MB.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "torch_nonlocal"


class Operator:
    """A function of tensors that PyTorch treats as one operation. It must not modify its arguments.

    The kernel receives plain tensors. Subclasses such as MONAI's MetaTensor may override methods that it calls; PyTorch
    converts the outputs as those of its own operations.

    Args:
        function: the kernel for all devices, with annotated arguments. A function `_name` becomes the operator
            `torch.ops.torch_nonlocal.name`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = f"{NAMESPACE}::{function.__name__.removeprefix('_')}"
        torch.library.define(self.name, torch.library.infer_schema(function, mutates_args=()))

        def kernel(*arguments: Any) -> Any:
            return function(*map(_plain, arguments))

        torch.library.impl(self.name, "default", kernel)

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register a function that returns outputs with the right shapes and strides, without computing values."""
        return torch.library.register_fake(self.name, function)

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]) -> None:
        """Register the gradient. The arguments are those of `torch.library.register_autograd`."""
        torch.library.register_autograd(self.name, backward, setup_context=setup_context)


def _plain(argument: Any) -> Any:
    return argument.as_subclass(Tensor) if isinstance(argument, Tensor) and type(argument) is not Tensor else argument


def gradients_like(
    theta: Tensor, phi: Tensor, g: Tensor, key_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return outputs for the gradients of a softmax form: zeros for the key bias, (B, 0) without one, else empty."""
    dtheta, dphi, dg = (tensor.new_empty(tensor.shape) for tensor in (theta, phi, g))
    return dtheta, dphi, dg, phi.new_zeros((phi.shape[0], 0 if key_bias is None else phi.shape[1]))
