"""Module hooks that are called only in the thread, or the asyncio task, that registered them.

A hook of PyTorch is called in every thread that runs its module. The hooks here are found in the module's dictionaries
by all threads too, but they do nothing in others: they change no result, are not traced by torch.compile, and do not
survive a copy or a pickle of the module.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from torch_nonlocal._common.context_values import Held, added, values_of

_numbers = itertools.count()
# A thread starts without any; an asyncio task, and `asyncio.to_thread`, start with those of the code that starts them.
_open: ContextVar[tuple[Held[int], ...]] = ContextVar("torch_nonlocal_open_hooks", default=())


class OwnHooks:
    """Registers hooks; see `own_hooks`. TorchScript modules call no hooks and are passed over."""

    def __init__(self, number: int, stack: ExitStack) -> None:
        self._number, self._stack = number, stack

    def is_own(self) -> bool:
        """Return whether the caller runs in the thread or task that opened the hooks, inside the context."""
        return self._number in values_of(_open)

    def before(self, module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        """Call `hook(module, args, kwargs)` before each forward of the module, before its other hooks."""
        if isinstance(module, torch.jit.ScriptModule):
            return
        own = _Hook(self._number, hook)
        handle = module.register_forward_pre_hook(own, with_kwargs=True, prepend=True)
        self._stack.callback(handle.remove)

    def after(self, module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...], Any], Any]) -> None:
        """Call `hook(module, args, output)` after each forward of the module."""
        if isinstance(module, torch.jit.ScriptModule):
            return
        handle = module.register_forward_hook(_Hook(self._number, hook))
        self._stack.callback(handle.remove)


@contextmanager
def own_hooks() -> Iterator[OwnHooks]:
    """Register hooks for runs of this thread, or asyncio task, inside the context; they are removed afterwards."""
    number = next(_numbers)
    with added(_open, number), ExitStack() as stack:
        yield OwnHooks(number, stack)


class _Hook:
    def __init__(self, number: int, hook: Callable[..., Any]) -> None:
        self._number, self._hook = number, hook

    def __call__(self, module: nn.Module, args: tuple[Any, ...], *rest: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():  # another thread compiles the module
            return None
        # Without `rest`, another thread runs the module while the hook is being registered or removed.
        return self._hook(module, args, *rest) if self._number in values_of(_open) and rest else None

    def __deepcopy__(self, _memo: Any) -> "_Hook":
        return _Hook(-1, _nothing)

    def __reduce__(self) -> Any:
        return _Hook, (-1, _nothing)


def _nothing(*_: Any) -> None:
    return None
