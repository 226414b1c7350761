"""A source's block as a block of ours: options and tensors, checked against each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.insertion.insert import BLOCK_CLASSES
from torch_nonlocal.layers.non_local import PAIRWISE
from torch_nonlocal.weights.foreign.source import CONVOLUTIONS, FoundBlock, Source

SOFTMAX_FORMS = ("embedded_gaussian", "gaussian")
_EPSILON = 1e-5  # of our batch norms
_STATISTICS = {"norm.running_mean", "norm.running_var"}


@dataclass(frozen=True)
class Overrides:
    """What the user knows better than the source's usual settings; None: as the source does it.

    Attributes:
        pairwise: "embedded_gaussian" or "dot_product", whose tensors are alike.
        subsample: factor of the keys' max-pooling, as `NonLocal3d` takes it; 1 for none.
        scale: of the softmax forms: "sqrt" or a number, 1 for none.
    """

    pairwise: str | None = None
    subsample: int | Sequence[int] | None = None
    scale: float | str | None = None


@dataclass(frozen=True)
class Assembled:
    """A block of ours.

    Attributes:
        kind: name of its class.
        options: what builds it again.
        settings: the same as `nl.insert` would be told, without widths.
        tensors: its state dict.
        assumed: what the file does not tell, in words.
    """

    kind: str
    options: dict[str, Any]
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    assumed: dict[str, str]


def assemble(block: FoundBlock, source: Source, overrides: Overrides) -> Assembled:
    """Options and tensors of our block that computes what the source's does.

    Raises:
        ValueError: tensors are missing or do not fit together, or an override contradicts them; the message names the
            file's keys.
    """
    _check_complete(block, source)
    channels, inner, axes = _check_shapes(block)
    tensors = {name: tensor.contiguous() for name, tensor in block.tensors.items()}
    norm = _norm(block, tensors, source.affine)
    _fill_biases(block, tensors, norm)
    _fold_score_bias(block, tensors)
    computes = source.computes(block)
    pairwise = _pairwise(block, computes.pairwise, overrides.pairwise)
    subsample = computes.subsample if overrides.subsample is None else overrides.subsample
    settings: dict[str, Any] = {
        "pairwise": pairwise,
        "subsample": None if subsample == 1 else subsample,
        "pool_first": computes.pool_first and subsample not in (None, 1),
        "scale": _scale(pairwise, computes.scale, overrides.scale),
        "norm": norm,
    }
    if "score.weight" in tensors:
        tensors["score.weight"] = tensors["score.weight"].reshape(1, 2 * inner)
    made = BLOCK_CLASSES[axes](channels, inner_channels=inner, **settings)
    for name, count in made.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, count)
    made.load_state_dict(tensors)
    unsaid = {
        name: f"{name}={_shown(settings[name])}: {source.project} usually has it so, the tensors do not tell"
        for name in computes.assumed
        if getattr(overrides, name) is None and not (name == "scale" and pairwise not in SOFTMAX_FORMS)
    }
    if norm == "group":
        unsaid["norm"] = "norm='group': the number of groups is not in the file; 32 where they divide the channels"
    return Assembled(type(made).__name__, made.config, settings, tensors, unsaid)


def _check_complete(block: FoundBlock, source: Source) -> None:
    """All convolutions, but for gaussian's theta and phi, which then are both absent."""
    needed = [f"{part}.weight" for part in CONVOLUTIONS]
    if not any(name.startswith(("theta.", "phi.", "score.")) for name in block.tensors):
        needed = ["g.weight", "out.weight"]
    missing = [name for name in needed if name not in block.tensors]
    if missing:
        have = ", ".join(sorted(block.keys.values()))
        raise ValueError(f"{_titled(block)} ({source.name}) has no {' and no '.join(missing)}; it has {have}")


