"""Build a `NonLocal` block from a source's block: options and tensors, checked against each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.layers.options import PAIRWISE, SOFTMAX_FORMS
from torch_nonlocal.layers.registry import BLOCK_CLASSES
from torch_nonlocal.weights.consequences import consequence
from torch_nonlocal.weights.foreign.source import CONVOLUTIONS, FoundBlock, Source, Stated, module_notes

_EPSILON = 1e-5  # of the batch norms of `NonLocal`
_STATISTICS = {"norm.running_mean", "norm.running_var"}


@dataclass(frozen=True)
class Overrides:
    """Options that replace the usual settings of the source; None keeps the source's setting.

    Attributes:
        pairwise: "embedded_gaussian" or "dot_product", which have the same tensors.
        subsample: factor of the max-pooling of keys, as in `NonLocal3d`; 1 for no pooling.
        scale: of the softmax forms: "sqrt" or a number; 1 for no scaling.
    """

    pairwise: str | None = None
    subsample: int | Sequence[int] | None = None
    scale: float | str | None = None


@dataclass(frozen=True)
class Assembled:
    """A `NonLocal` block.

    Attributes:
        kind: class name, such as "NonLocal3d".
        options: constructor arguments.
        settings: the options for `nl.insert`, without channel counts.
        tensors: state dict.
        assumed: a sentence for each option that the file does not determine.
    """

    kind: str
    options: dict[str, Any]
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    assumed: dict[str, str]


def assemble(
    block: FoundBlock, source: Source, overrides: Overrides, stated: Stated, facts: Mapping[str, Any]
) -> Assembled:
    """Options and tensors of a `NonLocal` block that computes the same as the source's block.

    The norm's eps, momentum and number of groups are those of its module, in files that hold a whole module.

    An option is taken from the user, else from what the file states, else it is the usual one of the source.

    Raises:
        ValueError: tensors are missing or inconsistent, or an override contradicts them; the message names the keys in
            the file.
    """
    _check_complete(block, source)
    channels, inner, axes = _check_shapes(block)
    tensors = {name: tensor.contiguous() for name, tensor in block.tensors.items()}
    norm = _norm(block, tensors, source.affine)
    _fill_biases(block, tensors, norm)
    _fold_score_bias(block, tensors)
    computes = source.computes(block)
    given = {
        name: value
        for name in ("pairwise", "subsample", "scale")
        if (value := _first(getattr(overrides, name), stated.options.get(name))) is not None
    }
    pairwise = _pairwise(block, computes.pairwise, given.get("pairwise"))
    subsample = given.get("subsample", computes.subsample)
    settings: dict[str, Any] = {
        "pairwise": pairwise,
        "subsample": None if subsample == 1 else subsample,
        "pool_first": computes.pool_first and subsample not in (None, 1),
        "scale": _scale(pairwise, computes.scale, given.get("scale"), asked=overrides.scale is not None),
        "norm": norm,
    }
    norm_options = _norm_options(block, norm, facts)
    if norm_options:
        settings["norm_options"] = norm_options
    if pairwise == "dot_product" and computes.dot_by_queries:
        settings["normalize"] = "queries"
    if "score.weight" in tensors:
        tensors["score.weight"] = tensors["score.weight"].reshape(1, 2 * inner)
    built = BLOCK_CLASSES[axes](channels, inner_channels=inner, **settings)
    for name, count in built.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, count)
    built.load_state_dict(tensors)
    assembled = Assembled(type(built).__name__, built.config, settings, tensors, {})
    assumed = {
        name: f"{name}={_shown(settings[name])}: usual for {source.project}; the file does not state it"
        + consequence(assembled, name)
        for name in computes.assumed
        if name not in given and not (name == "scale" and pairwise not in SOFTMAX_FORMS)
    }
    if norm == "group" and "num_groups" not in norm_options:
        assumed["norm"] = "norm='group': the file does not hold the number of groups; 32 if it divides the channels"
    return replace(assembled, assumed=assumed)


def of_frames(assembled: Assembled, frames: int) -> Assembled:
    """The block for a network that sees the frames of clips as images.

    Raises:
        ValueError: the block is not for clips, or the number of frames is not positive.
    """
    layout = {"layout": "frames", "grid": (frames,)}
    axes = next(axes for axes, kind in BLOCK_CLASSES.items() if kind.__name__ == assembled.kind)
    try:
        options = BLOCK_CLASSES[axes](**{**assembled.options, **layout}).config
    except ValueError as error:
        raise ValueError(f"frames={frames}: {error}") from error
    return replace(assembled, options=options, settings={**assembled.settings, **layout})


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _check_complete(block: FoundBlock, source: Source) -> None:
    """Require all convolutions. The Gaussian form has neither theta nor phi."""
    needed = [f"{part}.weight" for part in CONVOLUTIONS]
    if not any(name.startswith(("theta.", "phi.", "score.")) for name in block.tensors):
        needed = ["g.weight", "out.weight"]
    missing = [name for name in needed if name not in block.tensors]
    if missing:
        have = ", ".join(sorted(block.keys.values()))
        raise ValueError(f"{_titled(block)} ({source.name}) has no {' and no '.join(missing)}; it has {have}")


def _check_shapes(block: FoundBlock) -> tuple[int, int, int]:
    """Channels, inner width and number of axes, after checking that all tensors agree on them."""
    g = block.tensors["g.weight"]
    if not 3 <= g.ndim <= 5:
        raise ValueError(
            f"{block.keys['g.weight']} has shape {tuple(g.shape)}, expected a 1x1 convolution (D, C, 1, ...)"
        )
    inner, channels = g.shape[:2]
    if not g.numel():
        raise ValueError(f"{block.keys['g.weight']} has shape {tuple(g.shape)}, which has no values")
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
            raise ValueError(f"{block.keys[name]} has dtype {tensor.dtype}, expected a floating-point dtype")
        wanted = expected.get(name)
        if wanted is not None and tuple(tensor.shape) != wanted:
            raise ValueError(
                f"{block.keys[name]} has shape {tuple(tensor.shape)}, expected {wanted}: "
                f"{block.keys['g.weight']} has {channels} channels and inner width {inner}"
            )
        if name == "score.weight" and (tensor.numel() != 2 * inner or tensor.shape[:2] != (1, 2 * inner)):
            raise ValueError(f"{block.keys[name]} has shape {tuple(tensor.shape)}, expected (1, {2 * inner}, 1, 1)")
        if name not in expected and name != "score.weight":
            raise ValueError(f"{_titled(block)}: {block.keys[name]} has no equivalent in a block of torch-nonlocal")
    return channels, inner, g.ndim - 2


def _norm(block: FoundBlock, tensors: dict[str, Tensor], affine: bool) -> str | None:
    """Kind of the norm: "batch" with running statistics, "group" without, None without tensors of a norm."""
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
        raise ValueError(f"{_titled(block)} has no {' and no '.join(sorted(missing))}; its norm has {shown}")
    return "group" if have <= alone else "batch"


def _norm_options(block: FoundBlock, norm: str | None, facts: Mapping[str, Any]) -> dict[str, float]:
    """Options of the norm that the notes of its module hold."""
    names = {"batch": ("eps", "momentum"), "group": ("eps", "num_groups")}.get(norm or "", ())
    notes = module_notes(facts, block.keys.get("norm.weight", "").rpartition(".")[0])
    return {name: notes[name] for name in names if isinstance(notes.get(name), int | float)}


def without_statistics(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance that make a batch norm compute y = weight x + bias: 0 and 1 - epsilon."""
    return torch.zeros_like(weight), torch.full_like(weight, 1 - _EPSILON)


