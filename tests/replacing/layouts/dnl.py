"""The layouts of DNL's NonLocal2d_bn and of mmsegmentation's DisentangledNonLocal2d."""

from typing import Any

import torch
from layouts.mmcv import NonLocal2d
from torch import Tensor, nn


class NonLocal2d_bn(nn.Module):  # noqa: N801 (its name)
    """The authors' block: keys are pooled before, gamma is zero at first."""

    def __init__(
        self,
        inplanes: int,
        planes: int,
        *,
        downsample: bool = True,
        use_out: bool = False,
        out_bn: bool = False,
        whiten_type: tuple[str, ...] = ("channel",),
        temperature: float = 1.0,
        with_gc: bool = False,
    ) -> None:
        super().__init__()
        self.conv_query, self.conv_key = nn.Conv2d(inplanes, planes, 1), nn.Conv2d(inplanes, planes, 1)
        self.conv_value = nn.Conv2d(inplanes, planes if use_out else inplanes, 1, bias=use_out)
        self.conv_out = nn.Conv2d(planes, inplanes, 1, bias=False) if use_out else None
        self.out_bn = nn.BatchNorm2d(inplanes) if out_bn else None
        if with_gc:
            self.conv_mask = nn.Conv2d(inplanes, 1, 1)
        self.downsample = nn.MaxPool2d(2, 2) if downsample else None
        self.gamma = nn.Parameter(torch.zeros(1))
        self.scale, self.temperature, self.with_gc = planes**0.5, temperature, with_gc
        self.whiten_type = whiten_type

    def forward(self, x: Tensor) -> Tensor:
        small = x if self.downsample is None else self.downsample(x)
        query, key, value = self.conv_query(x).flatten(2), self.conv_key(small).flatten(2), self.conv_value(small)
        axis = {"channel": 2, "spatial": 1}
        for kind in self.whiten_type:
            query, key = (one - one.mean(axis[kind], keepdim=True) for one in (query, key))
        weights = torch.softmax(query.transpose(1, 2) @ key / self.scale / self.temperature, 2)
        y = self.gamma * (value.flatten(2) @ weights.transpose(1, 2)).view(*value.shape[:2], *x.shape[2:])
        if self.with_gc:
            mask = self.conv_mask(small).flatten(2).softmax(2)
            y = y + (value.flatten(2) @ mask.transpose(1, 2))[..., None]
        for part in (self.conv_out, self.out_bn):
            y = y if part is None else part(y)
        return y + x


class DisentangledNonLocal2d(NonLocal2d):
    """mmsegmentation: the convolution after the sum runs twice."""

    def __init__(self, channels: int, *, temperature: float, **options: Any) -> None:
        super().__init__(channels, "embedded_gaussian", **options)
        self.temperature = temperature
        self.conv_mask = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (part(x).flatten(2) for part in (self.theta, self.phi, self.g))
        theta, phi = (one - one.mean(2, keepdim=True) for one in (theta, phi))
        scale = self.width**-0.5 if self.use_scale else 1.0
        weights = torch.softmax(theta.transpose(1, 2) @ phi * scale / self.temperature, 2)
        y = (g @ weights.transpose(1, 2)).view(len(x), self.width, *x.shape[2:])
        mask = self.conv_mask(x).flatten(2).softmax(2)
        return x + self.conv_out(y) + self.conv_out((g @ mask.transpose(1, 2))[..., None])
