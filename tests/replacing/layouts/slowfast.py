"""The layouts of PySlowFast's Nonlocal and PyTorchVideo's NonLocal: x is pooled before phi and g."""

import torch
from torch import Tensor, nn


class Nonlocal(nn.Module):
    """PySlowFast."""

    def __init__(
        self,
        dim: int,
        dim_inner: int,
        pool_size: list[int] | None = None,
        instantiation: str = "softmax",
        norm: str = "bn",
    ) -> None:
        super().__init__()
        self.instantiation, self.dim_inner = instantiation, dim_inner
        self.conv_theta = nn.Conv3d(dim, dim_inner, 1)
        self.conv_phi = nn.Conv3d(dim, dim_inner, 1)
        self.conv_g = nn.Conv3d(dim, dim_inner, 1)
        self.conv_out = nn.Conv3d(dim_inner, dim, 1)
        if norm == "bn":
            self.bn = nn.BatchNorm3d(dim)
        elif norm == "layer":
            self.norm = nn.GroupNorm(1, dim, affine=False)
        self.use_pool = pool_size is not None and max(pool_size) > 1
        if self.use_pool:
            self.pool = nn.MaxPool3d(pool_size, pool_size)

    def forward(self, x: Tensor) -> Tensor:
        small = self.pool(x) if self.use_pool else x
        theta, phi, g = self.conv_theta(x).flatten(2), self.conv_phi(small).flatten(2), self.conv_g(small).flatten(2)
        pairs = torch.einsum("nct,ncp->ntp", theta, phi)
        if self.instantiation == "softmax":
            pairs = torch.softmax(pairs * self.dim_inner**-0.5, dim=2)
        else:
            pairs = pairs / pairs.shape[2]
        y = self.conv_out(torch.einsum("ntp,ncp->nct", pairs, g).view(len(x), self.dim_inner, *x.shape[2:]))
        for name in ("bn", "norm"):
            y = getattr(self, name)(y) if name in self._modules else y
        return x + y


class NonLocal(nn.Module):
    """PyTorchVideo: its parts are arguments."""

    def __init__(self, parts: dict[str, nn.Module], instantiation: str) -> None:
        super().__init__()
        for name in ("conv_theta", "conv_phi", "conv_g", "conv_out", "pool", "norm"):
            setattr(self, name, parts.get(name))
        self.instantiation = instantiation

    def forward(self, x: Tensor) -> Tensor:
        small = x if self.pool is None else self.pool(x)
        theta, phi, g = self.conv_theta(x), self.conv_phi(small), self.conv_g(small)
        pairs = theta.flatten(2).transpose(1, 2) @ phi.flatten(2)
        if self.instantiation == "softmax":
            pairs = torch.softmax(pairs * theta.shape[1] ** -0.5, dim=2)
        else:
            pairs = pairs / pairs.shape[2]
        y = self.conv_out((g.flatten(2) @ pairs.transpose(1, 2)).view(theta.shape))
        return x + (y if self.norm is None else self.norm(y))


def pytorchvideo_block(
    dim: int, dim_inner: int, pool_size: tuple[int, int, int] | None, instantiation: str, *, norm: bool
) -> NonLocal:
    """A block as `create_nonlocal` makes it."""
    parts: dict[str, nn.Module] = {name: nn.Conv3d(dim, dim_inner, 1) for name in ("conv_theta", "conv_phi", "conv_g")}
    parts["conv_out"] = nn.Conv3d(dim_inner, dim, 1)
    if pool_size is not None:
        parts["pool"] = nn.MaxPool3d(pool_size, pool_size)
    if norm:
        parts["norm"] = nn.BatchNorm3d(dim)
    return NonLocal(parts, instantiation)
