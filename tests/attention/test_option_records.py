"""Records of blocks with windows, of rows and columns, and with strided keys: the weights of the definition."""

import pytest
import torch
from dense_maps import points_of, random_block, record_of_block, sample
from torch import nn
from torch.testing import assert_close

import torch_nonlocal as nl

SIZE = {2: (5, 6), 3: (4, 5, 6)}
CASES = [
    (3, {"windows": (3, None, 4)}),
    (3, {"windows": (3, 3, None), "pairwise": "dot_product", "subsample": (1, 1, 2)}),
    (3, {"windows": (None, 4, 3), "interlaced": True, "pairwise": "concatenation"}),
    (3, {"windows": (2, None, 4), "pairwise": "dot_product", "normalize": "queries", "subsample": (1, 2, 2)}),
    (3, {"windows": (2, None, None), "normalize": "queries", "attend": "time"}),
    (3, {"windows": (None, 2, 4), "causal": "frames", "pairwise": "dot_product", "window_frames": 2}),
    (3, {"attend": "criss_cross"}),
    (2, {"attend": "criss_cross", "pairwise": "dot_product"}),
    (2, {"keys": "stride", "subsample": 2, "windows": (4, None)}),
]


def sees(block, query, key, size):
    """Whether a query attends to the key at a position of its own grid."""
    if block.attend == "criss_cross":
        return (block.dims == 2 or query[0] == key[0]) and (query[-1] == key[-1] or query[-2] == key[-2])
    if block.attend == "time" and query[1:] != key[1:]:
        return False
    if block.causal and not 0 <= query[0] - key[0] < block.window_frames:
        return False
    for q, k, window, n in zip(query, key, block.windows, size, strict=True):
        count = -(-n // window) if window else 1
        if window and (q % count != k % count if block.interlaced else q // window != k // window):
            return False
    return True


@torch.no_grad()
def expected_map(block, x, batch):
    """Weights (N, M) of the definition, and which are of keys that a query sees."""
    size, factors = x.shape[2:], block.subsample or (1,) * block.dims
    theta = block.theta(x).flatten(2)[batch].T
    phi = block.pool(block.phi(x)).flatten(2)[batch].T
    keys = [tuple(i * s for i, s in zip(p, factors, strict=True)) for p in points_of(block.key_grid(size))]
    seen = torch.tensor([[sees(block, query, key, size) for key in keys] for query in points_of(size)])
    over = 1 if block.normalize == "keys" else 0
    count = seen.sum(over, keepdim=True)
    if block.pairwise == "concatenation":
        w_theta, w_phi = block.score.weight[0].split(theta.shape[1])
        return torch.relu((theta @ w_theta)[:, None] + phi @ w_phi) * seen / count, seen
    if block.pairwise == "dot_product":
        return (theta @ phi.T) * seen / count, seen
    return torch.softmax((theta @ phi.T * block.scale).masked_fill(~seen, -torch.inf), over), seen


@pytest.fixture(params=CASES, ids=str, scope="module")
def case(request):
    dims, options = request.param
    block = random_block(dims, options, dtype=torch.float64)
    x = sample(dims, dtype=torch.float64)
    return record_of_block(block, x), *expected_map(block, x, 1), SIZE[dims]


def test_rows_and_columns_are_zero_for_keys_that_are_not_seen(case):
    record, weights, seen, grid = case
    rows = record.rows(points_of(grid), batch=1).flatten(1)
    assert_close(rows, weights)
    assert not rows[~seen].any()
    keys = record.geometry.key_grid
    for point in (points_of(grid)[0], points_of(grid)[-1], points_of(grid)[17]):
        number = points_of(keys).index(tuple(record.geometry.covering_key(point)))
        assert_close(record.column(point, batch=1).flatten(), weights[:, number])


def test_links_and_the_strongest_links_are_seen(case):
    record, weights, seen, grid = case
    found = record.strongest(3, batch=1)
    assert_close(found.weights, weights.gather(1, found.indices))
    assert_close(found.weights.abs().sort(1).values, weights.abs().topk(3).values.sort(1).values)
    for number, point in list(enumerate(points_of(grid)))[::23]:
        links = record.links(point, 3, batch=1)
        assert len(links) == min(3, int(seen[number].sum()))
        for link, weight in zip(links, weights[number].abs().topk(len(links)).values, strict=True):
            assert abs(link.weight) == pytest.approx(float(weight), abs=1e-12)


def test_statistics_are_those_of_the_keys_that_are_seen(case):
    record, weights, seen, grid = case
    found = record.statistics(batch=1)
    shares = weights.abs() / weights.abs().sum(1, keepdim=True).clamp(min=1e-300)
    count = seen.sum(1).double()
    entropy = torch.special.entr(shares).sum(1)
    terms = torch.where(count > 1, entropy / count.log(), shares.sum(1))
    loud = weights.abs().sum(1) > 0
    assert found.entropy == pytest.approx(float(terms[loud].mean()), abs=1e-9)
    assert found.keys == round(float(count.mean()))
    if len(grid) == 3:
        frames = torch.tensor([[query[0] for query in points_of(grid)]])
        own = torch.tensor([point[0] for point in points_of(record.geometry.key_grid)]) == frames.T
        assert found.on_own_frame == pytest.approx(float((shares * own).sum(1)[loud].mean()), abs=1e-9)
        even = ((seen & own).sum(1) / count).mean()
        if not record.weights.frames:
            assert found.uniform_on_own_frame == pytest.approx(float(even), abs=1e-9)


def test_a_record_names_where_its_block_attends():
    record = record_of_block(random_block(2, {"windows": (2, None), "interlaced": True}), sample(2))
    assert record.shown.endswith("zero outside its interlaced window (2 x all)")
    record = record_of_block(random_block(3, {"attend": "space", "windows": (None, 2, 2)}), sample(3))
    assert record.shown.endswith("zero outside its window (all x 2 x 2) of its frame")


def test_strided_keys_are_at_the_pixels_of_their_positions():
    record = record_of_block(random_block(2, {"keys": "stride", "subsample": 2}), sample(2))
    geometry = record.geometry
    assert geometry.key_grid == (3, 3)
    assert geometry.key_pixel((1, 2)) == geometry.query_pixel((2, 4))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"attend": "channel"}, "it has weights among channels, none over positions"),
        ({"keys": "pyramid"}, "it has weights over the regions of a pyramid"),
    ],
)
def test_blocks_without_weights_of_positions_say_why(options, why):
    with pytest.raises(ValueError, match=why):
        nl.watch(random_block(2, options))
    net = nn.Sequential(random_block(2, options), random_block(2, {}))
    with nl.watch(net) as seen:
        net(sample(2))
    assert list(seen) == ["1"]
    with pytest.raises(KeyError, match=why.removeprefix("it ")):
        seen["0"]


