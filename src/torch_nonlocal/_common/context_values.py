"""Values that are set for the code of one thread or asyncio task, inside a context."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Held(Generic[Value]):
    """A value of a context variable, and whether its context is still open."""

    def __init__(self, value: Value) -> None:
        self.value, self.is_open = value, True


@contextmanager
def added(variable: ContextVar[tuple[Held[Value], ...]], value: Value) -> Iterator[None]:
    """Add a value to those of a context variable inside the context; `values_of` returns them.

    It is removed by identity, without a token of `ContextVar.set`: a token is not valid if a generator is closed by
    another thread. The variable of the first thread then keeps the value, which no longer counts.
    """
    held = Held(value)
    variable.set((*variable.get(), held))
    try:
        yield
    finally:
        held.is_open = False
        variable.set(tuple(other for other in variable.get() if other.is_open))


def values_of(variable: ContextVar[tuple[Held[Value], ...]]) -> tuple[Value, ...]:
    """The values whose contexts are open, in the order in which they were added."""
    found = variable.get()
    return tuple(held.value for held in found if held.is_open) if found else ()
