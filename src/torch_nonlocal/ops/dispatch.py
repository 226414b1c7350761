"""Choice of the algorithm, with its reason. All algorithms are exact, so the choice depends on cost alone.

The rules follow measurements with `nonlocal bench` on two AVX-512 cores in float32, see docs/benchmark.md.
"""

from dataclasses import dataclass, field

import torch

from torch_nonlocal._common.text import megabytes
from torch_nonlocal.ops import fused, kernels, reassociated
from torch_nonlocal.ops.frames import CausalFrames
from torch_nonlocal.ops.names import Algorithm, Normalize
from torch_nonlocal.ops.selection import Selection

DENSE_BYTES = 4 * 2**20
"""Largest map for the dense algorithm. Maps of this size stay in the CPU caches, where it is the fastest."""

SMALL_BYTES, SMALL_ITEM_BYTES = 256 * 2**10, 64 * 2**10
"""Largest map, and largest map of a batch item, for the dense algorithm of the concatenation form.

Its other algorithm sorts the batch items one by one.
"""

CAUSAL_DENSE_BYTES = 1 * 2**20
"""Largest map for the dense algorithm with a mask, of which half is masked."""

SELECTED_DENSE_BYTES = 64 * 2**10
"""Largest map for the dense algorithm with a selection of keys."""

KEEP_BYTES = 48 * 2**20
"""Largest map whose softmax weights the tiled algorithm keeps for backward, which saves one product of seven."""


@dataclass(frozen=True)
class Choice:
    """An algorithm and the reason for it.

    Attributes:
        algorithm: "dense", "tiled", "fused", "reassociated" or "sorted".
        reason: a format string with the names of `sizes`, such as "{map}".
        sizes: sizes by name, "map" in bytes. They are formatted on access only: under torch.compile they are symbols.
    """

    algorithm: Algorithm
    reason: str
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """The reason as text."""
        texts = {name: megabytes(size) if name == "map" else f"{size:,}" for name, size in self.sizes.items()}
        return self.reason.format(**texts)


def for_softmax(
    batch: int,
    queries: int,
    keys: int,
    width: int,
    values: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
    training: bool,
    normalize: Normalize = "keys",
    biased: bool = False,
) -> Choice:
    """Choose the algorithm of the Gaussian and embedded Gaussian forms."""
    map_bytes = _map_bytes(batch, queries, keys, dtype)
    full = dtype in (torch.float32, torch.float64)
    if is_small_map(batch, queries, keys, dtype):
        return Choice("dense", "the map is small ({map}) and stays in the caches", {"map": map_bytes})
    kept = keeps(batch, queries, keys, dtype, training=training)
    if normalize == "keys" and not biased and not (full and kept and width >= fused.WIDE):
        kernel = kernels.first(device, dtype, width, values, training=training, winning=True)
        if kernel is not None:
            return Choice("fused", f"{kernel.name} keeps its tiles in the caches")
    reason = "matrix products on tiles of queries with an in-place softmax are the fastest"
    if normalize == "queries":
        reason = "the softmax over the queries is computed on tiles of keys"
    elif biased:
        reason = "a key bias is added to each tile"
    elif width != values:
        reason = "the widths {width} and {values} differ, which fused kernels do not support"
    if kept:
        reason += "; {map} of weights are kept for backward"
    return Choice("tiled", reason, {"map": map_bytes, "width": width, "values": values})


def is_small_map(batch: int, queries: int, keys: int, dtype: torch.dtype, *, sorts: bool = False) -> bool:
    """Return whether the dense algorithm is the fastest.

    Args:
        batch: B.
        queries: N.
        keys: M.
        dtype: that of the values. In half types, the map would round the logits or scores.
        sorts: the form is the concatenation, whose other algorithm sorts.
    """
    if dtype not in (torch.float32, torch.float64):
        return False
    item = dtype.itemsize * queries * keys
    return batch * item <= (SMALL_BYTES if sorts else DENSE_BYTES) or (sorts and item <= SMALL_ITEM_BYTES)


def for_causal_softmax(
    sizes: tuple[int, int, int, int, int],
    frames: CausalFrames,
    *,
    device: torch.device,
    dtype: torch.dtype,
    biased: bool = False,
) -> Choice:
    """Choose the algorithm of the same forms if they are causal over frames, for the sizes (B, N, M, D, V)."""
    batch, queries, keys, width, values = sizes
    map_bytes = _map_bytes(batch, queries, keys, dtype)
    if dtype in (torch.float32, torch.float64) and map_bytes <= CAUSAL_DENSE_BYTES:
        return Choice("dense", "the map and its mask are small ({map})", {"map": map_bytes})
    named = {"frames": frames.count, "width": width, "values": values}
    calls = "one call for each of {frames} frames, whose keys are a view, needs no mask"
    if not biased and fused.KERNEL.wins(device, width) and fused.can_run(device, dtype, width, values):
        return Choice("fused", f"{calls}; {fused.KERNEL.name} keeps its tiles in the caches", named)
    return Choice("tiled", f"{calls}; matrix products on tiles of queries with an in-place softmax", named)


def for_causal_dot_product(width: int, values: int) -> Choice:
    """Choose the algorithm of the dot product form if it is causal over frames."""
    reason = "theta (phi^T g) needs one {width} x {values} matrix for each frame, a running sum"
    return Choice("reassociated", reason, {"width": width, "values": values})


def for_selected(selection: Selection, batch: int, queries: int, keys: int, *, dtype: torch.dtype) -> Choice:
    """Choose the algorithm of the same forms with a selection of keys."""
    map_bytes = _map_bytes(batch, queries, keys, dtype)
    full = dtype in (torch.float32, torch.float64)
    if full and map_bytes <= SELECTED_DENSE_BYTES:  # in half types, it would round the logits
        return Choice("dense", "the map is small ({map})", {"map": map_bytes})
    if selection.top_k is not None:
        reason = "the {kept} strongest keys of each query are found in tiles and summed alone, also in backward"
        return Choice("tiled", reason, {"kept": selection.top_k})
    return Choice("tiled", "the strongest key of each query is found in tiles, which backward computes again")


def keeps(batch: int, queries: int, keys: int, dtype: torch.dtype, *, training: bool) -> bool:
    """Return whether the tiled algorithm keeps its weights for backward."""
    return training and _map_bytes(batch, queries, keys, dtype) <= KEEP_BYTES


def _map_bytes(batch: int, queries: int, keys: int, dtype: torch.dtype) -> int:
    """Return the size of the weights, which are at least float32."""
    return torch.promote_types(dtype, torch.float32).itemsize * batch * queries * keys


def for_dot_product(queries: int, keys: int, width: int, values: int) -> Choice:
    """Choose the order of the products of the dot product form."""
    if reassociated.map_is_cheaper(queries, keys, width, values):
        reason = "(theta phi^T) g is cheaper: N x M = {queries} x {keys} is smaller than the features"
    else:
        reason = "theta (phi^T g) needs a {width} x {values} matrix only, for any N"
    return Choice("reassociated", reason, {"queries": queries, "keys": keys, "width": width, "values": values})


def for_concatenation(batch: int, queries: int, keys: int, dtype: torch.dtype) -> Choice:
    """Choose the algorithm of the concatenation form."""
    map_bytes = _map_bytes(batch, queries, keys, dtype)
    if is_small_map(batch, queries, keys, dtype, sorts=True):
        return Choice(
            "dense", "the map is small ({map}): a few operations on it are faster than sorting", {"map": map_bytes}
        )
    return Choice("sorted", "sorting the scores and prefix sums take N log N time")
