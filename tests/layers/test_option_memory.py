"""Memory of windows, of rows and columns, and of channels: linear where one N x M map would not fit the bound."""

import pytest
import torch

import torch_nonlocal as nl
from torch_nonlocal.benchmark.meter import measure

SIDE = 160
MAP = 4 * SIDE**4  # 2.6 GB

BLOCKS = (
    {"windows": 8, "interlaced": True},
    {"attend": "criss_cross"},
    {"attend": "channel", "pairwise": "dot_product"},
)
WEIGHTS = 4 * SIDE**2 * 2 * SIDE  # of all rows and columns


def forward_backward():
    """Return forward and backward passes. Small ones run first, since libraries initialize on first use."""
    blocks = [nl.NonLocal2d(16, **options) for options in BLOCKS]

    def run(side):
        x = torch.randn(1, 16, side, side, requires_grad=True)
        return lambda: [block(x).sum().backward() for block in blocks]

    run(16)()
    return run(SIDE)


@pytest.mark.slow
def test_there_is_no_map_of_all_pairs():
    bound = 64 * 2**20 + 5 * WEIGHTS
    assert bound < MAP / 10
    assert measure(forward_backward, repeats=0).extra_bytes <= bound
