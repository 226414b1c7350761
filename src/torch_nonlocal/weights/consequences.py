"""What an assumption about a converted block amounts to: how far the block with another option differs."""

from typing import TYPE_CHECKING, Any

import torch

from torch_nonlocal.layers import NonLocal
from torch_nonlocal.layers.registry import BLOCK_CLASSES

if TYPE_CHECKING:
    from torch_nonlocal.weights.assemble import Assembled

_SIZES = {1: (24,), 2: (6, 8), 3: (2, 4, 6)}  # of the random map
_CLASSES = {kind.__name__: (axes, kind) for axes, kind in BLOCK_CLASSES.items()}
_OTHERS: dict[str, tuple[Any, Any]] = {
    "pairwise": ("embedded_gaussian", "dot_product"),
    "scale": ("sqrt", None),
    "subsample": (2, None),
}


def consequence(assembled: "Assembled", option: str) -> str:
    """A sentence about the same tensors with another value of an option, or "" if the block adds nothing yet.

    Args:
        assembled: the block with the assumed options.
        option: "pairwise", "scale" or "subsample".
    """
    axes, kind = _CLASSES[assembled.kind]
    first, second = _OTHERS[option]
    alternative = second if assembled.settings[option] not in (None, second) else first
    changed = {**assembled.options, option: alternative}
    if changed["pairwise"] == "dot_product":
        changed["scale"] = None
    changed["pool_first"] = changed["pool_first"] and changed["subsample"] is not None
    x = torch.randn(1, assembled.options["channels"], *_SIZES[axes], generator=torch.Generator().manual_seed(0)).abs()
    with torch.no_grad():
        ours, theirs = (_added(kind, options, assembled, x) for options in (assembled.options, changed))
    norm = float(ours.norm())
    if not norm:
        return ""
    difference = float((theirs - ours).norm()) / norm
    shown = repr(1 if alternative is None else alternative)  # 1 is what users give for "none"
    return f". With {option}={shown} what the block adds differs by {_percent(difference)} on a random map"


def _added(kind: type[NonLocal], options: dict[str, Any], assembled: "Assembled", x: torch.Tensor) -> torch.Tensor:
    block = kind(**options).eval()
    block.load_state_dict(assembled.tensors)
    return block(x) - x


def _percent(difference: float) -> str:
    if difference > 100:
        return f"{difference:.0e} times"
    return f"{100 * difference:.0f} %" if difference >= 0.005 else "less than 0.5 %"
