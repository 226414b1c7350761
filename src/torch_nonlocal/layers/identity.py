"""A block that stays the identity when its network initializes its modules again.

Networks do so in several ways: they call `reset_parameters` of every module, they apply an initializer to every module,
and transformers initializes the modules that a checkpoint lacks. Each would set the norm of a block to one.
"""

from collections.abc import Callable, Iterable
from typing import Any, Self

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
        _set_zero(self.module.parameters(recurse=False))


def zero_initialized(module: nn.Module) -> nn.Module:
    """Set the parameters of a module to zero, now and whenever its `reset_parameters` is called."""
    _set_zero(module.parameters(recurse=False))
    module.reset_parameters = ZeroReset(module)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return module


class KeepsIdentity(nn.Module):
    """Base class of modules that are the identity while the parameters of their last module are zero."""

    _awaits_values: bool = False
    """Whether the module was built on the meta device and has not been given values since."""

    def _last(self) -> nn.Module:
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Initialize all parameters again. The module is the identity afterwards."""
        last = self._last()
        if hasattr(type(last), "reset_parameters"):
            zero_initialized(last)  # a loop over all modules comes to it next; another tool may have replaced it
        for child in self.children():
            if callable(reset := getattr(child, "reset_parameters", None)):
                reset()
        _set_zero(last.parameters())
        self._awaits_values = False

    def apply(self, fn: Callable[[nn.Module], Any]) -> Self:
        """Apply a function to the module and its children.

        If the function is an initializer ("init" in its name) and changes the last module, its parameters become zero.
        """
        last = self._last()
        before = [parameter.detach().clone() for parameter in last.parameters()] if _is_initializer(fn) else []
        super().apply(fn)
        if any(_differs(old, new) for old, new in zip(before, last.parameters(), strict=False)):
            _set_zero(last.parameters())
        return self

    @property
    def _is_hf_initialized(self) -> bool:
        """Set by transformers after it has initialized a module, children first."""
        return self.__dict__.get(FLAG, False)

    @_is_hf_initialized.setter
    def _is_hf_initialized(self, value: bool) -> None:
        self.__dict__[FLAG] = value
        if value and self._awaits_values:
            self._fill()
        elif value:
            last = self._last()
            bias = getattr(last, "bias", None)
            # Others may mark a trained module. Its bias is not zero, as it is after an initialization.
            if getattr(last, FLAG, False) and isinstance(bias, Tensor) and not bias.is_meta and not bias.any():
                _set_zero(tensor for tensor in last.parameters() if not _is_loaded(tensor))

    def _fill(self) -> None:
        """Give values to the tensors that a checkpoint lacked, whether or not the network initializes such modules."""
        tensors = [*self.parameters(), *self.buffers()]
        if any(tensor.is_meta for tensor in tensors):
            return
        loaded = [(tensor, tensor.detach().clone()) for tensor in tensors if _is_loaded(tensor)]
        if len(loaded) < len(tensors):
            self.reset_parameters()
        with torch.no_grad():
            for tensor, value in loaded:
                tensor.copy_(value)
        self._awaits_values = False


@torch.no_grad()
def _set_zero(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        parameter.zero_()  # not nn.init.zeros_, which transformers and others replace while they load


def _is_initializer(function: Any) -> bool:
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return "init" in getattr(function, "__name__", "")


def _is_loaded(tensor: Tensor) -> bool:
    return getattr(tensor, FLAG, False)


def _differs(before: Tensor, after: Tensor) -> bool:
    if before.is_meta or after.is_meta:
        return False
    return before.shape != after.shape or not torch.equal(before, after.detach().to(before))