def _fold_score_bias(block: FoundBlock, tensors: dict[str, Tensor]) -> None:
    """Move c of w_f . [theta, phi] + c into the bias of theta. Exact: w_theta . (c w_theta / |w_theta|^2) = c."""
    c = tensors.pop("score.bias", None)
    if c is None or not c.any():
        return
    bias = tensors["theta.bias"]
    w_theta = tensors["score.weight"].flatten()[: len(bias)].double()
    if not w_theta.any():
        raise ValueError(
            f"{block.keys['score.bias']} is {c.item():g} and w_f's half for theta is zero: w_f has no bias in "
            "torch-nonlocal, and the bias of theta cannot replace it"
        )
    tensors["theta.bias"] = (bias.double() + c.double() * w_theta / w_theta.square().sum()).to(bias.dtype)


def _fill_biases(block: FoundBlock, tensors: dict[str, Tensor], norm: str | None) -> None:
    """Add zeros for convolutions without a bias: all of them, or W_z alone if a norm follows it."""
    inside = [part for part in ("theta", "phi", "g") if f"{part}.weight" in tensors]
    without = [part for part in inside if f"{part}.bias" not in tensors]
    if without and (len(without) < len(inside) or "out.bias" in tensors):
        raise ValueError(
            f"{_titled(block)} has no {without[0]}.bias, but other convolutions have a bias: the file is incomplete"
        )
    if "out.bias" not in tensors and norm is None and not without:
        raise ValueError(
            f"{_titled(block)} has no out.bias, but the other convolutions have a bias: the file is incomplete"
        )
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


def _scale(pairwise: str, usual: float | str | None, wanted: float | str | None, *, asked: bool) -> float | str | None:
    """The scale; one that the file states, not the user, applies to the softmax forms only."""
    if wanted is None or (not asked and pairwise not in SOFTMAX_FORMS):
        return usual if pairwise in SOFTMAX_FORMS and not (pairwise == "gaussian" and usual == "sqrt") else None
    return None if wanted == 1 else wanted


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _titled(block: FoundBlock) -> str:
    return f"the block {block.name!r}" if block.name else "the block without a name"
