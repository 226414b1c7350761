"""Blocks of re-identification networks, with the names of AlexHex7: AGW, fast-reid and STE-NVAN.

AGW and fast-reid compute the dot product. STE-NVAN divides it by the number of queries, also where it pools the keys.
STE-NVAN's stripe block does the same on the means, or maxima, of horizontal stripes: the grid is (T, stripes, 1).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.replacing.paper_block import Names, PaperBlock, Rule, paper_blocks

_POOLS = ("pool", "avgpool", "maxpool")


class Stripes(PaperBlock):
    """One rule of the stripe block."""

    def mismatch(self, module: Any) -> str | None:
        if not isinstance(getattr(module, "stripe", None), int) or not set(_POOLS) & module._modules.keys():
            return "it has no stripes"
        return super().mismatch(module)

    def channels(self, module: Any) -> int:
        return self._out(module).out_channels  # mean and maximum together have twice as many

    def example_size(self, module: Any) -> tuple[int, ...]:
        return (3, 2 * module.stripe, 2)

    def position_axes(self, shape: Sequence[int]) -> range:
        return range(2, 3)  # height and width do not change the number of positions

    def input(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        x = super().input(module, args, kwargs)
        return x if x is not None and x.ndim == 5 and x.shape[3] % module.stripe == 0 else None

    def embed(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stripes = x.unflatten(3, (module.stripe, -1)).flatten(0, 2)
        size = (*x.shape[:3], module.stripe, 1)
        pools = [module._modules[name] for name in _POOLS if name in module._modules]
        return super().embed(module, torch.cat([pool(stripes).reshape(size) for pool in pools], 1))

    def run(self, module: Any, x: Tensor) -> Tensor:
        theta, phi, g = self.embed(module, x)
        return self.finish(module, self.respond(module, theta, theta, phi, g), x)

    def finish(self, module: Any, y: Tensor, x: Tensor) -> Tensor:
        striped = x.unflatten(3, (module.stripe, -1))
        return (module.W(y)[..., None] + striped).flatten(3, 4)


_NAMES = Names("theta", "phi", "g", ("W",))
_STE_NVAN = (Rule("embedded_gaussian"), Rule("dot_product", normalize="queries"))

REID = (
    *paper_blocks("agw", "AGW or fast-reid", ("Non_local",), _NAMES, own=(Rule("dot_product"),)),
    *paper_blocks("ste-nvan", "STE-NVAN", ("NonLocalBlock",), _NAMES, own=_STE_NVAN),
    *paper_blocks("ste-nvan-stripe", "STE-NVAN", ("Stripe_NonLocalBlock",), _NAMES, own=_STE_NVAN, kind=Stripes),
)
