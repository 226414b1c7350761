"""A small user network with unusual places."""

import pytest
import torch
from torch import nn


class Pair(nn.Module):
    """A module that returns two maps."""

    def forward(self, x):
        return x, x


class Small(nn.Module):
    """A 3D ConvNet with a place of every unusual kind."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(3, 8, 3, padding=1)
        self.stage = nn.Sequential(nn.Conv3d(8, 8, 1), nn.BatchNorm3d(8), nn.ReLU())
        self.shared = nn.ReLU()
        self.unused = nn.Conv3d(8, 8, 1)
        self.pair = Pair()
        self.six = nn.Unflatten(1, (2, 4))
        self.items = nn.ModuleList([nn.Conv3d(8, 8, 1)])
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.shared(self.stem(x))
        x, _ = self.pair(self.shared(self.stage(x)))
        x = self.six(x).flatten(1, 2)
        for item in self.items:
            x = item(x)
        return self.head(self.drop(x).mean((2, 3, 4)))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture
def clip():
    return torch.randn(2, 3, 4, 6, 6, generator=torch.Generator().manual_seed(1))
