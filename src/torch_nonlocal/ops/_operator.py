"""Operators of our own: one node to torch.compile, autograd and FLOP counters.

Made from the parts that `torch.library.custom_op` is made of, with one difference: that decorator wraps the kernel so
that its first call imports all of torch.compile, a second and 150 MB that somebody who never compiles need not pay.
"""

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "torch_nonlocal"


class Operator:
    """A function of tensors that PyTorch treats as one operation; it changes none of its arguments.

    Args:
        function: the kernel for every device, with annotated arguments; named `_name`, it is called
            `torch.ops.torch_nonlocal.name`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = f"{NAMESPACE}::{function.__name__.removeprefix('_')}"
        torch.library.define(self.name, torch.library.infer_schema(function, mutates_args=()))
        torch.library.impl(self.name, "default", function)

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: the shapes and strides of the outputs, without values."""
        return torch.library.register_fake(self.name, function)

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]) -> None:
        """The gradient, as `torch.library.register_autograd` takes it."""
        torch.library.register_autograd(self.name, backward, setup_context=setup_context)
