"""NonLocal of gluon-cv's PyTorch models: theta, phi, g, W, bn. W and bn are registered again as `W_bn`, which runs."""

from typing import Any

from torch import Tensor

from torch_nonlocal.replacing.paper_block import Names, PaperBlock, Rule, paper_blocks


class GluonCV(PaperBlock):
    """One rule of the block."""

    def finish(self, module: Any, y: Tensor, x: Tensor) -> Tensor:
        return (module.W_bn if "W_bn" in module._modules else module.W)(y) + x


_NAMES = Names("theta", "phi", "g", ("W",))
_RULES = (Rule("embedded_gaussian", "inner"),)

GLUONCV = tuple(paper_blocks("gluoncv", "gluon-cv", ("NonLocal",), _NAMES, own=_RULES, kind=GluonCV))
