"""Answers of a record match the dense weights in many configurations."""

import math

import pytest
import torch
from dense_maps import approx, configurations, full_map, points_of, random_block, record_of_block, rounding, sample

from torch_nonlocal.attention import similarity, watch
from torch_nonlocal.ops import dense


@pytest.mark.parametrize(("dims", "options"), configurations())
@pytest.mark.parametrize("batch", [0, 1])
def test_rows_equal_the_dense_weights(dims, options, batch):
    block, x = random_block(dims, options), sample(dims)
    expected, grid, key_grid = full_map(block, x, batch)
    record = record_of_block(block, x)
    rows = record.rows(points_of(grid), batch=batch)
    assert rows.shape == (math.prod(grid), *key_grid)
    torch.testing.assert_close(rows.flatten(1), expected, **rounding(record.weights))
    assert (expected != 0).any()


@pytest.mark.parametrize(("dims", "options"), configurations())
def test_column_equals_the_column_of_the_dense_weights(dims, options):
    block, x = random_block(dims, options), sample(dims)
    expected, grid, key_grid = full_map(block, x, 1)
    record = record_of_block(block, x)
    pool = record.geometry.pool
    for point in points_of(grid)[::7]:
        key = [min(i // p, n - 1) for i, p, n in zip(point, pool, key_grid, strict=True)]
        column = expected.view(-1, *key_grid)[(slice(None), *key)]
        torch.testing.assert_close(record.column(point, batch=1).flatten(), column, **rounding(record.weights))


@pytest.mark.parametrize(("dims", "options"), configurations(12))
@pytest.mark.parametrize("direction", ["out", "in"])
@pytest.mark.parametrize("frames", ["all", "others", "each"])
def test_links_are_the_largest_weights(dims, options, direction, frames):
    block, x = random_block(dims, options), sample(dims)
    record = record_of_block(block, x)
    expected, grid, key_grid = full_map(block, x, 0)
    point = points_of(grid)[7]
    key = record.geometry.covering_key(point)
    line = record.rows([point])[0] if direction == "out" else record.column(point)
    own = key if direction == "out" else point
    attend = options["attend"]

    def allowed(place):
        if attend == "space" and place[0] != own[0]:
            return False
        if attend == "time" and place[1:] != own[1:]:
            return False
        return frames == "all" or dims < 3 or place[0] != own[0]

    places = [place for place in points_of(line.shape) if allowed(place)]
    if not places:
        with pytest.raises(ValueError, match="there are no candidates"):
            record.links(point, 2, frames=frames, direction=direction)
        return
    k = 2 if frames != "each" or attend != "time" else 1
    groups = {}
    for place in places:
        groups.setdefault(place[0] if frames == "each" and dims == 3 else 0, []).append(abs(float(line[place])))
    best = [value for group in groups.values() for value in sorted(group, reverse=True)[:k]]
    links = record.links(point, k, frames=frames, direction=direction)
    assert [abs(link.weight) for link in links] == pytest.approx(best)
    for link in links:
        source, target = (point, link.target) if direction == "out" else (link.source, key)
        assert (link.source, link.target) == (source, target)
        assert allowed(link.target if direction == "out" else link.source)
        whole = expected.view(*grid, *key_grid)
        assert link.weight == approx(float(whole[(*link.source, *link.target)]), record.weights)
        assert link.source_pixel == record.geometry.query_pixel(link.source)
        assert link.target_pixel == record.geometry.key_pixel(link.target)


def test_pixels_select_the_nearest_position():
    net = torch.nn.Sequential(torch.nn.Conv3d(6, 6, 3, (1, 2, 2), 1), random_block(3, {}))
    with watch(net) as seen:
        net(torch.randn(2, 6, 4, 10, 12))
    record = seen["1"]
    assert record.geometry.probed
    assert record.geometry.stride == (1, 2, 2)
    torch.testing.assert_close(record.rows([(2, 4.8, 7.2)], pixels=True), record.rows([(2, 2, 4)]))
    torch.testing.assert_close(record.column((2, 4.8, 7.2), pixels=True), record.column((2, 2, 4)))
    assert record.links((2, 4.8, 7.2), 3, pixels=True) == record.links((2, 2, 4), 3)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: r.rows([(0, 0, 0), (4, 0, 0)]), r"0 <= t <= 3, 0 <= y <= 4, 0 <= x <= 5"),
        (lambda r: r.rows([(0, -1, 0)]), "0 <= y <= 4"),
        (lambda r: r.rows([(0, 0)]), "expected"),
        (lambda r: r.rows([(0, 1.5, 0)]), "whole numbers"),
        (lambda r: r.rows([(0, math.nan, 0)]), "out of range"),
        (lambda r: r.rows([(0, 0, 5.5)], pixels=True), "pixel .* 0 <= x <= 5"),
        (lambda r: r.rows([(0, 0, 0)], batch=2), "0 to 1"),
        (lambda r: r.column((0, 0, 0), batch=-1), "0 to 1"),
        (lambda r: r.column((0, 0, 9)), "0 <= x <= 5"),
        (lambda r: r.links((0, 0, 0), 121), "1 to 120"),
        (lambda r: r.links((0, 0, 0), 91, frames="others"), "1 to 90"),
        (lambda r: r.links((0, 0, 0), 0), "1 to 120"),
        (lambda r: r.links((0, 0, 0), frames="other"), "'all', 'others', 'each'"),
        (lambda r: r.links((0, 0, 0), direction="back"), "'out', 'in'"),
        (lambda r: r.strongest(121), "1 to 120"),
        (lambda r: r.strongest(91, frames="others"), "1 to 90"),
        (lambda r: r.strongest(3, frames="each"), "'all', 'others'"),
        (lambda r: r.strongest(3, batch=7), "0 to 1"),
        (lambda r: r.strongest(3).links((9, 9, 9)), "0 <= t <= 3"),
        (lambda r: r.statistics(batch=2), "0 to 1"),
    ],
)
def test_errors_give_the_valid_range_and_leave_the_record_unchanged(ask, message):
    record = record_of_block(random_block(3, {}), sample(3))
    before = record.rows([(1, 2, 3)])
    with pytest.raises(ValueError, match=message):
        ask(record)
    assert torch.equal(record.rows([(1, 2, 3)]), before)


