"""PFNL's block: no residual, keys and values averaged by `sub_sample`, and exp(f) / sum as the softmax.

The PyTorch port turns maps (B, C, H, W) into rows (B, N, C) by a reshape, so that a row has values of several channels
and positions. That is the same operation between other rows.
"""

from typing import Any

from torch import Tensor, nn

from torch_nonlocal.layers.operation import Computed
from torch_nonlocal.replacing.convolutional import ConvolutionalAttention, Parts, Rule


class _Pfnl(ConvolutionalAttention):
    """One pairwise form, with maps or with rows."""

    def __init__(self, *, gaussian: bool, rows: bool) -> None:
        name = f"pfnl.{'gaussian' if gaussian else 'embedded_gaussian'}{'_rows' if rows else ''}"
        parts = Parts("convolution_theta", "convolution_phi", "convolution_g", "convolution_y")
        super().__init__(name, "PFNL", ("NonLocalBlock",), parts, Rule(scaled=False), residual=False)
        self.gaussian, self.rows = gaussian, rows

    def computed(self, module: Any) -> Computed:
        pairwise, factor = "gaussian" if self.gaussian else "embedded_gaussian", _factor(module)
        return Computed(2, pairwise, subsample=None if factor == 1 else (factor, factor))

    def convolved(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g = _pooled(module, "pooling_g", module.convolution_g(x))
        phi = _pooled(module, "pooling_phi", x if self.gaussian else module.convolution_phi(x))
        theta = x if self.gaussian else module.convolution_theta(x)
        return (_mixed(theta), _mixed(phi), _mixed(g)) if self.rows else (theta, phi, g)

    def finish(self, module: Any, y: Tensor, x: Tensor) -> Tensor:
        if self.rows:
            y = y.flatten(2).transpose(1, 2).reshape(y.shape)
        return super().finish(module, y, x)


def _factor(module: Any) -> int:
    factor = getattr(module, "sub_sample", 1)
    return factor if isinstance(factor, int) else 1


def _pooled(module: Any, name: str, x: Tensor) -> Tensor:
    pool = module._modules.get(name)
    return pool(x) if isinstance(pool, nn.Module) and _factor(module) > 1 else x


def _mixed(x: Tensor) -> Tensor:
    """The rows that a reshape to (B, N, C) makes, as a map."""
    return x.reshape(x.shape[0], -1, x.shape[1]).transpose(1, 2).unflatten(2, x.shape[2:])


PFNL = tuple(_Pfnl(gaussian=gaussian, rows=rows) for rows in (False, True) for gaussian in (False, True))