def _check_shapes(block: FoundBlock) -> tuple[int, int, int]:
    """Channels, inner width and axes, after everything agrees on them."""
    g = block.tensors["g.weight"]
    if not 3 <= g.ndim <= 5:
        raise ValueError(
            f"{block.keys['g.weight']} has shape {tuple(g.shape)}, expected a 1x1 convolution (D, C, 1, ...)"
        )
    inner, channels = g.shape[:2]
    ones = (1,) * (g.ndim - 2)
    expected: dict[str, tuple[int, ...]] = {
        **{f"{part}.weight": (inner, channels, *ones) for part in ("theta", "phi", "g")},
        **{f"{part}.bias": (inner,) for part in ("theta", "phi", "g")},
        "out.weight": (channels, inner, *ones),
        "out.bias": (channels,),
        **{f"norm.{name}": (channels,) for name in ("weight", "bias", "running_mean", "running_var")},
        "norm.num_batches_tracked": (),
        "score.bias": (1,),
    }
    for name, tensor in block.tensors.items():
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked"):
            raise ValueError(f"{block.keys[name]} has dtype {tensor.dtype}, expected a floating one")
        wanted = expected.get(name)
        if wanted is not None and tuple(tensor.shape) != wanted:
            raise ValueError(
                f"{block.keys[name]} has shape {tuple(tensor.shape)}, expected {wanted}: "
                f"{block.keys['g.weight']} says {channels} channels and inner width {inner}"
            )
        if name == "score.weight" and (tensor.numel() != 2 * inner or tensor.shape[:2] != (1, 2 * inner)):
            raise ValueError(f"{block.keys[name]} has shape {tuple(tensor.shape)}, expected (1, {2 * inner}, 1, 1)")
        if name not in expected and name != "score.weight":
            raise ValueError(f"{_titled(block)}: {block.keys[name]} has no equal in a block here")
    return channels, inner, g.ndim - 2


def _norm(block: FoundBlock, tensors: dict[str, Tensor], affine: bool) -> str | None:
    """The norm's kind: "batch" with running statistics, "group" without, None if there are no tensors of one."""
    have = {name for name in tensors if name.startswith("norm.")}
    if not have:
        return None
    if affine and have == {"norm.weight", "norm.bias"}:
        tensors["norm.running_mean"], tensors["norm.running_var"] = without_statistics(tensors["norm.weight"])
        return "batch"
    alone = {"norm.weight", "norm.bias"}
    missing = (alone if have <= alone else alone | _STATISTICS) - have
    if missing:
        shown = ", ".join(sorted(block.keys[name] for name in have))
        raise ValueError(f"{_titled(block)} has no {' and no '.join(sorted(missing))}; of its norm it has {shown}")
    return "group" if have <= alone else "batch"


def without_statistics(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance with which a batch norm is y = weight x + bias: 0, and 1 less the norm's epsilon."""
    return torch.zeros_like(weight), torch.full_like(weight, 1 - _EPSILON)


def _fold_score_bias(block: FoundBlock, tensors: dict[str, Tensor]) -> None:
    """w_f . [theta, phi] + c with c moved into theta's bias, exactly: w_theta . (c w_theta / |w_theta|^2) = c."""
    c = tensors.pop("score.bias", None)
    if c is None or not c.any():
        return
    bias = tensors["theta.bias"]
    w_theta = tensors["score.weight"].flatten()[: len(bias)].double()
    if not w_theta.any():
        raise ValueError(
            f"{block.keys['score.bias']} is {c.item():g} while w_f's half for theta is zero: here w_f has no bias, and "
            "nothing is left to carry this one"
        )
    tensors["theta.bias"] = (bias.double() + c.double() * w_theta / w_theta.square().sum()).to(bias.dtype)


def _fill_biases(block: FoundBlock, tensors: dict[str, Tensor], norm: str | None) -> None:
    """Zeros for convolutions made without a bias: all of them, or W_z alone when a norm follows it."""
    inside = [part for part in ("theta", "phi", "g") if f"{part}.weight" in tensors]
    without = [part for part in inside if f"{part}.bias" not in tensors]
    if without and (len(without) < len(inside) or "out.bias" in tensors):
        raise ValueError(f"{_titled(block)} has no {without[0]}.bias, while others have one: the file is incomplete")
    if "out.bias" not in tensors and norm is None and not without:
        raise ValueError(f"{_titled(block)} has no out.bias, while the others have one: the file is incomplete")
    for part in (*inside, "out"):
        weight = tensors[f"{part}.weight"]
        tensors.setdefault(f"{part}.bias", torch.zeros(len(weight), dtype=weight.dtype))


def _pairwise(block: FoundBlock, usual: str, wanted: str | None) -> str:
    if wanted is None:
        return usual
    if wanted not in PAIRWISE:
        raise ValueError(f"pairwise={wanted!r}: expected one of {', '.join(map(repr, PAIRWISE))}")
    alike = ("embedded_gaussian", "dot_product") if block.form == "embedded_gaussian" else (block.form,)
    if wanted not in alike:
        raise ValueError(f"pairwise={wanted!r}: {_titled(block)} has the tensors of {' or '.join(map(repr, alike))}")
    return wanted


def _scale(pairwise: str, usual: float | str | None, wanted: float | str | None) -> float | str | None:
    if wanted is None:
        return usual if pairwise in SOFTMAX_FORMS and not (pairwise == "gaussian" and usual == "sqrt") else None
    return None if wanted == 1 else wanted


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _titled(block: FoundBlock) -> str:
    return f"the block {block.name!r}" if block.name else "the block without a name"
