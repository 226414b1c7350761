"""The options of the blocks, as types.

`BlockOptions` annotates functions that pass options on to a block:

    def insert(model: Model, at: Places, **options: Unpack[BlockOptions]) -> Model: ...
"""

from collections.abc import Sequence
from typing import Literal, TypedDict

import torch

from torch_nonlocal.functional import Algorithm, Normalize, Pairwise
from torch_nonlocal.layers.groups import Attend
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
    device: torch.device | str | None
    dtype: torch.dtype | None


__all__ = ["Algorithm", "Attend", "BlockOptions", "NormKind", "Normalize", "Pairwise", "Scale", "Subsample"]
