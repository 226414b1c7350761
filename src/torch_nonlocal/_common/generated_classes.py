"""Subclasses that are generated for modules of a network, so that a module can change its class in place.

The name and the module of the class are those of its base, isinstance checks hold, and pickle and deepcopy can rebuild
the instance through its base.
"""

from typing import Any

from torch import nn


class _Unregistered(nn.Module):
    """First base of a generated class while it is made: no `__init_subclass__` of the network's authors runs."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        pass


def generated_subclass(kind: type[nn.Module], mark: str, contents: dict[str, Any]) -> type[nn.Module]:
    """Return a new subclass with the name, module and docstring of a class.

    Args:
        kind: the class.
        mark: a word that tells the two apart in `__qualname__`: "Bottleneck[non_local]".
        contents: attributes of the subclass.
    """
    named = {
        "__module__": kind.__module__,  # fx decides by the module's name whether it traces into a class
        "__qualname__": f"{kind.__qualname__}[{mark}]",
        "__doc__": kind.__doc__,
        **contents,
    }
    made = type(kind)(kind.__name__, (_Unregistered, kind), named)  # pyright: ignore[reportCallIssue]
    made.__bases__ = (kind,)
    return made


def reduced_by_base(module: nn.Module, base: type[nn.Module], rebuild: Any, protocol: Any, *more: Any) -> Any:
    """Return the `__reduce_ex__` of a module of a generated class, which cannot be imported.

    Args:
        module: the module.
        base: the class that the generated one was made from.
        rebuild: a function that is called with a function, its arguments and `more`; the function, called with the
            arguments, creates an empty module of the class `base`.
        protocol: pickle protocol.
        more: further arguments of `rebuild`.
    """
    made = base.__reduce_ex__(module, max(int(protocol), 2))
    if not isinstance(made, tuple):
        return made
    args = tuple(base if arg is type(module) else arg for arg in made[1])
    return rebuild, (made[0], args, *more), *made[2:]