def test_no_points_give_no_rows():
    assert record_of_block(random_block(3, {}), sample(3)).rows([]).shape == (0, 4, 5, 6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(dtype):
    block, x = random_block(3, {}, dtype=dtype), sample(3).to(dtype)
    theta, phi, _ = block.embed(x)
    record = record_of_block(block, x)
    rows = record.rows([(1, 2, 3)])
    expected = dense.softmax_weights(theta.float(), phi.float())[0, 1 * 30 + 2 * 6 + 3]
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.flatten(), expected.detach(), **rounding(record.weights))


def test_repr_describes_the_weights():
    assert "sum to one" in repr(record_of_block(random_block(3, {}), sample(3)))
    assert "signed" in repr(record_of_block(random_block(3, {"pairwise": "dot_product"}), sample(3)))
    assert "nonnegative" in repr(record_of_block(random_block(3, {"pairwise": "concatenation"}), sample(3)))
    assert "weights of each key sum to one" in repr(
        record_of_block(random_block(3, {"normalize": "queries"}), sample(3))
    )


def test_similarity_is_the_softmax_of_cosines():
    features = sample(3, dtype=torch.float64)
    record = similarity(features, input_size=(4, 40, 48), temperature=0.1)
    unit = torch.nn.functional.normalize(features[1].flatten(1).T, dim=1)
    expected = torch.softmax(unit @ unit.T / 0.1, dim=1)
    torch.testing.assert_close(record.rows([(0, 0, 1)], batch=1).flatten(), expected[1])
    other = record.geometry
    assert similarity(features, input_size=(4, 40, 48), geometry=other).geometry is other
    for wrong in ({"temperature": 0.0}, {"input_size": (40, 48)}, {"input_size": (4, 50, 48), "geometry": other}):
        with pytest.raises(ValueError, match="expected"):
            similarity(features, **({"input_size": (4, 40, 48)} | wrong))
