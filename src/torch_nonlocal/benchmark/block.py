"""One block at the paper's sizes, forward and backward."""

from collections.abc import Callable
from typing import Any

import torch

from torch_nonlocal.layers import NonLocal3d

# (stage, channels, (T, H, W)): 32 frames of 224x224 in the paper's ResNet, table 1
PAPER_SIZES = (("res4", 1024, (4, 14, 14)), ("res3", 512, (4, 28, 28)), ("res2", 256, (4, 56, 56)))


def forward_backward(channels: int, size: tuple[int, ...], options: dict[str, Any]) -> Callable[[], Any]:
    """A training step's work of one block on one clip (1, C, T, H, W)."""
    torch.manual_seed(0)
    block = NonLocal3d(channels, **options)

    def run(x: torch.Tensor) -> None:
        block.zero_grad()
        x.grad = None
        block(x).sum().backward()

    run(torch.randn(1, channels, 1, 4, 4, requires_grad=True))  # libraries set themselves up at the first call
    x = torch.randn(1, channels, *size, requires_grad=True)
    return lambda: run(x)