def test_keys_of_another_map_are_shown_where_they_lie_on_the_grid_of_the_block():
    block, x = random_block(2, {"key_channels": 4}), sample(2)
    with nl.watch(block) as seen:
        block(x, keys_from=x[:, :4])
    theta, phi = block.theta(x)[0].flatten(1).T, block.phi(x[:, :4])[0].flatten(1).T
    assert_close(seen[""].rows(points_of((5, 6))).flatten(1), torch.softmax(theta @ phi.T, 1).detach())
    with nl.watch(block) as seen:
        block(x, keys_from=x[:, :4, :3])
    with pytest.raises(KeyError, match=r"another map, of size \(3, 6\)"):
        seen[""]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"windows": (4, None)}, "2 x (N = 24 queries, M = 24 keys, D = 3, within its window (4 x all), and smaller"),
        ({"attend": "criss_cross"}, "M = 10 keys, D = 3, within its row and column): criss_cross, because a query has"),
        ({"attend": "channel"}, "N = 3 query channels, M = 3 key channels, D = 30 positions): dense"),
        ({"keys": "pyramid"}, "N = 30 queries, M = 110 keys"),
        ({"keys": "stride", "subsample": 2}, "N = 30 queries, M = 9 keys"),
    ],
)
def test_explain_states_the_sizes(options, text):
    assert text in nl.explain(nl.NonLocal2d(6, **options), (2, 6, 5, 6))


def test_plan_states_the_cost_of_the_weights_that_are_computed():
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), torch.zeros(1, 3, 16, 16)
    costs = {
        "all": nl.plan(net, x, at="0").places[0],
        "lines": nl.plan(net, x, at="0", attend="criss_cross").places[0],
        "windows": nl.plan(net, x, at="0", windows=(4, 4)).places[0],
        "channels": nl.plan(net, x, at="0", attend="channel").places[0],
    }
    assert {name: cost.map_bytes // 4 for name, cost in costs.items()} == {
        "all": 256 * 256, "lines": 256 * 31, "windows": 16 * 16 * 16, "channels": 16,
    }  # fmt: skip
    assert costs["lines"].flops < costs["all"].flops > costs["windows"].flops
    assert costs["lines"].memory_dense > 4 * 256 * 256 > costs["windows"].memory_dense - costs["windows"].memory
    assert costs["channels"].queries == costs["channels"].keys == 4


def test_a_run_without_rows_hides_the_record_of_an_earlier_one():
    block = nl.NonLocal2d(4, key_channels=4)
    with nl.watch(block) as seen:
        block(torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 6))
        assert seen[""].weights.keys == 36
        block(torch.randn(1, 4, 6, 6), torch.randn(1, 4, 3, 3))
        with pytest.raises(KeyError, match="keys of another map"):
            seen[""]
        block(torch.randn(1, 4, 5, 5), torch.randn(1, 4, 5, 5))
        assert seen[""].weights.keys == 25
