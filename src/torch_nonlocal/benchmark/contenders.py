"""Who takes part: this library, the definition, PyTorch's attention, and other projects' blocks.

Each contender makes, for N positions and width D, a callable that runs forward or forward and backward once. Those of
other projects raise ImportError where the project is missing and ValueError where they cannot run a form.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal import functional
from torch_nonlocal.functional import Pairwise
from torch_nonlocal.layers import NonLocal3d

FORMS = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
OPERATIONS = ("ours", "dense", "SDPA")
BLOCKS = ("ours", "mmcv", "timm")
INSTALL = "pip install 'torch-nonlocal[bench]'"


@dataclass(frozen=True)
class Cell:
    """One size of the table.

    Attributes:
        form: pairwise form.
        positions: N = M.
        width: D = V of an operation; a block has 2 D channels.
        whole_block: the block with its convolutions, (1, 2 D, T, H, W), instead of the operation alone.
    """

    form: Pairwise
    positions: int
    width: int
    whole_block: bool = False

    @property
    def useful_flops(self) -> int:
        """Forward and backward of the definition, without recomputation: six products of 2 N^2 D."""
        return 12 * self.positions**2 * self.width

    @property
    def map_bytes(self) -> int:
        """One N x N map in float32."""
        return 4 * self.positions**2

    @property
    def feature_bytes(self) -> int:
        """theta, phi, g and y together."""
        return 16 * self.positions * self.width


def builds_the_map(contender: str, cell: Cell) -> bool:
    """Whether a contender holds N x N numbers, several of them in backward."""
    return contender in ("dense", "mmcv", "timm") or (contender == "SDPA" and cell.form == "dot_product")


def prepare(contender: str, cell: Cell, backward: bool) -> Callable[[], Any]:
    """The work of one contender in one cell; inputs are drawn here, outside of what is measured.

    Raises:
        ImportError: the contender's project is not installed.
        ValueError: it has no such form.
        RuntimeError: its code fails in this form.
    """
    torch.manual_seed(0)
    return _block(contender, cell, backward) if cell.whole_block else _operation(contender, cell, backward)


def _operation(contender: str, cell: Cell, backward: bool) -> Callable[[], Any]:
    channel_major = [(torch.randn(1, cell.width, cell.positions) * cell.width**-0.25).mT for _ in range(4)]
    *inputs, dy = channel_major  # as convolutions give them
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
            raise ValueError("has the softmax forms only")
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
    """A block and its input: 3D but for timm, whose block is 2D."""
    x = torch.randn(1, channels, *size)
    if contender == "ours":
        scale = "sqrt" if form == "embedded_gaussian" else None
        return NonLocal3d(channels, pairwise=form, scale=scale), x
    try:
        if contender == "timm":
            from timm.layers.non_local_attn import NonLocalAttn  # pyright: ignore[reportMissingImports]
        else:
            from mmcv.cnn.bricks.non_local import NonLocal3d as Peer  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"{contender} is not installed: {INSTALL}") from error
    if contender == "timm":
        if form != "embedded_gaussian":
            raise ValueError("has the embedded gaussian only")
        return NonLocalAttn(channels, rd_ratio=0.5), x.flatten(2, 3)
    return Peer(channels, norm_cfg={"type": "BN3d"}, mode=form), x


def _warm_up(operation: Callable[..., Tensor], inputs: list[Tensor], backward: bool) -> None:
    """Libraries set themselves up at the first call: that is no cost of a cell."""
    y = operation(*inputs)
    if backward:
        y.sum().backward()


def _factored(positions: int) -> tuple[int, int, int]:
    """(T, H, W) with H = W the largest multiple of 14 up to 224 that divides, as the paper's maps."""
    for side in range(224, 13, -14):
        if positions % (side * side) == 0:
            return positions // (side * side), side, side
    return 1, 1, positions
