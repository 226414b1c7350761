"""Blocks on channels-last maps and on tokens equal the block on the permuted map."""

import copy
import pickle

import pytest
import torch
from torch import nn

import torch_nonlocal as nl

KINDS = {1: nl.NonLocal1d, 2: nl.NonLocal2d, 3: nl.NonLocal3d}
SIZES = {1: (10,), 2: (4, 6), 3: (2, 4, 6)}
OPTIONS = [
    {},
    {"pairwise": "gaussian"},
    {"pairwise": "dot_product", "subsample": 2},
    {"pairwise": "concatenation", "norm": "group"},
    {"norm": "layer", "subsample": 2, "pool_first": True},
    {"norm": None, "checkpoint": True},
]


def trained(block):
    """Give all parameters random values, so that the block is not the identity."""
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return block


def pair(dims, options, **layout):
    """Return a block in a layout, and one with the same weights on maps (B, C, *size)."""
    block = trained(KINDS[dims](8, **options, **layout))
    reference = KINDS[dims](8, **options)
    reference.load_state_dict(block.state_dict())
    return block, reference


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_channels_last_equals_permutation_by_hand(dims, options, training):
    block, reference = pair(dims, options, layout="channels_last")
    x = torch.randn(2, *SIZES[dims], 8).requires_grad_()
    y, want = block.train(training)(x), reference.train(training)(x.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(y, want)
    weights = torch.randn_like(y)
    torch.testing.assert_close(*(torch.autograd.grad((one * weights).sum(), x)[0] for one in (y, want)))
    assert y.is_contiguous()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
def test_tokens_equal_a_map_and_prefix_tokens_pass_unchanged(dims, prefix, options):
    block, reference = pair(dims, options, layout="tokens", grid=SIZES[dims])
    tokens = torch.randn(2, prefix + SIZES[dims][0] * len(torch.zeros(SIZES[dims])[0].reshape(-1)), 8).requires_grad_()
    y = block(tokens)
    rows = tokens[:, prefix:].reshape(2, *SIZES[dims], 8).movedim(-1, 1)
    want = torch.cat([tokens[:, :prefix], reference(rows).movedim(1, -1).reshape(2, -1, 8)], 1)
    torch.testing.assert_close(y, want)
    assert torch.equal(y[:, :prefix], tokens[:, :prefix])
    weights = torch.randn_like(y)
    torch.testing.assert_close(*(torch.autograd.grad((one * weights).sum(), tokens)[0] for one in (y, want)))


LAYOUTS = [
    ({"layout": "channels_last"}, (2, 4, 6, 8)),
    ({"layout": "tokens", "grid": (4, 6)}, (2, 24, 8)),
    ({"layout": "tokens", "grid": (4, 6)}, (2, 25, 8)),
    ({"layout": "tokens", "grid": [4, 6], "prefix_tokens": 1}, (2, 25, 8)),
]


@pytest.mark.parametrize(("layout", "shape"), LAYOUTS)
@pytest.mark.parametrize("norm", ["batch", "layer", None])
def test_a_new_block_is_the_identity_and_keeps_the_memory_order(layout, shape, norm):
    block = nl.NonLocal2d(8, norm=norm, **layout)
    x = torch.randn(shape)
    permuted = torch.randn(shape[0], shape[-1], *shape[1:-1]).movedim(1, -1)
    for given in (x, permuted):
        assert torch.equal(block(given), given)
        assert block(given).stride() == given.stride()


@pytest.mark.parametrize(("layout", "shape"), LAYOUTS)
def test_config_pickle_and_deepcopy_keep_the_layout(layout, shape):
    block, x = trained(nl.NonLocal2d(8, **layout)).eval(), torch.randn(shape)
    twin = nl.NonLocal2d(**block.config)
    twin.load_state_dict(block.state_dict())
    for other in (twin.eval(), copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(other(x), block(x))
        assert other.config == block.config
    assert f"layout='{layout['layout']}'" in repr(block)


def test_a_block_pickled_before_layouts_existed_is_channels_first():
    block = nl.NonLocal2d(8)
    for name in ("layout", "grid", "prefix_tokens"):
        del block.__dict__[name]
    assert block.layout == "channels_first"
    assert block(torch.zeros(1, 8, 4, 4)).shape == (1, 8, 4, 4)


@pytest.mark.parametrize(("layout", "shape"), LAYOUTS)
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "concatenation"])
def test_export_fx_trace_and_vmap_give_the_same_numbers(layout, shape, pairwise):
    block, x = trained(nl.NonLocal2d(8, pairwise=pairwise, **layout)).eval(), torch.randn(shape)
    want = block(x)
    torch.testing.assert_close(torch.export.export(block, (x,)).module()(x), want)
    torch.testing.assert_close(torch.fx.symbolic_trace(block)(x), want)
    torch.testing.assert_close(torch.jit.trace(block, x)(x), want)
    torch.testing.assert_close(torch.vmap(lambda one: block(one[None])[0])(x), want)


