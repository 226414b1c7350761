"""Implementations to compare: this library, the definition, PyTorch's attention and the blocks of other projects.

For N positions and width D, each contender is a function that runs forward, or forward and backward, once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal import functional
from torch_nonlocal._common.optional import require
from torch_nonlocal.functional import Pairwise
from torch_nonlocal.layers import NonLocal3d

FORMS = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
OPERATIONS = ("ours", "dense", "SDPA")
BLOCKS = ("ours", "mmcv", "timm")


@dataclass(frozen=True)
class Cell:
    """One form and size of the comparison.

    Attributes:
        form: pairwise form.
        positions: N = M.
        width: D = V of the operation. A block has 2 D channels.
        whole_block: compare the block with its convolutions on (1, 2 D, T, H, W) instead of the operation alone.
    """

    form: Pairwise
    positions: int
    width: int
    whole_block: bool = False

    @property
    def useful_flops(self) -> int:
        """FLOPs of the definition, forward and backward without recomputation: six products of 2 N^2 D."""
        return 12 * self.positions**2 * self.width

    @property
    def map_bytes(self) -> int:
        """Bytes of the N x N map in float32."""
        return 4 * self.positions**2

    @property
    def feature_bytes(self) -> int:
        """Bytes of theta, phi, g and y in float32."""
        return 16 * self.positions * self.width


def builds_the_map(contender: str, cell: Cell) -> bool:
    """Return whether a contender holds N x N maps."""
    return contender in ("dense", "mmcv", "timm") or (contender == "SDPA" and cell.form == "dot_product")


def prepare(contender: str, cell: Cell, backward: bool) -> Callable[[], Any]:
    """Draw the inputs of a cell and return the function to measure.

    Args:
        contender: one of `OPERATIONS` or, for a whole block, of `BLOCKS`.
        cell: form and size.
        backward: run backward as well.

    Raises:
        ImportError: if the contender's package is not installed.
        ValueError: if the contender does not have the form.
        RuntimeError: if the contender's code fails.
    """
    torch.manual_seed(0)
    return _block(contender, cell, backward) if cell.whole_block else _operation(contender, cell, backward)


def _operation(contender: str, cell: Cell, backward: bool) -> Callable[[], Any]:
    channel_major = [(torch.randn(1, cell.width, cell.positions) * cell.width**-0.25).mT for _ in range(4)]
    *inputs, dy = channel_major  # the strides of a convolution's output
    if cell.form == "concatenation":
        inputs = [inputs[0][..., 0].contiguous(), inputs[1][..., 0].contiguous(), inputs[2]]
    inputs = [tensor.requires_grad_(backward) for tensor in inputs]
    operation = _by_name(contender, cell.form)
    _warm_up(operation, [tensor[:, :8].detach().requires_grad_(backward) for tensor in inputs], backward)

    def work() -> None:
        if not backward:
            with torch.no_grad():
                operation(*inputs)
            return
        y = operation(*inputs)
        torch.autograd.grad(y, inputs, dy)

    return work


def _by_name(contender: str, form: Pairwise) -> Callable[..., Tensor]:
    if contender == "SDPA":
        if form not in ("embedded_gaussian", "gaussian"):
            raise ValueError("SDPA has the softmax forms only")
        return lambda *qkv: F.scaled_dot_product_attention(*(t.contiguous().unsqueeze(1) for t in qkv), scale=1.0)[:, 0]
    operation = getattr(functional, form)
    algorithm = "auto" if contender == "ours" else "dense"
    return lambda *inputs: operation(*inputs, algorithm=algorithm)


def _block(contender: str, cell: Cell, backward: bool) -> Callable[[], Any]:
    channels, size = 2 * cell.width, _factored(cell.positions)
    block, x = _module(contender, cell.form, channels, size)
    small = x[..., :4].detach().requires_grad_(backward)
    block.train(backward)

    def run(x: Tensor) -> None:
        if backward:
            block.zero_grad()
            block(x).sum().backward()
        else:
            with torch.no_grad():
                block(x)

    run(small)
    x.requires_grad_(backward)
    return lambda: run(x)


def _module(contender: str, form: Pairwise, channels: int, size: tuple[int, int, int]) -> tuple[nn.Module, Tensor]:
    """Return a block and its input (1, C, T, H, W); timm's block is 2D and gets (1, C, T H, W)."""
    x = torch.randn(1, channels, *size)
    if contender == "ours":
        scale = "sqrt" if form == "embedded_gaussian" else None
        return NonLocal3d(channels, pairwise=form, scale=scale), x
    if contender == "timm":
        peer = require("timm.layers.non_local_attn", extra="bench").NonLocalAttn
        if form != "embedded_gaussian":
            raise ValueError("timm has the embedded Gaussian only")
        return peer(channels, rd_ratio=0.5), x.flatten(2, 3)
    peer = require("mmcv.cnn.bricks.non_local", extra="bench").NonLocal3d
    return peer(channels, norm_cfg={"type": "BN3d"}, mode=form), x


def _warm_up(operation: Callable[..., Tensor], inputs: list[Tensor], backward: bool) -> None:
    """Call the operation once: libraries initialize at the first call."""
    y = operation(*inputs)
    if backward:
        y.sum().backward()


def _factored(positions: int) -> tuple[int, int, int]:
    """Factor positions to (T, H, W): H = W is the largest multiple of 14 up to 224 for which T is an integer."""
    for side in range(224, 13, -14):
        if positions % (side * side) == 0:
            return positions // (side * side), side, side
    return 1, 1, positions
