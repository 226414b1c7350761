"""Exchange the forward of a module in place, and give it back.

The module becomes an instance of a generated subclass of its class whose forward computes through this package. It
remains the same object: parameters, buffers, hooks, mode and names are not touched, and isinstance checks hold.
"""

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from torch_nonlocal._common.generated_classes import generated_subclass, reduced_by_base
from torch_nonlocal.insertion.attachment import change_plain_type, plain_type
from torch_nonlocal.layers.operation import OPERATION, operation_of
from torch_nonlocal.replacing.families import FAMILIES
from torch_nonlocal.replacing.family import Family

_made: "weakref.WeakKeyDictionary[type, dict[str, weakref.ref[type]]]" = weakref.WeakKeyDictionary()


def take_over(module: nn.Module, family: Family) -> None:
    """Let a module compute through its family."""
    change_plain_type(module, taken_over_type(plain_type(module), family))


def give_back(module: nn.Module) -> None:
    """Let a module compute with its own code again."""
    change_plain_type(module, original_type(module))


def original_type(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module without the subclasses that this package generates."""
    kind = plain_type(module)
    return kind.__bases__[0] if OPERATION in kind.__dict__ else kind


def family_of(module: nn.Module) -> Family | None:
    """Return the family of a module that was taken over; None for all others."""
    operation = operation_of(module)
    return operation if isinstance(operation, Family) else None


def new_taken_over(make: Callable[..., nn.Module], args: tuple[Any, ...], family: str) -> nn.Module:
    """Create an uninitialized module that was taken over, for unpickling and deepcopy.

    Args:
        make: function that creates a module of its own class.
        args: its arguments.
        family: name of the family.
    """
    module = make(*args)
    module.__class__ = taken_over_type(type(module), FAMILIES[family])
    return module


def taken_over_type(kind: type[nn.Module], family: Family) -> type[nn.Module]:
    """Return the generated subclass of a class for a family, one for each pair."""
    by_family = _made.setdefault(kind, {})
    known = by_family[family.name]() if family.name in by_family else None
    if known is not None:
        return known

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        x = family.input(module, args, kwargs)
        return kind.forward(module, *args, **kwargs) if x is None else family.run(module, x)

    def reduced(module: nn.Module, protocol: Any) -> Any:
        return reduced_by_base(module, kind, new_taken_over, protocol, family.name)

    contents = {"forward": forward, "__reduce_ex__": reduced, OPERATION: family}
    made = generated_subclass(kind, f"torch_nonlocal.{family.name}", contents)
    by_family[family.name] = weakref.ref(made)
    return made
