"""NonLocalAttn of timm: t, p, g, z with biases, and "norm". The softmax is scaled by the *input* width, C^-1/2."""

from collections.abc import Collection

from torch_nonlocal.weights.foreign.source import Computes, FoundBlock, Source, dotted
from torch_nonlocal.weights.places import Place, follow


def _computes(block: FoundBlock) -> Computes:
    return Computes(block.form, None, scale=float(block.tensors["g.weight"].shape[1] ** -0.5), assumed=("scale",))


def _place(block: str, blocks: Collection[str], keys: Collection[str]) -> Place:
    """In timm's ResNets, the block is "se" of a residual block: after the last norm, before the residual is added."""
    parent, _, last = block.rpartition(".")
    norms = [norm for norm in ("bn3", "bn2") if f"{parent}.{norm}.weight" in keys]
    if last == "se" and norms:
        return Place(f"{parent}.{norms[0]}")
    return follow(block, blocks, keys)


TIMM = Source(
    name="timm",
    project="timm's NonLocalAttn",
    named=dotted({"theta": ("t",), "phi": ("p",), "g": ("g",), "out": ("z",), "norm": ("norm",)}),
    computes=_computes,
    place=_place,
)
