"""Initialization of the last module of a block to zero, so that a new block is the identity.

Networks initialize their modules again in several ways: they call `reset_parameters` of every module, they apply a
function to every module, and transformers initializes the modules that a checkpoint lacks. Each would set a norm to
one. `ZeroReset`, `stays_identity` and `after_transformers` keep a reset block the identity.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

FLAG = "_is_hf_initialized"
"""Attribute with which transformers marks initialized modules and loaded tensors."""


class ZeroReset:
    """The `reset_parameters` of a module that is initialized to zero. It is an attribute of the instance.

    The module keeps its class, by which other tools find norms and convolutions.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> None:
        """Reset the module as its class does, then set its parameters to zero."""
        type(self.module).reset_parameters(self.module)  # pyright: ignore[reportAttributeAccessIssue]
        set_zero(self.module.parameters(recurse=False))


def zero_initialized(module: nn.Module) -> nn.Module:
    """Set the parameters of a module to zero, now and whenever its `reset_parameters` is called."""
    set_zero(module.parameters(recurse=False))
    module.reset_parameters = ZeroReset(module)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return module


@torch.no_grad()
def set_zero(parameters: Iterable[Tensor]) -> None:
    """Set tensors to zero. Unlike `nn.init.zeros_`, tools that skip initialization do not replace this."""
    for parameter in parameters:
        parameter.zero_()


def stays_identity(function: Callable[..., Any], last: nn.Module) -> Callable[[], None]:
    """Note the parameters of the last module before `nn.Module.apply`, and return what to call afterwards.

    If the function is an initializer ("init" in its name) and has changed the parameters, they become zero. All other
    functions, and parameters that the function does not touch, are left alone.
    """
    while hasattr(function, "func"):  # functools.partial
        function = function.func  # pyright: ignore[reportFunctionMemberAccess]
    if "init" not in getattr(function, "__name__", ""):
        return lambda: None
    before = [parameter.detach().clone() for parameter in last.parameters()]

    def restore() -> None:
        after = list(last.parameters())
        if any(_differs(*pair) for pair in zip(before, after, strict=False)):
            set_zero(after)

    return restore


def after_transformers(last: nn.Module) -> None:
    """Set the last module to zero if transformers has just initialized it.

    transformers marks a module after it has initialized it, and the tensors that it has loaded from a checkpoint. A
    trained module, whose bias is not zero, is left alone when others mark it.
    """
    fresh = [parameter for parameter in last.parameters() if not getattr(parameter, FLAG, False)]
    bias = getattr(last, "bias", None)
    if getattr(last, FLAG, False) and isinstance(bias, Tensor) and not bias.is_meta and not bias.detach().any():
        set_zero(fresh)


def _differs(before: Tensor, after: Tensor) -> bool:
    if before.is_meta or after.is_meta:
        return False
    return before.shape != after.shape or not torch.equal(before, after.detach().to(before))
