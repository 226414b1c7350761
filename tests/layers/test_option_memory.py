"""Memory of windows, of rows and columns, and of channels: linear where one N x M map would not fit the bound."""

import pytest
import torch

import torch_nonlocal as nl
from torch_nonlocal.benchmark.meter import measure

SIDE = 160
MAP = 4 * SIDE**4  # 2.6 GB

CASES = [
    ({"windows": 8, "interlaced": True}, 64 * 2**20),
    ({"attend": "criss_cross"}, 64 * 2**20 + 5 * 4 * SIDE**2 * 2 * SIDE),
    ({"attend": "channel", "pairwise": "dot_product"}, 64 * 2**20),
]


def forward_backward(options):
    """Return a forward and backward pass. A small one runs first, since libraries initialize on first use."""
    block = nl.NonLocal2d(16, **options)

    def run(side):
        x = torch.randn(1, 16, side, side, requires_grad=True)
        return lambda: block(x).sum().backward()

    run(16)()
    return run(SIDE)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "bound"), CASES, ids=str)
def test_there_is_no_map_of_all_pairs(options, bound):
    assert bound < MAP / 10
    assert measure(forward_backward, options, repeats=0).extra_bytes <= bound
