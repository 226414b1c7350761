"""Blocks as in the paper, x -> theta, phi, g -> sum -> W -> plus x, under the names of a project.

Projects and their copies differ in a rule: the pairwise form, the scale, and what the weights are normalized over.
Names and shapes of the parts do not tell all of it, so there is one family for each rule; the numerical check selects
it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from torch_nonlocal.functional import Normalize, Pairwise
from torch_nonlocal.layers.operation import Computed
from torch_nonlocal.replacing.family import Family, dims_of, is_pointwise, pool_factors, split_scores

Scale = Literal["none", "inner", "input", "inverse"]
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_POOLS += (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
_POOLS += (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


@dataclass(frozen=True)
class Names:
    """Names of the parts of a block.

    Attributes:
        theta: what makes the queries; a block of the Gaussian form has none.
        phi: what makes the keys; in a block of the Gaussian form, the pool of the keys, if any.
        g: what makes the values. The three contain a 1x1 convolution each, and possibly norms and a pool.
        outs: parts after the sum, in the order in which they run. A block may lack all but one.
        score: possible names of the convolution over pairs of the concatenation form.
        pool: the pool of the input before phi and g; a block may lack it.
    """

    theta: str
    phi: str
    g: str
    outs: tuple[str, ...]
    score: tuple[str, ...] = ()
    pool: str | None = None


@dataclass(frozen=True)
class Rule:
    """What a block computes.

    Attributes:
        pairwise: pairwise form.
        scale: factor of the logits: 1 ("none"), or with the inner width D and the input width C, D^-0.5 ("inner"),
            C^-0.5 ("input") or D^0.5 ("inverse").
        normalize: as for `NonLocal`.
    """

    pairwise: Pairwise
    scale: Scale = "none"
    normalize: Normalize = "keys"

    @property
    def name(self) -> str:
        """The rule as the last parts of the name of a family."""
        scale = () if self.scale == "none" else (f"scaled_{self.scale}",)
        return ".".join((self.pairwise, *scale, *(("queries",) if self.normalize == "queries" else ())))

    def factor(self, channels: int, width: int) -> float:
        """Return the factor of the logits for an input width and an inner width."""
        return {"none": 1.0, "inner": width**-0.5, "input": channels**-0.5, "inverse": width**0.5}[self.scale]


RULES = (
    Rule("embedded_gaussian"),
    Rule("embedded_gaussian", "inner"),
    Rule("dot_product"),
    Rule("gaussian"),
    Rule("concatenation"),
    Rule("embedded_gaussian", normalize="queries"),
    Rule("embedded_gaussian", "inner", "queries"),
    Rule("dot_product", normalize="queries"),
    Rule("gaussian", normalize="queries"),
)
"""The rules that are tried for every project, since its copies change them."""


class PaperBlock(Family):
    """Blocks with the names of a project and one rule."""

    def __init__(self, name: str, project: str, class_names: tuple[str, ...], names: Names, rule: Rule) -> None:
        self.name, self.project, self.class_names = f"{name}.{rule.name}", project, class_names
        self.names, self.rule = names, rule

    def mismatch(self, module: Any) -> str | None:
        names, gaussian = self.names, self.rule.pairwise == "gaussian"
        needed = [names.g] if gaussian else [names.theta, names.phi, names.g]
        if not all(is_pointwise(first_conv(module, name)) for name in needed) or self._out(module) is None:
            return f"{', '.join(needed)} and {' or '.join(names.outs)} are not 1x1 convolutions"
        if gaussian and (_child(module, names.theta) is not None or first_conv(module, names.phi) is not None):
            return f"it has {names.theta} or {names.phi}"
        if (self._score(module) is not None) != (self.rule.pairwise == "concatenation"):
            return f"it has {' or '.join(names.score)}" if self._score(module) is not None else "it has no score"
        pools = self._pools(module)
        if len(pools) > 1 or any(pool_factors(pool, self._dims(module)) is None for pool in pools):
            return "its keys are pooled in windows that overlap or depend on the size of the map"
        return None

    def computed(self, module: Any) -> Computed:
        dims, g = self._dims(module), first_conv(module, self.names.g)
        return Computed(
            dims,
            self.rule.pairwise,
            next((pool_factors(pool, dims) for pool in self._pools(module)), None),
            self.rule.factor(g.in_channels, self._width(module)),
            self.rule.normalize,
        )

    def channels(self, module: Any) -> int:
        return first_conv(module, self.names.g).in_channels

    def input(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        if kwargs.get("return_nl_map", True) is False:
            kwargs = {name: value for name, value in kwargs.items() if name != "return_nl_map"}
        return super().input(module, args[:1] if args[1:] == (False,) else args, kwargs)

    def embed(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys = applied(module, self.names.pool, x)
        if self.rule.pairwise == "gaussian":
            return x, applied(module, self.names.phi, keys), getattr(module, self.names.g)(keys)
        theta, phi, g = (getattr(module, name) for name in (self.names.theta, self.names.phi, self.names.g))
        return theta(x), phi(keys), g(keys)

    def scores(self, module: Any, theta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        conv = self._score(module)
        return split_scores(conv.weight, conv.bias, theta, phi)

    def finish(self, module: Any, y: Tensor, x: Tensor) -> Tensor:
        for name in self.names.outs:
            y = applied(module, name, y)
        return y + x

    def _dims(self, module: Any) -> int:
        return dims_of(first_conv(module, self.names.g))

    def _width(self, module: Any) -> int:
        if self.rule.pairwise == "gaussian":
            return self.channels(module)
        return first_conv(module, self.names.theta).out_channels

    def _out(self, module: Any) -> Any:
        found = (first_conv(module, name) for name in self.names.outs)
        return next((conv for conv in found if is_pointwise(conv)), None)

    def _score(self, module: Any) -> Any:
        return next((conv for name in self.names.score if (conv := first_conv(module, name)) is not None), None)

    def _pools(self, module: Any) -> list[nn.Module]:
        """The pools between the input and the keys."""
        parts = (_child(module, name) for name in (self.names.pool, self.names.phi) if name is not None)
        return [one for part in parts if part is not None for one in _inside(part) if isinstance(one, _POOLS)]


def paper_blocks(
    name: str,
    project: str,
    class_names: tuple[str, ...],
    names: Names,
    *,
    own: tuple[Rule, ...],
    kind: type[PaperBlock] = PaperBlock,
) -> Iterator[PaperBlock]:
    """Yield the families of a project.

    Args:
        name: name of the project.
        project: the projects, for messages.
        class_names: names of the classes.
        names: names of the parts.
        own: the rules of the project itself. They come before those of copies.
        kind: the class of the families.
    """
    others = [rule for rule in RULES if rule not in own and (names.score or rule.pairwise != "concatenation")]
    for rule in (*own, *others):
        yield kind(name, project, class_names, names, rule)


def first_conv(module: Any, name: str) -> Any:
    """Return the first convolution in a child, which may be a Sequential or a wrapper of an adapter; None if none."""
    child = _child(module, name)
    return None if child is None else next((one for one in _inside(child) if isinstance(one, _CONVS)), None)


def _inside(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that `module.modules()` yields, in a fraction of its time: every forward asks."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _inside(child)


def _child(module: Any, name: str) -> nn.Module | None:
    return module._modules.get(name)


def applied(module: Any, name: str | None, x: Tensor) -> Tensor:
    """Return the output of a child; the input itself if the module has no such child."""
    child = None if name is None else _child(module, name)
    return x if child is None else child(x)
