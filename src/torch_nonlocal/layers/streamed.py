"""Blocks in a stream: their queries are those of new frames, and attend to keys of earlier frames too.

As observers (`layers.observed`), a stream belongs to the thread, or asyncio task, that opens it. Blocks are not
changed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.context_values import Held, added, values_of

Attending = Callable[[Any, Tensor, Tensor, Tensor, Sequence[int]], Tensor]
"""Called with a causal block, theta, phi and g of its new frames, a, b and g of the concatenation form, and their grid.

Returns the weighted sums y (B', N, V).
"""

_attending: ContextVar[tuple[Held[Attending], ...]] = ContextVar("torch_nonlocal_attending", default=())


@contextmanager
def streamed_by(attending: Attending) -> Iterator[None]:
    """Compute the sums of blocks in this thread by `attending`, inside the context."""
    with added(_attending, attending):
        yield


def stream_of_blocks() -> Attending | None:
    """Return how this thread computes the sums of blocks; None outside of streams, and in code of torch.compile."""
    if torch.compiler.is_dynamo_compiling():
        return None
    found = values_of(_attending)
    return found[-1] if found else None
