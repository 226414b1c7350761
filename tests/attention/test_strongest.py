"""The top-k of every position matches the sorted dense map; memory is bounded at a size whose map takes 40 GB."""

import math

import pytest
import torch
from dense_maps import approx, configurations, full_map, points_of, random_block, record_of_block, rounding, sample

from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.record import BlockRecord
from torch_nonlocal.attention.weights import PairWeights
from torch_nonlocal.benchmark.meter import measure


@pytest.mark.parametrize(("dims", "options"), configurations())
@pytest.mark.parametrize("frames", ["all", "others"])
def test_strongest_equals_the_sorted_map(dims, options, frames):
    block, x = random_block(dims, options), sample(dims)
    record = record_of_block(block, x)
    whole, grid, _ = full_map(block, x, 1)
    if frames == "others" and options["attend"] == "space":
        with pytest.raises(ValueError, match="there are no candidates"):
            record.strongest(2, frames=frames, batch=1)
        return
    k = 1 if options["attend"] == "time" else 2
    found = record.strongest(k, frames=frames, batch=1)
    assert found.indices.shape == found.weights.shape == (math.prod(grid), k)
    torch.testing.assert_close(whole.gather(1, found.indices), found.weights, **rounding(record.weights))
    for row, point in enumerate(points_of(grid)):
        direct = record.links(point, k, frames=frames, batch=1)
        assert [abs(w) for w in found.weights[row].tolist()] == approx([abs(a.weight) for a in direct], record.weights)
        if frames == "others" and dims == 3:
            own = record.geometry.covering_key(point)[0]
            assert all(link.target[0] != own for link in found.links(point))


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("frames", ["all", "others"])
def test_strongest_does_not_depend_on_chunks_and_tiles(pairwise, frames, monkeypatch):
    monkeypatch.setattr("torch_nonlocal.attention.strongest._TILE_BYTES", 4 * 1500 * 70)
    torch.manual_seed(0)
    grid = (3, 10, 50)  # M = 1500: 23 chunks and a remainder
    query, key = torch.randn(1, 1500, 8), torch.randn(1, 1500, 8)
    if pairwise == "concatenation":
        query, key = query[..., 0], key[..., 0]
    record = BlockRecord("it", PairWeights(pairwise, query, key), even(grid), attend="spacetime", batch=1)
    found = record.strongest(5, frames=frames)
    rows = record.rows(points_of(grid)).flatten(1).clone()
    if frames == "others":
        for t in range(3):
            rows[t * 500 : (t + 1) * 500, t * 500 : (t + 1) * 500] = 0
    close = rounding(record.weights)
    torch.testing.assert_close(found.weights.abs(), rows.abs().topk(5).values, **close)
    torch.testing.assert_close(rows.gather(1, found.indices), found.weights, **close)


def test_links_and_pixels():
    record = record_of_block(random_block(3, {"subsample": 2}), sample(3))
    found = record.strongest(4)
    point = (2, 3, 1)
    assert [link.target for link in found.links(point)] == [link.target for link in record.links(point, 4)]
    row = 2 * 30 + 3 * 6 + 1
    assert [tuple(p) for p in found.target_pixels()[row].tolist()] == [a.target_pixel for a in found.links(point)]
    assert found.links((2, 3, 1), pixels=True) == found.links(point)


def even(grid):
    return Geometry.evenly(grid, grid, (1, 1, 1), grid)


def all_strongest():
    """Measured function: all links at the paper's res2 in full size, N = 32 * 56 * 56 = 100,352."""
    torch.set_num_threads(1)  # several threads are slower while other processes use the cores
    grid = (32, 56, 56)
    generator = torch.Generator().manual_seed(0)
    theta, phi = (torch.randn(1, math.prod(grid), 64, generator=generator) * 0.3 for _ in range(2))
    record = BlockRecord("it", PairWeights("embedded_gaussian", theta, phi), even(grid), attend="spacetime", batch=1)
    return lambda: record.strongest(20, frames="others")


@pytest.mark.extended
@pytest.mark.slow
def test_strongest_of_100_000_positions_uses_less_than_1_gb():
    cost = measure(all_strongest, repeats=0)
    assert cost.extra_bytes < 2**30


def one_position():
    """Measured function: links of one position to each frame, at the same size."""
    grid = (32, 56, 56)
    generator = torch.Generator().manual_seed(0)
    theta, phi = (torch.randn(1, math.prod(grid), 64, generator=generator) * 0.3 for _ in range(2))
    record = BlockRecord("it", PairWeights("embedded_gaussian", theta, phi), even(grid), attend="spacetime", batch=1)
    return lambda: record.links((3, 5, 7), 20, frames="each")


@pytest.mark.slow
def test_links_of_one_of_100_000_positions_use_less_than_256_mb():
    assert measure(one_position, repeats=0).extra_bytes < 2**28
