"""The layouts of the attention of SAGAN, BigGAN, DANet, RNAN and PFNL, with the map in memory."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Self_Attn(nn.Module):  # noqa: N801 (SAGAN's name)
    """SAGAN: returns the output and the map.

    Args:
        channels: channels of the map.
        names: names of the three convolutions.
        axis: axis of the softmax.
        turned: whether the map is transposed before the product with the values; some copies forget it.
        with_map: whether the map is returned.
        reduction: quotient of the channels and the inner width, 8 in the original.
    """

    def __init__(
        self,
        channels: int,
        *,
        names: tuple[str, str, str] = ("query_conv", "key_conv", "value_conv"),
        axis: int = -1,
        turned: bool = True,
        with_map: bool = True,
        reduction: int = 2,
    ) -> None:
        super().__init__()
        self.names, self.turned, self.with_map = names, turned, with_map
        for name, width in zip(names, (channels // reduction, channels // reduction, channels), strict=True):
            self.add_module(name, nn.Conv2d(channels, width, 1))
        self.gamma = nn.Parameter(torch.zeros(1))
        self.softmax = nn.Softmax(dim=axis)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        query, key, value = (self.get_submodule(name)(x).flatten(2) for name in self.names)
        attention = self.softmax(torch.bmm(query.transpose(1, 2), key))
        out = torch.bmm(value, attention.transpose(1, 2) if self.turned else attention)
        out = self.gamma * out.view(x.shape) + x
        return (out, attention) if self.with_map else out


class PAM_Module(Self_Attn):  # noqa: N801 (DANet's name)
    """DANet's position attention."""

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__(channels, with_map=False, reduction=reduction)


class Attention(nn.Module):
    """BigGAN: keys and values are pooled, the output is expanded; without biases, with spectral norms."""

    def __init__(self, channels: int, *, spectral: bool = True, pool: int = 2, reduction: int = 2) -> None:
        super().__init__()
        self.pool, inner = pool, channels // reduction
        widths = {"theta": (channels, inner), "phi": (channels, inner), "g": (channels, channels // 2)}
        for name, (given, made) in (widths | {"o": (channels // 2, channels)}).items():
            conv = nn.Conv2d(given, made, 1, bias=False)
            self.add_module(name, spectral_norm(conv) if spectral else conv)
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta, phi, g = (self.get_submodule(name)(x) for name in ("theta", "phi", "g"))
        phi, g = (F.max_pool2d(one, self.pool).flatten(2) for one in (phi, g))
        beta = torch.softmax(torch.bmm(theta.flatten(2).transpose(1, 2), phi), -1)
        out = torch.bmm(g, beta.transpose(1, 2)).view(x.shape[0], -1, *x.shape[2:])
        return self.gamma * self.get_submodule("o")(out) + x


class NonLocalBlock2D(nn.Module):
    """RNAN: without norms, and the softmax runs over the queries."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        for name in ("g", "theta", "phi"):
            self.add_module(name, nn.Conv2d(channels, width, 1))
        self.W = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        g, theta, phi = (self.get_submodule(name)(x).flatten(2) for name in ("g", "theta", "phi"))
        weights = torch.softmax(theta.transpose(1, 2) @ phi, dim=1)
        y = (weights @ g.transpose(1, 2)).permute(0, 2, 1).contiguous()
        return self.W(y.view(x.shape[0], -1, *x.shape[2:])) + x


class NonLocalBlock(nn.Module):
    """PFNL: no residual, and keys and values are averaged over `sub_sample` positions per axis.

    Args:
        channels: channels of the map.
        width: inner width.
        sub_sample: pooling factor of the keys.
        nltype: 0 for the embedded Gaussian form, 1 for the Gaussian form, 2 for dot products divided by their sum.
        reshaped: whether maps become rows by a reshape that mixes channels and positions, as in the PyTorch port.
    """

    def __init__(
        self, channels: int, width: int, sub_sample: int = 1, nltype: int = 0, *, reshaped: bool = False
    ) -> None:
        super().__init__()
        self.width, self.sub_sample, self.nltype, self.reshaped = width, sub_sample, nltype, reshaped
        for name in ("g", "phi", "theta"):
            self.add_module(f"convolution_{name}", nn.Conv2d(channels, width, 1))
        self.pooling_g, self.pooling_phi = nn.AvgPool2d(sub_sample, sub_sample), nn.AvgPool2d(sub_sample, sub_sample)
        self.convolution_y = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        g = self.pooling_g(self.get_submodule("convolution_g")(x))
        phi = self.pooling_phi(x if self.nltype == 1 else self.get_submodule("convolution_phi")(x))
        theta = x if self.nltype == 1 else self.get_submodule("convolution_theta")(x)
        g, theta, phi = (self._rows(one) for one in (g, theta, phi))
        f = theta @ phi.transpose(1, 2)
        f = f if self.nltype == 2 else torch.exp(f)
        y = (f / f.sum(dim=2, keepdim=True)) @ g
        y = y if self.reshaped else y.transpose(1, 2)
        return self.convolution_y(y.reshape(x.shape[0], self.width, *x.shape[2:]))

    def _rows(self, one: Tensor) -> Tensor:
        return one.reshape(len(one), -1, one.shape[1]) if self.reshaped else one.flatten(2).transpose(1, 2)
