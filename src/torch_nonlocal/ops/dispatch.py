"""Which algorithm runs, and why, in words. All are exact: the choice is by cost alone.

The rules were measured with `nonlocal bench` on two AVX-512 cores, float32 (docs/benchmark.md has the table).
"""

from dataclasses import dataclass, field

import torch

from torch_nonlocal._common.text import megabytes
from torch_nonlocal.ops import fused, reassociated
from torch_nonlocal.ops.names import Algorithm, Normalize

DENSE_BYTES = 4 * 2**20
"""Maps up to this size stay in the caches: the plain definition is the fastest then, and holds next to nothing."""

KEEP_BYTES = 48 * 2**20
"""Tiled softmax weights up to this size are kept for backward, which saves one product in seven."""

WIDE = 512
"""From this width on, that saving outweighs the fused kernel's advantage in the passes over its tiles."""


@dataclass(frozen=True)
class Choice:
    """An algorithm and the reason.

    Attributes:
        algorithm: "dense", "tiled", "fused", "reassociated" or "sorted".
        reason: in words, with names for the sizes in it, such as "{map}".
        sizes: by name, "map" in bytes. Kept apart: under torch.compile they are symbols, which have no text.
    """

    algorithm: Algorithm
    reason: str
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """The reason in words."""
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
    """For the gaussian and embedded gaussian forms."""
    map_bytes = _map_bytes(batch, queries, keys, dtype)
    full = dtype in (torch.float32, torch.float64)
    if full and map_bytes <= DENSE_BYTES:  # of half types it would round the logits
        return Choice("dense", "the map is small ({map}) and stays in the caches", {"map": map_bytes})
    kept = keeps(batch, queries, keys, dtype, training=training)
    possible = normalize == "keys" and not biased and fused.can_run(device, dtype, width, values)
    if possible and _fused_wins(device, dtype) and not (full and kept and width >= WIDE):
        return Choice("fused", "PyTorch's fused attention kernel keeps its tiles in the caches")
    reason = "matrix products on tiles of queries, softmax in place"
    if normalize == "queries":
        reason = "normalised over queries: tiles of keys, softmaxed over the queries"
    elif biased:
        reason = "a key bias is added to each tile"
    elif width != values:
        reason = "widths {width} and {values} differ, which fused kernels do not take: " + reason
    if kept:
        reason += "; {map} of weights are kept for backward"
    return Choice("tiled", reason, {"map": map_bytes, "width": width, "values": values})


def keeps(batch: int, queries: int, keys: int, dtype: torch.dtype, *, training: bool) -> bool:
    """Whether the tiled algorithm keeps its weights for backward."""
    return training and _map_bytes(batch, queries, keys, dtype) <= KEEP_BYTES


def _map_bytes(batch: int, queries: int, keys: int, dtype: torch.dtype) -> int:
    """Of the weights, which are float32 at least."""
    return torch.promote_types(dtype, torch.float32).itemsize * batch * queries * keys


def _fused_wins(device: torch.device, dtype: torch.dtype) -> bool:
    """On CPU measured as fast as tiles or faster, at widths 64 to 512.

    On CUDA half types use the tensor cores; in float32 the kernel's tiles are narrow, and plain matrix products on
    large ones are preferred (not measured).
    """
    return device.type == "cpu" or dtype in (torch.float16, torch.bfloat16)


def for_dot_product(queries: int, keys: int, width: int, values: int) -> Choice:
    """For the dot product form."""
    if reassociated.map_is_cheaper(queries, keys, width, values):
        reason = "(theta phi^T) g: N x M = {queries} x {keys} is smaller than the features"
    else:
        reason = "theta (phi^T g): a {width} x {values} matrix in the middle, whatever N is"
    return Choice("reassociated", reason, {"queries": queries, "keys": keys, "width": width, "values": values})


def for_concatenation() -> Choice:
    """For the concatenation form."""
    return Choice("sorted", "scores sorted, prefix sums, one gather: N log N")