@pytest.mark.parametrize(("layout", "shape"), LAYOUTS)
def test_explain_and_watch_see_the_map(layout, shape):
    block = trained(nl.NonLocal2d(8, **layout)).eval()
    assert "N = 24 queries" in nl.explain(block, shape)
    x = torch.randn(shape)
    with nl.watch(block) as seen:
        block(x)
    record = seen[""]
    assert record.geometry.grid == (4, 6)
    reference = nl.NonLocal2d(8).eval()
    reference.load_state_dict(block.state_dict())
    rows = x[:, -24:].reshape(2, 4, 6, 8) if x.ndim == 3 else x
    with nl.watch(reference) as wanted:
        reference(rows.movedim(-1, 1))
    torch.testing.assert_close(record.rows([(2, 3)], batch=1), wanted[""].rows([(2, 3)], batch=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "NHWC"}, "layout='NHWC': expected one of 'channels_first', 'channels_last', 'tokens'"),
        ({"layout": "tokens"}, r"grid=None: layout='tokens' requires the sizes of 2 axes, such as grid=\(14, 14\)"),
        ({"layout": "tokens", "grid": (4, 4, 4)}, r"grid=\(4, 4, 4\): layout='tokens' requires the sizes of 2 axes"),
        ({"layout": "tokens", "grid": (4, 0)}, r"grid=\(4, 0\)"),
        ({"layout": "tokens", "grid": 16}, "grid=16"),
        ({"layout": "tokens", "grid": (4, 4), "prefix_tokens": -1}, "prefix_tokens=-1: expected None or a number"),
        ({"grid": (4, 4)}, r"grid=\(4, 4\) applies to layout='tokens', not to layout='channels_first'"),
        ({"layout": "channels_last", "prefix_tokens": 1}, "prefix_tokens=1 applies to layout='tokens'"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        nl.NonLocal2d(8, **options)


@pytest.mark.parametrize(
    ("layout", "shape", "message"),
    [
        ({"layout": "channels_last"}, (2, 8, 4, 6), r"expected \(B, H, W, 8\), got \(2, 8, 4, 6\)"),
        (
            {"layout": "tokens", "grid": (4, 6)},
            (2, 23, 8),
            r"expected \(B, P \+ 24 \(4x6 grid\), 8\), got \(2, 23, 8\)",
        ),
        (
            {"layout": "tokens", "grid": (4, 6), "prefix_tokens": 1},
            (2, 24, 8),
            r"expected \(B, 1 \+ 24 \(4x6 grid\), 8\)",
        ),
        ({"layout": "tokens", "grid": (4, 6), "prefix_tokens": 0}, (2, 25, 8), r"expected \(B, 24 \(4x6 grid\), 8\)"),
        ({"layout": "tokens", "grid": (4, 6)}, (2, 8, 4, 6), r"got \(2, 8, 4, 6\)"),
        (
            {"layout": "channels_last", "subsample": 5},
            (2, 4, 6, 8),
            r"a map of size \(4, 6\) is smaller than the pooling",
        ),
    ],
)
def test_inputs_of_another_layout_raise(layout, shape, message):
    with pytest.raises(ValueError, match=message):
        nl.NonLocal2d(8, **layout)(torch.zeros(shape))
