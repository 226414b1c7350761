"""Statistics match their definitions over the dense map, and verdicts are right for known maps."""

import math

import pytest
import torch
from dense_maps import configurations, full_map, points_of, random_block, record_of_block, sample

from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.record import BlockRecord
from torch_nonlocal.attention.weights import PairWeights


def written_out(record, whole, grid, key_grid, attend):
    """The definitions, position by position."""
    keys = points_of(key_grid)
    where = record.geometry
    rows, sums = [], {"entropy": 0.0, "itself": 0.0, "frame": 0.0, "pixels": 0.0, "frames": 0.0}
    m = {"spacetime": len(keys), "space": math.prod(key_grid[1:]), "time": key_grid[0]}[attend]
    for i, point in enumerate(points_of(grid)):
        weight = whole[i].abs().double()
        if weight.sum() == 0:
            continue
        share = (weight / weight.sum()).tolist()
        rows.append(share)
        at, own = where.query_pixel(point), where.covering_key(point)
        sums["entropy"] -= sum(p * math.log(p) for p in share if p > 0) / math.log(m)
        for key, p in zip(keys, share, strict=True):
            to = where.key_pixel(key)
            first = 1 if len(grid) == 3 else 0
            sums["pixels"] += p * math.dist(at[first:], to[first:])
            sums["itself"] += p * (key == own)
            if first:
                sums["frames"] += p * abs(at[0] - to[0])
                sums["frame"] += p * (key[0] == own[0])
    return {name: value / len(rows) for name, value in sums.items()} | {"heard": len(rows)}


@pytest.mark.parametrize(("dims", "options"), configurations(16))
def test_statistics_match_their_definitions(dims, options):
    block, x = random_block(dims, options), sample(dims)
    record = record_of_block(block, x)
    whole, grid, key_grid = full_map(block, x, 1)
    expected = written_out(record, whole, grid, key_grid, options["attend"])
    got = record.statistics(batch=1)
    assert got.entropy == pytest.approx(expected["entropy"], abs=1e-5)
    assert got.on_itself == pytest.approx(expected["itself"], abs=1e-5)
    assert got.reach_pixels == pytest.approx(expected["pixels"], abs=1e-4)
    assert got.silent == pytest.approx(1 - expected["heard"] / len(whole))
    if dims == 3:
        assert got.on_own_frame == pytest.approx(expected["frame"], abs=1e-5)
        assert got.reach_frames == pytest.approx(expected["frames"], abs=1e-4)
    else:
        assert got.on_own_frame is None
        assert got.reach_frames is None
    assert got.verdict.split("\n")[0] in str(got)


def test_alike_is_the_mean_cosine_of_two_rows():
    block, x = random_block(2, {}), sample(2)
    whole, _, _ = full_map(block, x, 0)
    unit = torch.nn.functional.normalize(whole, dim=1)
    n = len(unit)
    expected = ((unit @ unit.T).sum() - n) / (n * (n - 1))
    assert record_of_block(block, x).statistics().alike == pytest.approx(float(expected), abs=1e-5)


def record_of(query, key, pairwise="embedded_gaussian", grid=(2, 3, 4)):
    geometry = Geometry.evenly(grid, grid, (1, 1, 1), (2, 12, 16))
    return BlockRecord("it", PairWeights(pairwise, query, key), geometry, attend="spacetime", batch=1)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (record_of(torch.zeros(1, 24, 4), torch.randn(1, 24, 4)), "uniform (entropy 1.000, every weight is 1/24)"),
        (record_of(99 * torch.eye(24)[None], torch.eye(24)[None]), "attends to itself (100.0% of the weight)"),
        (record_of(torch.ones(1, 24, 4), 3 * torch.randn(1, 24, 4)), "nearly the same weights"),
        (record_of(torch.randn(1, 24, 4), 4 * torch.randn(1, 24, 4)), "selective"),
        (record_of(torch.full((1, 24), -9.0), torch.zeros(1, 24), "concatenation"), "all weights are zero"),
        (record_of(torch.ones(1, 24, 1), torch.ones(1, 24, 1), "dot_product"), "uniform"),
    ],
)
def test_verdicts(record, words):
    torch.manual_seed(0)
    assert words in record.statistics().verdict


def test_forms_without_softmax_describe_their_normalization():
    signed = record_of(torch.randn(1, 24, 4), torch.randn(1, 24, 4), "dot_product").statistics()
    assert "absolute weights" in signed.shares
    assert signed.shares in str(signed)
    some = torch.full((1, 24), -9.0)
    some[0, :6] = 1.0
    assert record_of(some, torch.zeros(1, 24), "concatenation").statistics().silent == 0.75


def test_statistics_do_not_depend_on_the_tile_size(monkeypatch):
    torch.manual_seed(0)
    record = record_of(torch.randn(1, 24, 4), torch.randn(1, 24, 4))
    whole = record.statistics()
    monkeypatch.setattr("torch_nonlocal.attention.weights.TILE_BYTES", 4 * 24 * 5)
    monkeypatch.setattr(PairWeights.score_tiles, "__kwdefaults__", {"reuse": False, "tile_bytes": 4 * 24 * 5})
    parts = record.statistics()
    assert parts.entropy == pytest.approx(whole.entropy, abs=1e-6)
    assert parts.reach_pixels == pytest.approx(whole.reach_pixels, abs=1e-5)
    assert parts.alike == pytest.approx(whole.alike, abs=1e-5)


@pytest.mark.parametrize("place", ["query", "key"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "dot_product", "concatenation"])
def test_attention_that_is_not_finite_is_called_so(pairwise, value, place):
    torch.manual_seed(0)
    size = (1, 24) if pairwise == "concatenation" else (1, 24, 4)
    query, key = torch.randn(size), torch.randn(size)
    (query if place == "query" else key)[0, 5] = value
    record = record_of(query, key, pairwise)
    weights = record.rows(points_of((2, 3, 4))).flatten(1)
    broken = ~weights.isfinite().all(1)
    got = record.statistics()
    assert got.not_finite == pytest.approx(float(broken.float().mean()))
    assert f"weights are NaN or infinite at {float(broken.float().mean()):.1%} of the positions" in str(got)
    assert math.isnan(got.entropy)
    strongest = record.strongest(3)
    assert torch.equal(strongest.weights.isfinite().all(1), ~broken)
    assert "weights are NaN or infinite" in repr(strongest)
    point = points_of((2, 3, 4))[int(broken.nonzero()[0])]
    assert not all(math.isfinite(link.weight) for link in record.links(point, k=3))


def test_finite_attention_is_not_called_otherwise():
    record = record_of(torch.randn(1, 24, 4), torch.randn(1, 24, 4))
    assert record.statistics().not_finite == 0
    assert "NaN" not in repr(record.strongest(3)) + str(record.statistics())
