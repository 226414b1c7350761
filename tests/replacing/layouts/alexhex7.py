"""The layout of AlexHex7/Non-local_pytorch, TSM, AP3D and tea1528, with the map in memory: x -> W(y) + x."""

import torch
from torch import Tensor, nn

_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOLS = {1: nn.MaxPool1d(2), 2: nn.MaxPool2d(2), 3: nn.MaxPool3d((1, 2, 2))}


class _NonLocalBlockND(nn.Module):
    """Pools after phi and g; no scale."""

    def __init__(self, channels: int, dims: int, form: str, *, sub_sample: bool, bn_layer: bool = True) -> None:
        super().__init__()
        conv, width = _CONVS[dims], channels // 2
        self.form, self.width = form, width
        self.g = conv(channels, width, 1)
        expand = conv(width, channels, 1)
        self.W = nn.Sequential(expand, _NORMS[dims](channels)) if bn_layer else expand
        nn.init.zeros_(self.W[1].weight if bn_layer else expand.weight)
        self.theta = self.phi = None
        if form != "gaussian":
            self.theta, self.phi = conv(channels, width, 1), conv(channels, width, 1)
        if form == "concatenation":
            self.concat_project = nn.Sequential(nn.Conv2d(2 * width, 1, 1, bias=False), nn.ReLU())
        if sub_sample:
            self.g = nn.Sequential(self.g, _POOLS[dims])
            self.phi = _POOLS[dims] if self.phi is None else nn.Sequential(self.phi, _POOLS[dims])

    def forward(self, x: Tensor, return_nl_map: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        batch = x.shape[0]
        g = self.g(x).view(batch, self.width, -1).transpose(1, 2)
        theta = x if self.theta is None else self.theta(x)
        phi = x if self.phi is None else self.phi(x)
        theta, phi = theta.flatten(2), phi.flatten(2)
        if self.form == "concatenation":
            shape = (-1, -1, theta.shape[2], phi.shape[2])
            pairs = torch.cat([theta.unsqueeze(3).expand(shape), phi.unsqueeze(2).expand(shape)], dim=1)
            scores = self.concat_project(pairs)[:, 0]
        else:
            scores = torch.matmul(theta.transpose(1, 2), phi)
        soft = self.form in ("gaussian", "embedded_gaussian")
        weights = torch.softmax(scores, dim=-1) if soft else scores / scores.shape[-1]
        y = torch.matmul(weights, g).transpose(1, 2).reshape(batch, self.width, *x.shape[2:])
        z = self.W(y) + x
        return (z, weights) if return_nl_map else z


class NONLocalBlock1D(_NonLocalBlockND):
    """Sequences."""

    def __init__(self, channels: int, form: str, *, sub_sample: bool = True, bn_layer: bool = True) -> None:
        super().__init__(channels, 1, form, sub_sample=sub_sample, bn_layer=bn_layer)


class NONLocalBlock2D(_NonLocalBlockND):
    """Images."""

    def __init__(self, channels: int, form: str, *, sub_sample: bool = True, bn_layer: bool = True) -> None:
        super().__init__(channels, 2, form, sub_sample=sub_sample, bn_layer=bn_layer)


class NONLocalBlock3D(_NonLocalBlockND):
    """Clips."""

    def __init__(self, channels: int, form: str, *, sub_sample: bool = True, bn_layer: bool = True) -> None:
        super().__init__(channels, 3, form, sub_sample=sub_sample, bn_layer=bn_layer)


class NLBlockND(nn.Module):
    """tea1528: no pooling; the expansion is `W_z`, the score of the concatenation `W_f` with a bias."""

    def __init__(self, channels: int, form: str, dims: int = 2) -> None:
        super().__init__()
        conv, width = _CONVS[dims], channels // 2
        self.form, self.width = form, width
        self.g = conv(channels, width, 1)
        self.W_z = nn.Sequential(conv(width, channels, 1), _NORMS[dims](channels))
        if form != "gaussian":
            self.theta, self.phi = conv(channels, width, 1), conv(channels, width, 1)
        if form == "concatenation":
            self.W_f = nn.Sequential(nn.Conv2d(2 * width, 1, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        theta, phi = (x, x) if self.form == "gaussian" else (self.theta(x), self.phi(x))
        theta, phi, g = theta.flatten(2), phi.flatten(2), self.g(x).flatten(2).transpose(1, 2)
        if self.form == "concatenation":
            shape = (-1, -1, theta.shape[2], phi.shape[2])
            pairs = torch.cat([theta.unsqueeze(3).expand(shape), phi.unsqueeze(2).expand(shape)], dim=1)
            scores = self.W_f(pairs)[:, 0]
        else:
            scores = theta.transpose(1, 2) @ phi
        soft = self.form in ("gaussian", "embedded_gaussian")
        weights = torch.softmax(scores, dim=-1) if soft else scores / scores.shape[-1]
        y = (weights @ g).transpose(1, 2).contiguous().view(x.shape[0], self.width, *x.shape[2:])
        return self.W_z(y) + x
