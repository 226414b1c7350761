"""A training step of one block at the paper's sizes."""

from collections.abc import Callable
from typing import Any

import torch

from torch_nonlocal.layers import NonLocal3d

# (stage, channels, (T, H, W)) of 32 frames of 224 x 224 in the paper's ResNet, table 1
PAPER_SIZES = (("res4", 1024, (4, 14, 14)), ("res3", 512, (4, 28, 28)), ("res2", 256, (4, 56, 56)))


def forward_backward(channels: int, size: tuple[int, ...], options: dict[str, Any]) -> Callable[[], Any]:
    """Return a function that runs a block forward and backward on one clip (1, C, T, H, W).

    Args:
        channels: C.
        size: (T, H, W).
        options: options of `NonLocal3d`.
    """
    torch.manual_seed(0)
    block = NonLocal3d(channels, **options)

    def run(x: torch.Tensor) -> None:
        block.zero_grad()
        x.grad = None
        block(x).sum().backward()

    run(torch.randn(1, channels, 1, 4, 4, requires_grad=True))  # warm-up: libraries initialize at the first call
    x = torch.randn(1, channels, *size, requires_grad=True)
    return lambda: run(x)
