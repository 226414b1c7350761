"""Softmax attention between 1x1 convolutions, as many projects write it.

    x -> norm -> theta, phi, g -> softmax -> out -> times gamma -> plus x

Norm, out and gamma are optional. Projects name the parts differently, and their copies differ in a rule: in the scale,
in the axis of the softmax, and in which of the two convolutions gives the queries. Neither names nor shapes tell the
rule, so there is one family for each; the numerical check selects it.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_nonlocal.functional import Normalize
from torch_nonlocal.layers.operation import Computed
from torch_nonlocal.replacing.deferred import deferred_map
from torch_nonlocal.replacing.family import Family, dims_of, is_pointwise


@dataclass(frozen=True)
class Parts:
    """Names of the parts of a module.

    Attributes:
        theta: the convolution of the queries.
        phi: the convolution of the keys.
        g: the convolution of the values.
        out: the convolution after the sum; None if there is none.
        norms: possible names of a norm before the three convolutions. A module may lack it.
        gammas: possible names of a learned factor of the output; empty if there is none.
    """

    theta: str
    phi: str
    g: str
    out: str | None = None
    norms: tuple[str, ...] = ()
    gammas: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """In what copies of a module differ.

    Attributes:
        scaled: whether the logits are multiplied by D^-0.5.
        normalize: axis over which weights sum to one.
        swapped: whether the convolution that is named for the keys gives the queries.
    """

    scaled: bool
    normalize: Normalize = "keys"
    swapped: bool = False

    @property
    def suffix(self) -> str:
        """The rule as the last part of the name of a family."""
        words = ("scaled" if self.scaled else "unscaled", self.normalize, *(("swapped",) if self.swapped else ()))
        return "_".join(words)


def rules(*, scaled: bool) -> tuple[Rule, ...]:
    """Return all rules, the usual ones first.

    Args:
        scaled: whether the original of the copies scales.
    """
    return tuple(
        Rule(one, normalize, swapped)
        for swapped in (False, True)
        for normalize in ("keys", "queries")
        for one in (scaled, not scaled)
    )


class ConvolutionalAttention(Family):
    """Modules with one set of names and one rule.

    Args:
        name: name of the family.
        project: the projects.
        class_names: names of the classes.
        parts: names of the parts.
        rule: the rule.
        pool: factor of a max pooling of phi and g that the forward itself does; 1 for none.
        residual: whether the input is added to the output.
        causal: whether a position attends to its own and earlier frames only.
        returns_map: whether the N x M map is returned beside the output.
    """

    def __init__(
        self,
        name: str,
        project: str,
        class_names: tuple[str, ...],
        parts: Parts,
        rule: Rule,
        *,
        pool: int = 1,
        residual: bool = True,
        causal: bool = False,
        returns_map: bool = False,
    ) -> None:
        self.name, self.project, self.class_names = name, project, class_names
        self.parts, self.rule, self.pool = parts, rule, pool
        self.residual, self.causal, self.returns_map = residual, causal, returns_map

    def mismatch(self, module: Any) -> str | None:
        parts = self.parts
        names = [parts.theta, parts.phi, parts.g, *(() if parts.out is None else (parts.out,))]
        if not all(is_pointwise(module._modules.get(name)) for name in names):
            return f"{', '.join(names[:-1])} and {names[-1]} are not 1x1 convolutions"
        if parts.gammas and self._gamma(module) is None:
            return f"{parts.gammas[0]} is missing"
        if self.causal and self._dims(module) != 3:
            return "its convolutions are not those of clips"
        return None

    def computed(self, module: Any) -> Computed:
        theta = module._modules[self._names[0]]
        dims = self._dims(module)
        return Computed(
            dims,
            subsample=None if self.pool == 1 else (self.pool,) * dims,
            scale=theta.out_channels**-0.5 if self.rule.scaled else 1.0,
            normalize=self.rule.normalize,
            causal="frames" if self.causal else None,
        )

    def channels(self, module: Any) -> int:
        return module._modules[self.parts.theta].in_channels

    def embed(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        norm = next((module._modules[name] for name in self.parts.norms if name in module._modules), None)
        y = x if norm is None else norm(x)
        theta, phi, g = self.convolved(module, y)
        if self.rule.swapped:
            theta, phi = phi, theta
        if self.pool == 1:
            return theta, phi, g
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[self._dims(module) - 1]
        return theta, pool(phi, self.pool), pool(g, self.pool)

    def convolved(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps of the three convolutions, which run in the usual order: it matters to their hooks."""
        parts = self.parts
        return getattr(module, parts.theta)(x), getattr(module, parts.phi)(x), getattr(module, parts.g)(x)

    def finish(self, module: Any, y: Tensor, x: Tensor) -> Tensor:
        if self.parts.out is not None:
            y = getattr(module, self.parts.out)(y)
        gamma = self._gamma(module)
        if gamma is not None:
            y = gamma * y
        return y + x if self.residual else y

    def run(self, module: Any, x: Tensor) -> Any:
        if not self.returns_map:
            return super().run(module, x)
        theta, phi, g = self.embed(module, x)
        out = self.finish(module, self.respond(module, x, theta, phi, g), x)
        scale, axis, swapped = self.computed(module).scale, 2 if self.rule.normalize == "keys" else 1, self.rule.swapped

        def build(theta_BDN: Tensor, phi_BDM: Tensor) -> Tensor:
            map_BNM = torch.softmax(scale * theta_BDN.transpose(1, 2) @ phi_BDM, axis)
            return map_BNM.transpose(1, 2) if swapped else map_BNM

        theta_BDN, phi_BDM = theta.flatten(2), phi.flatten(2)
        first, second = (phi_BDM, theta_BDN) if swapped else (theta_BDN, phi_BDM)
        return out, deferred_map(build, theta_BDN, phi_BDM, (x.shape[0], first.shape[2], second.shape[2]))

    @property
    def _names(self) -> tuple[str, str]:
        theta, phi = self.parts.theta, self.parts.phi
        return (phi, theta) if self.rule.swapped else (theta, phi)

    def _dims(self, module: Any) -> int:
        return dims_of(module._modules[self.parts.theta])

    def _gamma(self, module: Any) -> Any:
        found = (getattr(module, name, None) for name in self.parts.gammas)
        return next((one for one in found if isinstance(one, Tensor)), None)
