"""Values that are set for the code of one thread or asyncio task, inside a context."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Value = TypeVar("Value")


@contextmanager
def added(variable: ContextVar[tuple[Value, ...]], value: Value) -> Iterator[None]:
    """Add a value to those of a context variable inside the context.

    It is removed by identity, without a token of `ContextVar.set`: a token is not valid if a generator is closed in
    another context.
    """
    variable.set((*variable.get(), value))
    try:
        yield
    finally:
        variable.set(tuple(other for other in variable.get() if other is not value))
