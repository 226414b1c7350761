"""A copy of a network's modules that shares their parameters, for runs that other threads must not notice.

Only the modules are copied: their modes, hooks, children and other attributes can then be changed freely. Parameters
are shared, so a copy takes no memory for them. Buffers are cloned, since a run may update them.
"""

import functools
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = (list, tuple, dict, set, OrderedDict, defaultdict, deque)
_PLAIN = (type(None), bool, int, float, str)
_MOST_ITEMS = 4096  # a larger container holds data, not modules
_DEEPEST = 4  # nested containers that are searched for modules
_REGISTERED = ("_modules", "_parameters", "_buffers")
_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)


class NotCopiedError(Exception):
    """A part of a network cannot be copied without its values, or its copy would run the network itself."""


class StructuralCopy:
    """A copy of a network's modules.

    References from module to module, also in lists, tuples, dicts, bound methods and partial functions, lead to copies.
    Other attributes (data sets, loggers, functions) are shared. Wrappers of a module (torch.compile, DataParallel,
    DistributedDataParallel) are left out. The copies call no global module hooks.

    A `forward` that was replaced by a function of its own may refer to the network in any way. Its copy raises
    NotCopiedError when it is called.

    Attributes:
        model: the copy.

    Args:
        model: the network. It is not changed.

    Raises:
        NotCopiedError: the network is sharded, has parts without values, or has TorchScript modules in train mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._copies: dict[int, nn.Module] = {}
        self._originals: dict[int, nn.Module] = {}
        self._values: dict[int, Any] = {}  # copies of buffers and containers, by the identity of the original
        self._kept: list[Any] = []  # originals, so that no other object takes their identity
        for module in model.modules():
            self._clone_buffers(module)
        self.model = self._module(model)

    def __getitem__(self, module: nn.Module) -> nn.Module:
        """The copy of a module."""
        return self._module(module)

    def originals(self) -> Iterator[nn.Module]:
        """The modules that were copied."""
        yield from self._originals.values()

    def copies(self) -> Iterator[nn.Module]:
        """The copies."""
        yield from self._copies.values()

    def _module(self, module: nn.Module) -> nn.Module:
        while (inner := _wrapped(module)) is not None:
            module = inner
        if (known := self._copies.get(id(module))) is not None:
            return known
        _check(module)
        if isinstance(module, torch.jit.ScriptModule):  # in eval mode, a run does not change it
            self._copies[id(module)] = self._originals[id(module)] = module
            return module
        copy = object.__new__(type(module))
        self._copies[id(module)], self._originals[id(module)] = copy, module
        self._clone_buffers(module)
        attributes = copy.__dict__
        for key, value in list(vars(module).items()):
            own = key in _REGISTERED and isinstance(value, dict)  # of any length
            attributes[key] = self._container(value, _DEEPEST) if own else self._value(value, _DEEPEST)
        for kind in type(module).__mro__:
            for key in _slots(kind):
                if hasattr(module, key):
                    object.__setattr__(copy, key, self._value(getattr(module, key), _DEEPEST))
        forward = vars(module).get("forward")
        if forward is not None and not isinstance(forward, types.MethodType | functools.partial):
            attributes["forward"] = _not_copied
        # `Module.__call__` calls this, if given, instead of `_call_impl`, which would call global hooks.
        attributes["_compiled_call_impl"] = functools.partial(_call, copy)
        return copy

    def _value(self, value: Any, depth: int) -> Any:
        if type(value) in _PLAIN:
            return value
        if id(value) in self._values:
            return self._values[id(value)]
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
            return types.MethodType(value.__func__, self._module(value.__self__))
        if type(value) is weakref.ref and isinstance(referent := value(), nn.Module):
            return weakref.ref(self._module(referent))
        if type(value) is functools.partial:
            args = (self._value(arg, depth) for arg in value.args)
            keywords = {key: self._value(arg, depth) for key, arg in value.keywords.items()}
            return functools.partial(self._value(value.func, depth), *args, **keywords)
        if depth > 0 and (type(value) in _CONTAINERS or _is_named_tuple(value)):
            contents: Any = value
            return self._container(value, depth - 1) if len(contents) <= _MOST_ITEMS else value
        return value

    def _container(self, value: Any, depth: int) -> Any:
        self._kept.append(value)
        if isinstance(value, tuple):
            items = [self._value(item, depth) for item in value]
            return type(value)(*items) if _is_named_tuple(value) else tuple(items)
        made = self._values[id(value)] = value.copy()  # with its order, default or length
        if isinstance(value, dict):
            made.update({key: self._value(item, depth) for key, item in list(value.items())})
        else:
            items = [self._value(item, depth) for item in list(value)]
            made.clear()
            made.update(items) if isinstance(value, set) else made.extend(items)
        return made

    def _clone_buffers(self, module: nn.Module) -> None:
        for buffer in list(module._buffers.values()) if not isinstance(module, torch.jit.ScriptModule) else ():
            if isinstance(buffer, Tensor) and id(buffer) not in self._values:
                self._kept.append(buffer)
                self._values[id(buffer)] = buffer.detach().clone()


def _check(module: nn.Module) -> None:
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        if any(inner.training for inner in module.modules()):
            raise NotCopiedError(f"{name} is a TorchScript module in train mode")
        return
    if hasattr(module, "_fsdp_wrapped_module"):
        raise NotCopiedError(f"{name} is sharded: its processes must run it together")
    for parameter in list(module._parameters.values()):
        if parameter is None:
            continue
        if parameter.is_meta:
            raise NotCopiedError(f"{name} has parameters on the meta device")
        if hasattr(parameter, "full_tensor"):
            raise NotCopiedError(f"{name} is sharded: its processes must run it together")


def _wrapped(module: nn.Module) -> nn.Module | None:
    """The module inside a wrapper that only changes how it is run."""
    inner = module.module if isinstance(module, _WRAPPERS) else getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """`Module.__call__` with the forward hooks of the module alone."""
    for number, hook in list(module._forward_pre_hooks.items()):
        if number in module._forward_pre_hooks_with_kwargs:
            changed: Any = hook(module, args, kwargs)
            args, kwargs = (args, kwargs) if changed is None else changed
        elif (changed := hook(module, args)) is not None:
            args = changed if isinstance(changed, tuple) else (changed,)
    output = module.forward(*args, **kwargs)
    for number, hook in list(module._forward_hooks.items()):
        with_kwargs = number in module._forward_hooks_with_kwargs
        changed = hook(module, args, kwargs, output) if with_kwargs else hook(module, args, output)  # pyright: ignore
        output = output if changed is None else changed
    return output


def _not_copied(*_: Any, **__: Any) -> Any:
    raise NotCopiedError("a forward replaced by a function may refer to the network itself")


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))
