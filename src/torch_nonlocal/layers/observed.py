"""Observers of what blocks compute: the queries and keys of each forward, as they enter the sum.

An observer belongs to the thread, or asyncio task, that sets it. Blocks are not changed, so other threads that run them
are not affected.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.context_values import Held, added, values_of

Observer = Callable[[Any, Any, Tensor, tuple[Tensor, Tensor] | None, Tensor | None], None]
"""Called with a module, its options, its map (B, C, *size), theta and phi, or a and b of the concatenation form, and
the map that the keys are computed from, None for the same one.

A block is its own options; those of a module of another project are a `Computed` (`layers.operation`). The pair is None
where a and b were computed from w_f folded into theta and phi. The block's modules are ordinary then: the observer can
call them without an effect.
"""

_observers: ContextVar[tuple[Held[Observer], ...]] = ContextVar("torch_nonlocal_observers", default=())


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Call an observer in each forward of a block in this thread, inside the context."""
    with added(_observers, observer):
        yield


def is_observed() -> bool:
    """Whether this thread has observers."""
    return bool(values_of(_observers))


def show_observers(
    module: Any, options: Any, x: Tensor, operands: tuple[Tensor, Tensor] | None, keys_from: Tensor | None = None
) -> None:
    """Call the observers of this thread. Code that torch.compile makes has none."""
    if torch.compiler.is_dynamo_compiling():
        return
    for observer in values_of(_observers):
        observer(module, options, x, operands, keys_from)
