"""The options of the blocks, as types.

`BlockOptions` annotates functions that pass options on to a block:

    def insert(model: Model, at: Places, **options: Unpack[BlockOptions]) -> Model: ...
"""

from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict

import torch

from torch_nonlocal._common.text import did_you_mean
from torch_nonlocal.functional import Algorithm, Normalize, Pairwise
from torch_nonlocal.layers.groups import Attend
from torch_nonlocal.layers.layout import Layout
from torch_nonlocal.layers.norm import NormKind

Scale = float | Literal["sqrt"] | None
"""The factor of the logits: None for 1, "sqrt" for the inner width to the power -1/2, or a number."""

Subsample = int | Sequence[int] | None
"""The max pooling of the keys: None for no pooling, one factor, or one factor per axis."""


class BlockOptions(TypedDict, total=False):
    """All options of `NonLocal1d`, `NonLocal2d` and `NonLocal3d` except `channels`; `NonLocal` describes them."""

    inner_channels: int | None
    pairwise: Pairwise
    attend: Attend
    subsample: Subsample
    pool_first: bool
    scale: Scale
    norm: NormKind | None
    normalize: Normalize
    algorithm: Algorithm
    checkpoint: bool
    layout: Layout
    grid: Sequence[int] | None
    prefix_tokens: int | None
    device: torch.device | str | None
    dtype: torch.dtype | None


BLOCK_OPTIONS = tuple(BlockOptions.__annotations__)
"""Names of the options of the blocks."""


def check_option_names(function: str, options: Iterable[str], parameters: Iterable[str] = ()) -> None:
    """Check the names of block options that a function received as keyword arguments.

    Args:
        function: name of the function, for the message.
        options: the received names.
        parameters: names of the function's own keyword parameters, which the message may suggest.

    Raises:
        TypeError: if an option does not exist. The message suggests the nearest name and lists all options.
    """
    for name in options:
        if name not in BLOCK_OPTIONS:
            hint = did_you_mean(name, [*BLOCK_OPTIONS, *parameters])
            raise TypeError(
                f"{function}: unknown option {name!r}; {hint + ' ' if hint else ''}"
                f"options of blocks: {', '.join(BLOCK_OPTIONS)}"
            )


__all__ = [
    "BLOCK_OPTIONS",
    "Algorithm",
    "Attend",
    "BlockOptions",
    "Layout",
    "NormKind",
    "Normalize",
    "Pairwise",
    "Scale",
    "Subsample",
    "check_option_names",
]
