"""Blocks that select keys: top-k, hard, Gumbel and shared regions, against formulas in float64."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torch_nonlocal as nl
from torch_nonlocal.ops import noise

CASES = {
    "top_k": {"top_k": 3},
    "hard": {"hard": True, "temperature": 0.5},
    "gumbel": {"hard": "gumbel", "temperature": 2.0},
    "regions": {"regions": 6},
    "regions and top_k": {"regions": 6, "top_k": 2},
    "dot product of regions": {"regions": 6, "pairwise": "dot_product"},
    "ReLU of regions": {"regions": 6, "pairwise": "concatenation"},
    "pooled": {"top_k": 2, "subsample": 2},
    "pooled regions": {"regions": 3, "subsample": 2},
    "regions pooled first": {"regions": 3, "subsample": 2, "pool_first": True},
}
SIZE = (2, 5, 7)


def trained(options, kind=nl.NonLocal3d, channels=6):
    torch.manual_seed(0)
    block = kind(channels, norm=None, **options).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.7)
    return block


def example(seed=1, size=SIZE):
    return torch.randn(2, 6, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(block, x):
    """The formulas for attend="spacetime", from the children of the block alone."""
    pool_in, pool_out = (block.pool, nn.Identity()) if block.pool_first else (nn.Identity(), block.pool)
    theta = block.theta(x).flatten(2).mT
    phi, g = (pool_out(module(pool_in(x))).flatten(2).mT for module in (block.phi, block.g))
    if block.regions is not None:
        score = pool_out(block.saliency(pool_in(x))).flatten(2).mT
        index = score.sort(1, descending=True).indices[:, : block.regions]
        phi, g = (torch.take_along_dim(one, index, 1) for one in (phi, g * score.sigmoid()))
    if block.pairwise == "concatenation":
        a, b = (one @ w for one, w in zip((theta, phi), block.score.weight[0].chunk(2), strict=True))
        return block.out((torch.relu(a[:, :, None] + b[:, None]) / phi.shape[1] @ g).mT.unflatten(2, SIZE)) + x
    logits = torch.einsum("bnd,bmd->bnm", theta, phi)
    if block.pairwise == "dot_product":
        return block.out((logits / phi.shape[1] @ g).mT.unflatten(2, SIZE)) + x
    if block.hard == "gumbel":
        logits = logits + noise.whole_noise(noise.draw_seeds(*theta.shape[:2]), theta, phi)
    soft = torch.softmax(logits / block.temperature, -1)
    if block.top_k is not None:
        least = logits.sort(-1, descending=True).values[..., block.top_k - 1 : block.top_k]
        soft = torch.softmax(logits.masked_fill(logits < least, -torch.inf), -1)
    if block.hard:
        soft = F.one_hot(logits.argmax(-1), phi.shape[1]) - soft.detach() + soft
    return block.out((soft @ g).mT.unflatten(2, SIZE)) + x


def run(function, block, x):
    x = x.clone().requires_grad_()
    torch.manual_seed(5)
    y = function(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])]


@pytest.mark.parametrize("algorithm", ["auto", "dense"])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_formula(name, algorithm):
    block = trained({**CASES[name], "algorithm": algorithm})
    x = example()
    expected = run(lambda x: by_hand(block, x), block, x)
    for one, other in zip(run(block, block, x), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{"top_k": 2}, {"hard": True}, {"regions": 2}], ids=str)
@pytest.mark.parametrize("attend", ["space", "time"])
def test_groups_select_their_own_keys(attend, options):
    size = (3, 2, 4)
    block, x = trained({"attend": attend, **options}), example(size=size)
    y = block(x)
    for index in range(3) if attend == "space" else range(2):
        part = (slice(None),) * 2 + ((index,) if attend == "space" else (slice(None), index, slice(None)))
        alone = x[part].unsqueeze(2 if attend == "space" else 3)
        torch.testing.assert_close(block(alone), y[part].unsqueeze(2 if attend == "space" else 3))


def test_windows_with_fewer_keys_than_selected_use_all_of_theirs():
    block = trained({"windows": (4,), "top_k": 3}, nl.NonLocal1d)
    soft = trained({"windows": (4,)}, nl.NonLocal1d)
    x = example(size=(10,))  # windows of 4, 4 and 2 positions
    torch.testing.assert_close(block(x)[..., 8:], soft(x)[..., 8:])
    assert not torch.allclose(block(x)[..., :8], soft(x)[..., :8])


def test_channels_are_selected_too():
    block, soft = trained({"attend": "channel", "top_k": 1}), trained({"attend": "channel", "scale": 1e6})
    torch.testing.assert_close(block(example()), soft(example()))


def test_gumbel_noise_is_that_of_training():
    block, x = trained(CASES["gumbel"]), example()
    strongest = trained({"hard": True})
    torch.testing.assert_close(block.eval()(x), strongest(x))
    block.train()
    torch.manual_seed(0)
    first, second = block(x), block(x)
    torch.manual_seed(0)
    assert torch.equal(block(x), first)
    assert not torch.equal(first, second)


def test_recomputed_blocks_draw_the_same_noise():
    block, x = trained(CASES["gumbel"]), example(size=(2, 9, 9))
    recomputed = trained({**CASES["gumbel"], "checkpoint": True})
    for one, other in zip(run(block, block, x), run(recomputed, recomputed, x), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", CASES)
def test_options_are_in_config_only_when_set(name):
    block = trained(CASES[name])
    factor = CASES[name].get("subsample")
    given = {**CASES[name], **({"subsample": [1, factor, factor]} if factor else {})}
    assert given.items() <= block.config.items()
    again = nl.NonLocal3d(**block.config).double()
    again.load_state_dict(block.state_dict())
    torch.manual_seed(0)
    expected = block(example())
    torch.manual_seed(0)
    assert torch.equal(again(example()), expected)
    plain = nl.NonLocal3d(6).config
    assert not {"top_k", "hard", "temperature", "regions"} & plain.keys()


@pytest.mark.parametrize("name", CASES)
def test_new_blocks_are_the_identity(name):
    block, x = nl.NonLocal3d(6, **CASES[name]).double(), example()
    assert torch.equal(block.eval()(x), x)


REFUSED = [
    ({"top_k": 0}, "top_k=0"),
    ({"top_k": 3, "hard": True}, "exclude each other"),
    ({"temperature": 2.0}, "temperature=2.0 applies to hard"),
    ({"hard": True, "temperature": 0}, "temperature=0: expected a finite number above 0"),
    ({"hard": "sometimes"}, "hard='sometimes'"),
    *(
        ({**option, "pairwise": form}, f"pairwise='{form}' has weights that do not sum to one")
        for option in ({"top_k": 3}, {"hard": True})
        for form in ("dot_product", "concatenation")
    ),
    ({"top_k": 3, "normalize": "queries"}, "normalize='queries' normalizes the weights of each key"),
    ({"top_k": 3, "causal": "frames"}, "with causal frames"),
    ({"top_k": 3, "algorithm": "fused"}, "algorithm='fused' does not support top_k=3"),
    ({"top_k": 3, "attend": "criss_cross"}, "has its own algorithm, without top_k=3"),
    ({"hard": True, "attend": "criss_cross"}, "has its own algorithm, without hard=True"),
    ({"regions": 0}, "regions=0: expected None or a number of keys, at least 1"),
    ({"regions": 2.5}, "regions=2.5"),
    ({"regions": 3, "top_k": 4}, "top_k=4 selects among regions=3 keys: expected at most 3"),
    ({"regions": 3, "causal": "frames"}, "which is not causal"),
    ({"regions": 3, "attend": "criss_cross"}, "regions=3 are keys of all positions"),
    ({"regions": 3, "attend": "channel"}, "weights among channels"),
    ({"regions": 3, "windows": (None, 4, 4)}, "regions=3 are keys of all positions of a group"),
    ({"regions": 3, "normalize": "queries"}, "regions=3 leaves keys without weights"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value))
def test_combinations_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        nl.NonLocal3d(6, **options)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"top_k": 71}, 70),
        ({"regions": 71}, 70),
        ({"top_k": 36, "attend": "space"}, 35),
        ({"regions": 3, "attend": "time"}, 2),
    ],
    ids=str,
)
def test_more_keys_than_the_map_has_are_refused(options, keys):
    name, count = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name}={count}: expected at most the number of keys, M = {keys}, of a map"):
        trained(options)(example())


class TestSaliency:
    def test_the_map_is_the_sigmoid_of_the_scores(self):
        block, x = trained({"regions": 4}), example()
        expected = torch.sigmoid(block.saliency(x)).squeeze(1)
        torch.testing.assert_close(block.saliency_map(x), expected)
        tokens = trained({"regions": 4, "layout": "channels_last"})
        torch.testing.assert_close(tokens.saliency_map(x.movedim(1, -1)), expected)

    def test_other_blocks_have_none(self):
        with pytest.raises(ValueError, match="expected a block with regions=k"):
            nl.NonLocal2d(6).saliency_map(torch.zeros(1, 6, 3, 3))

    def test_theta_and_phi_alone_do_not_show_it(self):
        block, x = trained({"regions": 4}), example()
        with pytest.raises(ValueError, match="regions=4 selects keys by their saliency"):
            block.respond(*block.embed(x))

    def test_keys_of_another_map_have_its_saliency(self):
        block, x = trained({"regions": 4, "key_channels": 3}), example()
        other = torch.randn(2, 3, *SIZE, dtype=torch.float64)
        assert block.saliency.in_channels == 3
        assert not torch.equal(block(x, other), block(x, -other))


class TestOtherTools:
    @pytest.mark.parametrize("name", ["top_k", "hard", "gumbel", "regions", "ReLU of regions"])
    def test_exported_programs_equal_the_block(self, name):
        block, x = trained(CASES[name]).eval(), example()
        sizes = {0: torch.export.Dim("batch", min=1), 3: torch.export.Dim("h", min=4)}
        program = torch.export.export(block, (x,), dynamic_shapes=(sizes,))
        assert not any("torch_nonlocal" in str(node.target) for node in program.graph.nodes)
        for given in (x, example(2, (2, 9, 7))):
            torch.testing.assert_close(program.module()(given), block(given))

    @pytest.mark.parametrize("name", ["top_k", "hard", "gumbel", "regions", "ReLU of regions"])
    def test_recorded_graphs_equal_the_block(self, name):
        block, x = trained(CASES[name]).eval(), example()
        recorded = torch.fx.symbolic_trace(nn.Sequential(block)), torch.jit.trace(block, x)
        for given in (x, example(2, (2, 9, 7))):
            for graph in recorded:
                torch.testing.assert_close(graph(given), block(given))

    @pytest.mark.parametrize("name", ["top_k", "gumbel", "regions"])
    def test_compiled_blocks_equal_the_block(self, name):
        block, x = trained(CASES[name]), example()
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(run(compiled, block, x), run(block, block, x))

    @pytest.mark.parametrize("name", ["top_k", "hard", "gumbel", "regions"])
    def test_plan_and_explain_state_the_sizes(self, name):
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3))
        image = torch.randn(1, 3, 14, 14)
        places = nl.plan(model, image, at="1", **CASES[name]).places
        (place,) = [one for one in places if one.name == "1"]
        assert (place.queries, place.keys) == (100, 6 if name == "regions" else 100)
        assert place.memory > 0
        nl.insert(model, at="1", example_input=image, **CASES[name])
        assert model(image).shape == (1, 6, 10, 10)
        assert "100 queries" in nl.explain(model[1].non_local, (1, 6, 10, 10))


class TestRecords:
    @pytest.mark.parametrize("name", [name for name in CASES if name != "gumbel"])
    def test_rows_hold_the_selected_weights(self, name):
        block, x = trained(CASES[name]).eval(), example()
        with nl.watch(block) as seen:
            y = block(x)
        record = seen[""]
        grid = record.geometry.grid
        points = [tuple(point) for point in torch.cartesian_prod(*map(torch.arange, grid)).tolist()]
        weights = record.rows(points, batch=1).flatten(1)
        kept = 1 if block.hard else block.top_k or block.regions
        assert int((weights != 0).sum(1).max()) == kept
        if block.pairwise == "embedded_gaussian":
            torch.testing.assert_close(weights.sum(1), torch.ones(len(points), dtype=torch.float64))
        g = block.embed(x)[2][1]
        if block.regions is not None:
            source = block.pool(block.saliency(x)) if not block.pool_first else block.saliency(block.pool(x))
            g = g * source.sigmoid()[1].flatten()[:, None]
        expected = block.out((weights @ g).mT.unflatten(1, grid)[None]) + x[1:]
        torch.testing.assert_close(y[1:], expected)
        column = record.column((1, 2, 3), batch=1)
        key = record.geometry.covering_key((1, 2, 3))
        torch.testing.assert_close(column.flatten(), record.rows(points, batch=1)[(slice(None), *key)])
        assert len(record.links(points[0], k=min(8, weights.shape[1]), batch=1)) <= kept

    def test_strongest_links_and_statistics(self):
        block, x = trained({"top_k": 3}).eval(), example()
        with nl.watch(block) as seen:
            block(x)
        found = seen[""].strongest(5)
        torch.testing.assert_close(found.weights[:, :3].sum(1), torch.ones(70, dtype=torch.float64))
        assert not found.weights[:, 3:].any()
        assert seen[""].statistics().keys == 3
        assert "zero except for the 3 strongest keys" in repr(seen[""])

    def test_saliency_is_that_of_the_block(self):
        block, x = trained({"regions": 4}).eval(), example()
        with nl.watch(block) as seen:
            block(x)
        torch.testing.assert_close(seen[""].saliency(batch=1), block.saliency_map(x)[1])
        with nl.watch(nl.NonLocal2d(6)) as other:
            pass
        with pytest.raises(KeyError):
            other[""].saliency()
