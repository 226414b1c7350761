"""The layouts of mmcv's non-local modules, which mmaction2 uses, and of GCNet's: convolutions are children "conv"."""

import torch
from torch import Tensor, nn

_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOLS = {1: nn.MaxPool1d(2), 2: nn.MaxPool2d(2), 3: nn.MaxPool3d((1, 2, 2))}


class ConvModule(nn.Module):
    """A convolution, with a norm or an activation."""

    def __init__(self, conv: nn.Module, bn: nn.Module | None = None, activate: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv
        if bn is not None:
            self.bn = bn
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.bn(x) if "bn" in self._modules else x
        return x if self.activate is None else self.activate(x)


class _Block(nn.Module):
    """Pools after phi and g; only the embedded Gaussian form is scaled."""

    scale_power = -0.5

    def __init__(
        self,
        channels: int,
        dims: int,
        mode: str,
        *,
        use_scale: bool = True,
        sub_sample: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__()
        conv, width = _CONVS[dims], max(channels // 2, 1)
        self.mode, self.use_scale, self.width = mode, use_scale, width
        self.g: nn.Module = ConvModule(conv(channels, width, 1))
        self.conv_out = ConvModule(conv(width, channels, 1, bias=not norm), _NORMS[dims](channels) if norm else None)
        if mode != "gaussian":
            self.theta = ConvModule(conv(channels, width, 1))
            self.phi: nn.Module = ConvModule(conv(channels, width, 1))
        if mode == "concatenation":
            self.concat_project = ConvModule(nn.Conv2d(2 * width, 1, 1, bias=False), activate=nn.ReLU())
        if sub_sample:
            self.g = nn.Sequential(self.g, _POOLS[dims])
            self.phi = _POOLS[dims] if mode == "gaussian" else nn.Sequential(self.phi, _POOLS[dims])

    def forward(self, x: Tensor) -> Tensor:
        theta = x if self.mode == "gaussian" else self.theta(x)
        phi = self.phi(x) if "phi" in self._modules else x
        theta, phi, g = theta.flatten(2), phi.flatten(2), self.g(x).flatten(2)
        if self.mode == "concatenation":
            shape = (-1, -1, theta.shape[2], phi.shape[2])
            weights = self.concat_project(torch.cat([theta[..., None].expand(shape), phi[:, :, None].expand(shape)], 1))
            weights = weights[:, 0] / phi.shape[2]
        else:
            weights = theta.transpose(1, 2) @ phi
            if self.mode == "dot_product":
                weights = weights / phi.shape[2]
            else:
                scaled = self.use_scale and self.mode == "embedded_gaussian"
                weights = (weights * self.width**self.scale_power if scaled else weights).softmax(dim=-1)
        y = (weights @ g.transpose(1, 2)).transpose(1, 2).reshape(len(x), self.width, *x.shape[2:])
        return x + self.conv_out(y)


class NonLocal1d(_Block):
    """Sequences."""

    def __init__(self, channels: int, mode: str, **options: bool) -> None:
        super().__init__(channels, 1, mode, **options)


class NonLocal2d(_Block):
    """Images."""

    def __init__(self, channels: int, mode: str, **options: bool) -> None:
        super().__init__(channels, 2, mode, **options)


class NonLocal3d(_Block):
    """Clips."""

    def __init__(self, channels: int, mode: str, **options: bool) -> None:
        super().__init__(channels, 3, mode, **options)


class NonLocal2D(_Block):
    """GCNet: the scale has the wrong sign in its exponent."""

    scale_power = 0.5

    def __init__(self, channels: int, mode: str, **options: bool) -> None:
        super().__init__(channels, 2, mode, **options)


class Bottleneck3d(nn.Module):
    """mmaction2's residual block: a plain attribute `non_local` says whether it has a block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.non_local = True
        self.conv1 = ConvModule(nn.Conv3d(channels, channels, 3, padding=1))
        self.non_local_block = NonLocal3d(channels, "embedded_gaussian", use_scale=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.non_local_block(self.conv1(x).relu() + x)
