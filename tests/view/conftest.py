"""Shared fixtures of the drawing tests."""

from dataclasses import dataclass

import pytest
import torch


@dataclass
class Link:
    source_pixel: tuple[float, float, float]
    target_pixel: tuple[float, float, float]
    weight: float


@pytest.fixture
def link() -> type[Link]:
    return Link


@pytest.fixture
def digits() -> torch.Tensor:
    """Eight dark frames of 32 x 32 with two moving bright squares: (T, H, W), floats in [0, 1]."""
    clip = torch.zeros(8, 32, 32)
    for t in range(8):
        clip[t, 2 + 2 * t : 9 + 2 * t, 4:11] = 0.9
        clip[t, 20:27, 22 - 2 * t : 29 - 2 * t] = 0.7
    return clip
