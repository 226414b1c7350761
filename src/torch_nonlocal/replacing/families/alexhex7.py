"""AlexHex7/Non-local_pytorch and its copies in TSM, AP3D, tea1528 and detectron2's DensePose.

The four forms are files of their own with the same class names. Keys are pooled after phi and g, without a scale. The
convolution and the norm after the sum are `W`, `W_z` in tea1528.
"""

from typing import Any

from torch import Tensor, nn

from torch_nonlocal.functional import Pairwise
from torch_nonlocal.layers.operation import Computed
from torch_nonlocal.replacing.family import Family, dims_of, is_pointwise, pool_factors, split_scores

_CLASSES = ("NONLocalBlock1D", "NONLocalBlock2D", "NONLocalBlock3D", "NonLocalBlock1D", "NonLocalBlock2D")
_CLASSES += ("NonLocalBlock3D", "_NonLocalBlockND", "NLBlockND")


class AlexHex7(Family):
    """One pairwise form of the block."""

    project = "AlexHex7/Non-local_pytorch, tea1528, or a copy"
    class_names = _CLASSES

    def __init__(self, pairwise: Pairwise) -> None:
        self.name = f"alexhex7.{pairwise}"
        self.pairwise: Pairwise = pairwise

    def mismatch(self, module: Any) -> str | None:
        convs = [_first(module, name) for name in ("g", *(() if self.pairwise == "gaussian" else ("theta", "phi")))]
        if not all(is_pointwise(conv) for conv in convs) or not is_pointwise(_first(module, _out(module))):
            return "theta, phi, g and W are not 1x1 convolutions"
        if self.pairwise == "gaussian" and isinstance(_child(module, "theta"), nn.Module):
            return "it has theta"
        if (_score(module) is not None) != (self.pairwise == "concatenation"):
            return "concat_project is missing" if self.pairwise == "concatenation" else "it has concat_project"
        return None

    def computed(self, module: Any) -> Computed:
        dims = dims_of(_first(module, "g"))
        pool = module.g[1] if isinstance(module.g, nn.Sequential) and len(module.g) > 1 else None
        return Computed(dims, self.pairwise, pool_factors(pool, dims))

    def channels(self, module: Any) -> int:
        return _first(module, "g").in_channels

    def embed(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g = module.g(x)
        if self.pairwise == "gaussian":
            pool = _child(module, "phi")
            return x, x if pool is None else pool(x), g
        return module.theta(x), module.phi(x), g

    def scores(self, module: Any, theta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        conv = _score(module)
        return split_scores(conv.weight, conv.bias, theta, phi)

    def finish(self, module: Any, y: Tensor, x: Tensor) -> Tensor:
        return getattr(module, _out(module))(y) + x


def _child(module: Any, name: str) -> nn.Module | None:
    return module._modules.get(name)


def _first(module: Any, name: str) -> Any:
    child = _child(module, name)
    return child[0] if isinstance(child, nn.Sequential) and len(child) else child


def _out(module: Any) -> str:
    return "W_z" if "W_z" in module._modules else "W"


def _score(module: Any) -> Any:
    return _first(module, "concat_project") or _first(module, "W_f")


ALEXHEX7 = tuple(AlexHex7(form) for form in ("embedded_gaussian", "dot_product", "gaussian", "concatenation"))
