"""Records of causal blocks: weights of keys that a query does not see are exactly zero."""

import pytest
import torch
from dense_maps import points_of, random_block, record_of_block, sample
from torch.testing import assert_close

import torch_nonlocal as nl
from torch_nonlocal.ops import dense
from torch_nonlocal.ops.frames import CausalFrames

GRID = (4, 5, 6)
FORMS = ["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
CASES = [
    *({"pairwise": form} for form in FORMS),
    *({"pairwise": form, "window_frames": 2, "subsample": 2} for form in FORMS),
]


@torch.no_grad()
def expected_map(block, x):
    theta, phi, _ = block.embed(x)
    n, m = theta.shape[1], phi.shape[1]
    visible = CausalFrames(GRID[0], block.window_frames).visible(torch.arange(n), torch.arange(m), n, m)
    if block.pairwise == "dot_product":
        weights = dense.dot_product_weights(theta, phi, visible)
    elif block.pairwise == "concatenation":
        weights = dense.concatenation_weights(*block.scores(theta, phi), visible)
    else:
        weights = dense.softmax_weights(theta, phi, scale=block.scale, visible_NM=visible)
    return weights[1], visible


@pytest.fixture(params=CASES, ids=str)
def case(request):
    block = random_block(3, {**request.param, "causal": "frames"}, dtype=torch.float64)
    x = sample(3, dtype=torch.float64)
    return record_of_block(block, x), *expected_map(block, x)


def test_rows_and_columns(case):
    record, weights, visible = case
    rows = record.rows(points_of(GRID), batch=1).flatten(1)
    assert_close(rows, weights)
    assert torch.equal(rows[~visible], torch.zeros(int((~visible).sum()), dtype=torch.float64))
    keys = record.geometry.key_grid
    for point in [(0, 0, 0), (2, 3, 4), (3, 4, 5)]:
        key = record.geometry.covering_key(point)
        number = (key[0] * keys[1] + key[1]) * keys[2] + key[2]
        assert_close(record.column(point, batch=1).flatten(), weights[:, number])


@pytest.mark.parametrize("frames", ["all", "others"])
def test_strongest_links_of_every_position(case, frames):
    record, weights, visible = case
    count = weights.shape[1]
    k = count if frames == "all" else count - count // GRID[0]
    found = record.strongest(k, frames=frames, batch=1)
    query_frame = torch.arange(len(weights)) // (len(weights) // GRID[0])
    own = query_frame[:, None] == torch.arange(count) // (count // GRID[0])
    assert_close(found.weights, weights.gather(1, found.indices))
    assert (found.weights[~visible.gather(1, found.indices)] == 0).all()
    assert all(len(set(row)) == k for row in found.indices.tolist())
    if frames == "others":
        assert not own.gather(1, found.indices).any()
    candidates = weights.abs() if frames == "all" else weights.abs().masked_fill(own, -1)
    assert_close(found.weights.abs().sort(1).values, candidates.topk(k).values.sort(1).values)


@pytest.mark.parametrize("direction", ["out", "in"])
@pytest.mark.parametrize("frames", ["all", "others", "each"])
def test_links_go_to_keys_that_are_seen(case, frames, direction):
    record, _, _ = case
    causal = record.weights.frames
    for point in [(0, 1, 1), (1, 2, 2), (3, 4, 5)]:
        links = record.links(point, 6, frames=frames, direction=direction, batch=1)
        line = record.rows([point], batch=1)[0] if direction == "out" else record.column(point, batch=1)
        others = {link.target[0] if direction == "out" else link.source[0] for link in links}
        seen = set(range(4)[causal.seen(point[0]) if direction == "out" else causal.seen_by(point[0])])
        wanted = seen - ({point[0]} if frames != "all" else set())
        assert others <= wanted
        assert (others == wanted) if frames == "each" else (len(links) == (6 if wanted else 0))
        for link in links:
            assert link.weight == float(line[link.target if direction == "out" else link.source])


def test_statistics_count_the_keys_that_are_seen(case):
    record, weights, visible = case
    heard = weights.abs().sum(1) > 0  # silent positions are not in the mean
    shares = weights[heard].abs() / weights[heard].abs().sum(1, keepdim=True)
    found = record.statistics(batch=1)
    entropy = torch.special.entr(shares).sum(1) / visible[heard].sum(1).double().log()
    assert found.entropy == pytest.approx(float(entropy.mean()), rel=1e-6)
    assert found.keys == round(float(visible.sum(1).double().mean()))
    assert found.uniform_on_own_frame == pytest.approx(float((visible.shape[1] / 4 / visible.sum(1)).mean()))
    assert found.reach_frames <= (3 if record.weights.frames.window is None else 1)


def test_uniform_weights_are_called_uniform():
    block = nl.NonLocal3d(4, causal="frames", subsample=2).eval()
    for module in (block.theta, block.phi):
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)
    record = record_of_block(block, torch.randn(1, 4, 3, 4, 4))
    assert "uniform" in record.statistics().verdict
    assert "causal: zero for later frames" in repr(record)


def test_the_first_frame_of_a_picture_has_links_within_it():
    pytest.importorskip("matplotlib", reason="pip install 'torch-nonlocal[view]'")
    from torch_nonlocal.view.look import look

    block = random_block(3, {"causal": "frames"})
    looked = look(record_of_block(block, sample(3)), (0, 1, 1), torch.rand(4, 5, 6, 3).numpy(), k=5)
    assert len(looked.links) == 5
    assert {link.target[0] for link in looked.links} == {0}
