"""The layouts of timm's NonLocalAttn, cgnl's SpatialNL, gluon-cv's NonLocal, AGW's Non_local and STE-NVAN's blocks."""

import torch
from torch import Tensor, nn


def positions(x: Tensor) -> Tensor:
    """A map (B, C, *size) as (B, N, C)."""
    return x.flatten(2).transpose(1, 2)


def weighted(weights: Tensor, g: Tensor, size: torch.Size) -> Tensor:
    """The sums as a map."""
    return (weights @ positions(g)).transpose(1, 2).reshape(g.shape[0], g.shape[1], *size)


class NonLocalAttn(nn.Module):
    """timm: the scale is that of the input width."""

    def __init__(self, in_channels: int, use_scale: bool = True) -> None:
        super().__init__()
        width = in_channels // 4
        self.scale = in_channels**-0.5 if use_scale else 1.0
        self.t, self.p, self.g = (nn.Conv2d(in_channels, width, 1) for _ in range(3))
        self.z = nn.Conv2d(width, in_channels, 1)
        self.norm = nn.BatchNorm2d(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(torch.bmm(positions(self.t(x)), self.p(x).flatten(2)) * self.scale, dim=2)
        return self.norm(self.z(weighted(weights, self.g(x), x.shape[2:]))) + x


class SpatialNL(nn.Module):
    """cgnl: convolutions without biases. A copy for sequences normalizes over the queries."""

    def __init__(self, inplanes: int, planes: int, use_scale: bool = False, *, dims: int = 2, axis: int = 2) -> None:
        super().__init__()
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if dims == 1 else (nn.Conv2d, nn.BatchNorm2d)
        self.use_scale = use_scale
        self.t, self.p, self.g = (conv(inplanes, planes, 1, bias=False) for _ in range(3))
        self.softmax = nn.Softmax(dim=axis)
        self.z = conv(planes, inplanes, 1, bias=False)
        self.bn = norm(inplanes)

    def forward(self, x: Tensor) -> Tensor:
        t, p = self.t(x), self.p(x)
        logits = torch.bmm(positions(t), p.flatten(2))
        weights = self.softmax(logits.div(t.shape[1] ** 0.5) if self.use_scale else logits)
        return self.bn(self.z(weighted(weights, self.g(x), x.shape[2:]))) + x


class NonLocal(nn.Module):
    """gluon-cv: W and bn are registered twice."""

    def __init__(self, in_channels: int, use_bn: bool = True) -> None:
        super().__init__()
        width = in_channels // 2
        self.embed_dim, self.use_bn = width, use_bn
        self.theta, self.phi, self.g = (nn.Conv3d(in_channels, width, (1, 1, 1)) for _ in range(3))
        self.W = nn.Conv3d(width, in_channels, (1, 1, 1))
        if use_bn:
            self.bn = nn.BatchNorm3d(in_channels, momentum=0.9)
            self.W_bn = nn.Sequential(self.W, self.bn)

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.bmm(positions(self.theta(x)), self.phi(x).flatten(2)) * self.embed_dim**-0.5
        y = weighted(logits.softmax(-1), self.g(x), x.shape[2:])
        return (self.W_bn(y) if self.use_bn else self.W(y)) + x


class Non_local(nn.Module):  # noqa: N801 (its name)
    """AGW and fast-reid: the dot product, by default with one inner channel."""

    def __init__(self, in_channels: int, width: int = 1, *, sequential: bool = True) -> None:
        super().__init__()
        g = nn.Conv2d(in_channels, width, 1)
        self.g = nn.Sequential(g) if sequential else g
        self.W = nn.Sequential(nn.Conv2d(width, in_channels, 1), nn.BatchNorm2d(in_channels))
        self.theta, self.phi = nn.Conv2d(in_channels, width, 1), nn.Conv2d(in_channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        pairs = positions(self.theta(x)) @ self.phi(x).flatten(2)
        return self.W(weighted(pairs / pairs.shape[-1], self.g(x), x.shape[2:])) + x


class NonLocalBlock(nn.Module):
    """STE-NVAN: the dot product is divided by the number of queries."""

    def __init__(self, in_channels: int, instance: str, *, sub_sample: bool = False, bn_layer: bool = True) -> None:
        super().__init__()
        width = in_channels // 2
        self.instance = instance
        self.theta, phi, g = (nn.Conv3d(in_channels, width, 1) for _ in range(3))
        expand = nn.Conv3d(width, in_channels, 1)
        self.W = nn.Sequential(expand, nn.BatchNorm3d(in_channels)) if bn_layer else expand
        pool = nn.MaxPool3d((1, 2, 2))
        self.phi, self.g = (nn.Sequential(one, pool) if sub_sample else one for one in (phi, g))

    def forward(self, x: Tensor) -> Tensor:
        pairs = positions(self.theta(x)) @ self.phi(x).flatten(2)
        weights = pairs.softmax(-1) if self.instance == "soft" else pairs / pairs.shape[1]
        return self.W(weighted(weights, self.g(x), x.shape[2:])) + x


class Stripe_NonLocalBlock(nn.Module):  # noqa: N801 (its name)
    """STE-NVAN: a block on the means, maxima or both of horizontal stripes of each frame."""

    def __init__(self, stripe: int, in_channels: int, pool_type: str = "mean", instance: str = "soft") -> None:
        super().__init__()
        width = in_channels // 2
        self.stripe, self.instance = stripe, instance
        pools = {"mean": nn.AdaptiveAvgPool2d(1), "max": nn.AdaptiveMaxPool2d(1)}
        if pool_type == "meanmax":
            self.avgpool, self.maxpool = pools["mean"], pools["max"]
        else:
            self.pool = pools[pool_type]
        inputs = in_channels * (2 if pool_type == "meanmax" else 1)
        self.g, self.theta, self.phi = (nn.Conv3d(inputs, width, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv3d(width, in_channels, 1), nn.BatchNorm3d(in_channels))

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        rows = x.reshape(b * c * t, self.stripe, h // self.stripe, w)
        pools = [self._modules[name] for name in ("pool", "avgpool", "maxpool") if name in self._modules]
        stripes = torch.cat([pool(rows).reshape(b, c, t, self.stripe, 1) for pool in pools], 1)  # pyright: ignore
        pairs = positions(self.theta(stripes)) @ self.phi(stripes).flatten(2)
        weights = pairs.softmax(-1) if self.instance == "soft" else pairs / pairs.shape[1]
        out = self.W(weighted(weights, self.g(stripes), stripes.shape[2:]))
        return out.repeat(1, 1, 1, 1, h // self.stripe * w).reshape(b, c, t, h, w) + x
