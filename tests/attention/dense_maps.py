"""Blocks in many configurations, and their dense maps of weights."""

import math
import random

import pytest
import torch

import torch_nonlocal as nl
from torch_nonlocal.attention import watch
from torch_nonlocal.ops import dense

BLOCKS = {1: nl.NonLocal1d, 2: nl.NonLocal2d, 3: nl.NonLocal3d}


def configurations(count=24):
    """Random configurations from a fixed seed that cover every form, dims, attend and pooling."""
    return list(_configurations(count))


def _configurations(count):
    choose = random.Random(3)
    forms = ["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
    for i in range(count):
        pairwise = forms[i % 4]
        dims = (3, 2, 3, 1, 3)[i % 5]
        attend = choose.choice(["spacetime", "space", "time"]) if dims == 3 else "spacetime"
        options = {"pairwise": pairwise, "attend": attend, "subsample": choose.choice([None, 2, 2])}
        options["pool_first"] = choose.random() < 0.5
        if pairwise in ("embedded_gaussian", "gaussian"):
            options["scale"] = choose.choice([None, "sqrt", 0.3])
            options["normalize"] = choose.choice(["keys", "queries"])
        yield pytest.param(dims, options, id=f"{i}-{dims}d-" + "-".join(str(v) for v in options.values()))


def random_block(dims, options, seed=0, **factory):
    torch.manual_seed(seed)
    block = BLOCKS[dims](6, **options, **factory).eval()
    for tensor in block.parameters():
        torch.nn.init.normal_(tensor, std=0.5)
    return block


def record_of_block(block, x):
    with watch(block) as seen:
        block(x)
    return seen[""]


def sample(dims, seed=1, **factory):
    size = {1: (9,), 2: (5, 6), 3: (4, 5, 6)}[dims]
    return torch.randn(2, 6, *size, generator=torch.Generator().manual_seed(seed), **factory)


@torch.no_grad()
def dense_weights(block, x):
    """Weights (B', N, M) from the embeddings of the block, by definition."""
    theta, phi, _ = block.embed(x)
    if block.pairwise == "dot_product":
        return dense.dot_product_weights(theta, phi)
    if block.pairwise == "concatenation":
        return dense.concatenation_weights(*block.scores(theta, phi))
    return dense.softmax_weights(theta, phi, scale=block.scale, normalize=block.normalize)


@torch.no_grad()
def full_map(block, x, batch):
    """Weights (N, M) over whole grids, zero for keys outside the group of a query."""
    grid = x.shape[2:]
    pool = block.subsample or (1,) * len(grid)
    key_grid = [n // p for n, p in zip(grid, pool, strict=True)]
    number = lambda size: torch.arange(2 * math.prod(size)).view(2, 1, *size)  # noqa: E731
    queries = block.groups.to_positions(number(grid))[..., 0]
    keys = block.groups.to_positions(number(key_grid))[..., 0]
    n, m = math.prod(grid), math.prod(key_grid)
    whole = torch.zeros(2 * n, 2 * m, dtype=x.dtype)
    for q, k, w in zip(queries, keys, dense_weights(block, x), strict=True):
        whole[q[:, None], k[None, :]] = w
    return whole[batch * n : (batch + 1) * n, batch * m : (batch + 1) * m], tuple(grid), tuple(key_grid)


def rounding(weights):
    """Return the tolerance for weights that two float32 algorithms compute from the same theta and phi.

    A sum of D products has a rounding error of at most D u sum_d |theta_d phi_d| in any order, with the unit roundoff
    u = eps / 2. So two algorithms differ in a score s by at most e = D eps max |scale| sum_d |theta_d phi_d|.

    - Softmax forms: exp(s) and its sum over the M positions each have a relative error of e. The exponentials and a
      pairwise sum add at most log2 M + 4 roundings to each algorithm.
    - Dot product: s / M has an absolute error of e / M and one rounding.
    - Concatenation: (a + b) / M has two roundings in each algorithm.
    """
    eps = torch.finfo(torch.float32).eps
    if weights.pairwise == "concatenation":
        return {"rtol": 2 * eps, "atol": 0}
    largest = float((weights.query.abs().float() @ weights.key.abs().float().mT).max())
    error = weights.query.shape[-1] * eps * largest
    if weights.is_softmax:
        most = max(weights.queries, weights.keys)
        return {"rtol": 2 * abs(weights.scale) * error + (math.log2(most) + 4) * eps, "atol": 0}
    return {"rtol": eps, "atol": error / weights.keys}


def approx(value, weights):
    """pytest.approx with the tolerance of `rounding`."""
    close = rounding(weights)
    return pytest.approx(value, rel=close["rtol"], abs=close["atol"])


def points_of(grid):
    return [tuple(p) for p in torch.cartesian_prod(*map(torch.arange, grid)).view(-1, len(grid)).tolist()]
