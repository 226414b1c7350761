"""Deprecated names that keep working."""

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed_arguments(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Accept old names of keyword arguments; each use warns with a DeprecationWarning that gives the new name.

    Args:
        **new_names: old name -> new name.

    Example:
        >>> @renamed_arguments(place="at")
        ... def probe_geometry(model, at): ...
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in new_names.items():
                if old in kwargs:
                    name = getattr(function, "__name__", "function")
                    warnings.warn(f"{name}({old}=) is deprecated; use {new}=", DeprecationWarning, stacklevel=2)
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
