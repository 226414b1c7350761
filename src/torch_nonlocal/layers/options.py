"""The options of the blocks, as types.

`BlockOptions` annotates functions that pass options on to a block:

    def insert(model: Model, at: Places, **options: Unpack[BlockOptions]) -> Model: ...
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypedDict, get_args

import torch

from torch_nonlocal._common.text import did_you_mean
from torch_nonlocal.functional import ALGORITHMS, NORMALIZE, Algorithm, Hard, Normalize, Pairwise
from torch_nonlocal.layers.groups import Attend, Causal, Windows
from torch_nonlocal.layers.keys import Keys
from torch_nonlocal.layers.layout import Layout
from torch_nonlocal.layers.norm import NormKind

PAIRWISE: tuple[Pairwise, ...] = get_args(Pairwise)
SOFTMAX_FORMS = ("embedded_gaussian", "gaussian")

Scale = float | Literal["sqrt"] | None
"""The factor of the logits: None for 1, "sqrt" for the inner width to the power -1/2, or a number."""

Subsample = int | Sequence[int] | None
"""The max pooling or the distance of the keys: None for every position, one factor, or one factor per axis."""


class BlockOptions(TypedDict, total=False):
    """All options of `NonLocal1d`, `NonLocal2d` and `NonLocal3d` except `channels`; `NonLocal` describes them."""

    inner_channels: int | None
    pairwise: Pairwise
    attend: Attend
    causal: Causal
    window_frames: int | None
    windows: Windows
    interlaced: bool
    keys: Keys
    subsample: Subsample
    key_channels: int | None
    top_k: int | None
    hard: Hard
    temperature: float
    regions: int | None
    pool_first: bool
    scale: Scale
    norm: NormKind | None
    norm_options: Mapping[str, float] | None
    normalize: Normalize
    algorithm: Algorithm
    checkpoint: bool
    layout: Layout
    grid: Sequence[int] | None
    prefix_tokens: int | None
    device: torch.device | str | None
    dtype: torch.dtype | None


class RelativeOptions(TypedDict, total=False):
    """Options that only relatives of the non-local block have; the classes of `layers.relatives` describe them."""

    reduction: int
    ratio: int
    c_m: int | None
    c_n: int | None
    value_channels: int | None
    head_count: int
    groups: int
    use_scale: bool
    recurrence: int
    psp_size: Sequence[int]
    kernel_size: int


class AnyBlockOptions(BlockOptions, RelativeOptions, total=False):
    """Options of all blocks, of which each block has some."""


BLOCK_OPTIONS = tuple(BlockOptions.__annotations__)
"""Names of the options of the blocks."""


def check_option_names(
    function: str,
    options: Iterable[str],
    parameters: Iterable[str] = (),
    *,
    names: Sequence[str] = BLOCK_OPTIONS,
    of: str = "blocks",
) -> None:
    """Check the names of block options that a function received as keyword arguments.

    Args:
        function: name of the function, for the message.
        options: the received names.
        parameters: names of the function's own keyword parameters, which the message may suggest.
        names: the options of the block.
        of: the blocks that have these options, for the message.

    Raises:
        TypeError: if an option does not exist. The message suggests the nearest name and lists all options.
    """
    for name in options:
        if name not in names:
            hint = did_you_mean(name, [*names, *parameters])
            raise TypeError(
                f"{function}: unknown option {name!r}; {hint + ' ' if hint else ''}options of {of}: {', '.join(names)}"
            )


def check_options(
    channels: int, inner: int | None, pairwise: Pairwise, normalize: Normalize, algorithm: Algorithm
) -> None:
    """Check the options that are not checked where they are used.

    Raises:
        ValueError: if one has an invalid value.
    """
    if channels < 1:
        raise ValueError(f"channels={channels}: expected at least 1")
    if inner is not None and inner < 1:
        raise ValueError(f"inner_channels={inner}: expected at least 1")
    choices = (
        ("pairwise", pairwise, PAIRWISE),
        ("normalize", normalize, NORMALIZE),
    )
    for name, given, allowed in choices:
        if given not in allowed:
            raise ValueError(f"{name}={given!r}: expected one of {', '.join(map(repr, allowed))}")
    algorithms = ALGORITHMS[pairwise]
    if algorithm not in algorithms:
        allowed = ", ".join(map(repr, algorithms))
        raise ValueError(f"algorithm={algorithm!r}: expected one of {allowed} for pairwise={pairwise!r}")
    if normalize == "queries" and pairwise == "concatenation":
        raise ValueError(
            f"normalize='queries' applies to the softmax forms and the dot product, not to pairwise={pairwise!r}"
        )


def softmax_scale(scale: Scale, width: int, pairwise: Pairwise) -> float:
    """Return the factor of the logits that the option `scale` means for an inner width.

    Raises:
        ValueError: if the option has an invalid value.
    """
    if scale is None:
        return 1.0
    if pairwise not in SOFTMAX_FORMS:
        raise ValueError(f"scale={scale!r} applies to the softmax forms, not to pairwise={pairwise!r}")
    if scale == "sqrt":
        return width**-0.5
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ValueError(f"scale={scale!r}: expected None, 'sqrt' or a number")
    return float(scale)


__all__ = [
    "BLOCK_OPTIONS",
    "PAIRWISE",
    "SOFTMAX_FORMS",
    "Algorithm",
    "AnyBlockOptions",
    "Attend",
    "BlockOptions",
    "Causal",
    "Hard",
    "Keys",
    "Layout",
    "NormKind",
    "Normalize",
    "Pairwise",
    "Scale",
    "Subsample",
    "Windows",
    "check_option_names",
    "check_options",
    "softmax_scale",
]
