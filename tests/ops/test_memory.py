"""Peak memory in a fresh process, with a bound that one N x M map exceeds."""

import pytest
import torch

from torch_nonlocal import functional
from torch_nonlocal.benchmark.meter import measure

N = 12544
MAP = 4 * N * N  # 600 MB

CASES = [
    # form, algorithm, normalize, width
    ("embedded_gaussian", "auto", "keys", 32),
    ("embedded_gaussian", "tiled", "keys", 32),
    ("embedded_gaussian", "tiled", "queries", 32),
    ("embedded_gaussian", "fused", "keys", 32),
    ("dot_product", "auto", None, 64),
    ("concatenation", "auto", None, 64),
]


def forward_backward(form, algorithm, normalize, width):
    """Return a forward and backward pass. A small one runs first, since libraries initialize on first use."""
    torch.set_num_threads(
        2
    )  # the fused kernel splits the queries by the number of threads, which must not take more memory
    options = {"algorithm": algorithm} | ({"normalize": normalize} if normalize else {})

    def run(positions):
        inputs = [torch.randn(1, width, positions).mT.requires_grad_() for _ in range(3)]
        if form == "concatenation":
            inputs[:2] = [torch.randn(1, positions, requires_grad=True) for _ in range(2)]
        return lambda: getattr(functional, form)(*inputs, **options).sum().backward()

    run(64)()
    return run(N)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_memory_grows_with_n_not_n_squared(case):
    features = 4 * N * case[3] * 4  # theta, phi, g and y
    bound = 6 * features + 64 * 2**20
    assert bound < MAP / 2
    assert measure(forward_backward, *case, repeats=0).extra_bytes <= bound


@pytest.mark.slow
def test_the_meter_measures_a_map():
    assert measure(forward_backward, "embedded_gaussian", "dense", "keys", 32, repeats=0).extra_bytes >= MAP
