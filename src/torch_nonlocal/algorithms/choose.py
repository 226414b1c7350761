"""Which algorithm runs, and why, in words. All are exact: the choice is by cost alone.

The rules were measured with `nonlocal bench` on two AVX2 cores, float32 (the README has the table).
"""

from dataclasses import dataclass

import torch

from torch_nonlocal.algorithms import fused, reassociated

KEEP_BYTES = 48 * 2**20
"""Softmax weights up to this size are kept for backward, which saves one product in seven."""

NARROW, NARROW_KEEP_BYTES = 64, 8 * 2**20
"""Up to this width the products are so short that moving kept weights through memory costs as much as they save."""

FUSED_WIDTH = 128
"""Up to this width PyTorch's fused CPU kernel is as fast or faster, as its tiles stay in the caches; beyond it, plain
matrix products on larger tiles are."""


@dataclass(frozen=True)
class Choice:
    """An algorithm and the reason.

    Attributes:
        algorithm: "dense", "tiled", "fused", "reassociated" or "sorted".
        keep: tiled only: hold the weights for backward.
        why: in words.
    """

    algorithm: str
    why: str
    keep: bool = False


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
    normalize: str = "keys",
    biased: bool = False,
) -> Choice:
    """For the gaussian and embedded gaussian forms."""
    element = 8 if dtype == torch.float64 else 4
    map_bytes = element * batch * queries * keys
    possible = normalize == "keys" and not biased and fused.can_run(device, dtype, width, values)
    if training and map_bytes <= (NARROW_KEEP_BYTES if width <= NARROW and possible else KEEP_BYTES):
        why = f"the weights are small ({megabytes(map_bytes)}) and kept for backward, which saves one product in seven"
        return Choice("tiled", why, keep=True)
    if possible and device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        return Choice("fused", "half types on CUDA: PyTorch's fused kernels use the tensor cores")
    if possible and device.type == "cpu" and width <= FUSED_WIDTH:
        return Choice(
            "fused", f"width {width} <= {FUSED_WIDTH}: PyTorch's fused CPU kernel keeps its tiles in the caches"
        )
    if normalize == "queries":
        return Choice("tiled", "normalised over queries: tiles of keys, softmaxed over the queries")
    if biased:
        return Choice("tiled", "a key bias is added to each tile")
    return Choice("tiled", f"width {width}: matrix products on tiles of queries, softmax in place")


def for_dot_product(queries: int, keys: int, width: int, values: int) -> Choice:
    """For the dot product form."""
    if reassociated.map_is_cheaper(queries, keys, width, values):
        return Choice("reassociated", f"(theta phi^T) g: N x M = {queries:,} x {keys:,} is smaller than the features")
    return Choice("reassociated", f"theta (phi^T g): a {width} x {values} matrix in the middle, whatever N is")


def for_concatenation() -> Choice:
    """For the concatenation form."""
    return Choice("sorted", "scores sorted, prefix sums, one gather: N log N")


def megabytes(count: float) -> str:
    """Bytes as text: "39 MB"."""
    return f"{count / 2**20:,.0f} MB" if count >= 2**20 else f"{count / 2**10:,.0f} kB"
