"""Disentangled non-local blocks: the original, and DisentangledNonLocal2d of mmsegmentation.

theta and phi lose their means over the positions, the logits are divided by a temperature, and all queries add the same
sum of g, weighted by a softmax over `conv_mask` (optional in the original). With gamma, the original multiplies what
the pairs give; there, the convolution after the sum has no bias and is optional.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import Any

from torch import Tensor

from torch_nonlocal.layers.operation import Computed
from torch_nonlocal.replacing.family import is_pointwise
from torch_nonlocal.replacing.paper_block import Names, PaperBlock, Rule, applied, first_conv, paper_blocks

_BY_CHANNEL = "channel"  # whitening of the project, one mean per channel


class Disentangled(PaperBlock):
    """What both have in common."""

    def computed(self, module: Any) -> Computed:
        what = super().computed(module)
        if what.pairwise != "embedded_gaussian":
            return what
        return replace(what, scale=what.scale / getattr(module, "temperature", 1.0))

    def embed(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta, phi, g = super().embed(module, x)
        return _centered(theta), _centered(phi), g

    def run(self, module: Any, x: Tensor) -> Tensor:
        theta, phi, g = self.embed(module, x)
        y = self.respond(module, x, theta, phi, g)
        if "conv_mask" not in module._modules:
            return self.combined(module, y, None, x)
        mask_B1M = module.conv_mask(applied(module, self.names.pool, x)).flatten(2).softmax(2)
        common_BV1 = g.flatten(2) @ mask_B1M.transpose(1, 2)
        return self.combined(module, y, common_BV1.reshape(*g.shape[:2], *[1] * (g.ndim - 2)), x)

    @abstractmethod
    def combined(self, module: Any, y: Tensor, common: Tensor | None, x: Tensor) -> Tensor:
        """Return the output from what the pairs give, what all queries have in common, and the input."""


class Original(Disentangled):
    """The block of the paper's authors, and their plain non-local block."""

    def mismatch(self, module: Any) -> str | None:
        if not isinstance(getattr(module, "gamma", None), Tensor):
            return "gamma is missing"
        if {*getattr(module, "whiten_type", ())} - {_BY_CHANNEL}:
            return f"it whitens by {', '.join(module.whiten_type)}; expected by channel"
        return super().mismatch(module)

    def embed(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centers = _BY_CHANNEL in getattr(module, "whiten_type", ())
        return super().embed(module, x) if centers else PaperBlock.embed(self, module, x)

    def combined(self, module: Any, y: Tensor, common: Tensor | None, x: Tensor) -> Tensor:
        y = module.gamma * y
        return self.finish(module, y if common is None else y + common, x)

    def _out(self, module: Any) -> Any:
        return super()._out(module) or first_conv(module, self.names.g)


class MMSegmentation(Disentangled):
    """The block of mmsegmentation's DNLHead, a subclass of mmcv's."""

    def mismatch(self, module: Any) -> str | None:
        if not is_pointwise(module._modules.get("conv_mask")):
            return "conv_mask is missing"
        return super().mismatch(module)

    def combined(self, module: Any, y: Tensor, common: Tensor | None, x: Tensor) -> Tensor:
        assert common is not None
        return x + module.conv_out(y) + module.conv_out(common)


_NAMES = Names("conv_query", "conv_key", "conv_value", ("conv_out", "out_bn"), pool="downsample")
_IN_MMSEG = Names("theta", "phi", "g", ("conv_out",))
_RULES = (Rule("embedded_gaussian", "inner"), Rule("embedded_gaussian"))

DNL = (
    *paper_blocks("dnl", "DNL", ("NonLocal2d_bn", "NonLocal2d"), _NAMES, own=_RULES, kind=Original),
    *paper_blocks("mmseg", "mmsegmentation", ("DisentangledNonLocal2d",), _IN_MMSEG, own=_RULES, kind=MMSegmentation),
)


def _centered(x: Tensor) -> Tensor:
    return x - x.mean(tuple(range(2, x.ndim)), keepdim=True)
