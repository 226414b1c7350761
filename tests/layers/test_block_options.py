"""Every pair of options of a block: equal to the definition in float64, or refused with a reason."""

import json
import pickle
from itertools import combinations

import pytest
import torch
from plain_block import plain_block
from torch import nn

import torch_nonlocal as nl

BLOCKS = {1: nl.NonLocal1d, 2: nl.NonLocal2d, 3: nl.NonLocal3d}
SIZE = {3: (3, 4, 5), 2: (4, 5), 1: (7,)}

OPTIONS = {
    "gaussian": {"pairwise": "gaussian"},
    "dot_product": {"pairwise": "dot_product"},
    "concatenation": {"pairwise": "concatenation"},
    "space": {"attend": "space"},
    "time": {"attend": "time"},
    "criss_cross": {"attend": "criss_cross"},
    "channel": {"attend": "channel"},
    "causal": {"causal": "frames"},
    "causal window": {"causal": "frames", "window_frames": 2},
    "windows of frames": {"windows": (2, None, None)},
    "windows of pixels": {"windows": (None, 3, 2)},
    "interlaced": {"windows": (None, 2, 2), "interlaced": True},
    "line": {"windows": (1, 1, None)},
    "pooled": {"subsample": (1, 2, 2)},
    "pooled first": {"subsample": (1, 2, 2), "pool_first": True},
    "strided": {"keys": "stride", "subsample": (1, 1, 2)},
    "pyramid": {"keys": "pyramid"},
    "other map": {"key_channels": 4},
    "sqrt": {"scale": "sqrt"},
    "number": {"scale": -0.5},
    "queries": {"normalize": "queries"},
    "dense": {"algorithm": "dense"},
    "checkpoint": {"checkpoint": True},
    "channels_last": {"layout": "channels_last"},
    "inner_channels": {"inner_channels": 2},
}
WINDOWS = ("windows of frames", "windows of pixels", "interlaced", "line")
KEYS = ("pooled", "pooled first", "strided", "pyramid")
CAUSAL = ("causal", "causal window")
REFUSED = {  # for clips; what an option is refused with, and the reason
    "gaussian": {("other map",): "compares the channels of both maps"},
    "concatenation": {("channel",): "multiplies channels"},
    "space": {("windows of frames", "line"): "does not sum over axis 0"},
    "time": {
        ("windows of pixels", "interlaced", "line"): "does not sum over axis",
        ("strided",): "does not sum over a pooled axis",
        ("pyramid",): "does not sum over them",
    },
    "criss_cross": {
        CAUSAL: "does not reach other frames",
        WINDOWS: "has no groups that windows could divide",
        KEYS: "cannot be pooled",
        ("queries",): "over the keys of each query",
    },
    "channel": {
        CAUSAL: "sums over the positions of all frames",
        WINDOWS: "has no groups that windows could divide",
        KEYS: "cannot be pooled",
        ("other map",): "cannot come from another map",
        ("sqrt",): "has no width",
    },
    "causal": {("windows of frames", "line"): "has window_frames for the time axis"},
    "windows of pixels": {
        ("pooled", "pooled first"): "expected multiples of the factors",
        ("pyramid",): "pools over whole images",
    },
    "interlaced": {
        ("pooled", "pooled first", "strided"): "are in different windows",
        ("pyramid",): "pools over whole images",
    },
    "line": {("pooled", "pooled first"): "expected multiples of the factors", ("pyramid",): "pools over whole images"},
}
REFUSED["causal window"] = REFUSED["causal"]
REFUSED["pooled"] = REFUSED["pooled first"] = {("pyramid",): "pools of fixed numbers"}


def reason(*names):
    for one in names:
        for others, text in REFUSED.get(one, {}).items():
            if any(name in others for name in names):
                return text
    return None


def options_of(names, dims):
    found = {}
    for name in names:
        for key, value in OPTIONS[name].items():
            value = value[3 - dims :] if isinstance(value, tuple) else value
            if found.setdefault(key, value) != value:
                return None
    return found


def pairs():
    """Pairs of options of which at least one is none of the first blocks, whose options have tests of their own."""
    first = {"gaussian", "dot_product", "concatenation", "space", "time", "causal", "causal window", "pooled"}
    first |= {"pooled first", "sqrt", "number", "queries", "dense", "checkpoint", "channels_last", "inner_channels"}
    found = [names for names in combinations(OPTIONS, 2) if options_of(names, 3) is not None]
    return [names for names in found if not set(names) <= first]


def made(dims, dtype=torch.float64, **options):
    torch.manual_seed(0)
    block = BLOCKS[dims](6, norm=None, dtype=dtype, **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block


def inputs_of(block):
    """A map and, for blocks with keys of another map, that map."""
    make = torch.Generator().manual_seed(1)
    dtype, size = block.g.weight.dtype, SIZE[block.dims]
    x = torch.randn(2, 6, *size, generator=make, dtype=dtype).requires_grad_()
    return [x, torch.randn(2, 4, *size, generator=make, dtype=dtype).requires_grad_()] if block.key_channels else [x]


def applied(block, inputs):
    if block.layout == "channels_first":
        return block(*inputs)
    return block(*(one.movedim(1, -1) for one in inputs)).movedim(-1, 1)


def results(block, compute, inputs):
    """The output, and the gradients of the inputs and the parameters."""
    y = compute(block, inputs)
    wanted = [*inputs, *block.parameters()]
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    return y.detach(), *torch.autograd.grad(y, wanted, dy, materialize_grads=True, allow_unused=True)


def check_definition(block, **tolerance):
    inputs = inputs_of(block)
    found = results(block, applied, inputs)
    expected = results(block, lambda block, maps: plain_block(block, *maps), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("names", pairs(), ids="-".join)
def test_pairs_of_options_equal_the_definition_or_are_refused_with_a_reason(names):
    options, refused = options_of(names, 3), reason(*names)
    if refused:
        with pytest.raises(ValueError, match=refused):
            made(3, **options)
    else:
        check_definition(made(3, **options), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dims", "options"),
    [
        *((2, {"attend": "criss_cross", "pairwise": form}) for form in ("embedded_gaussian", "concatenation")),
        *((dims, {"attend": "channel", "scale": -1.0}) for dims in (1, 2)),
        *((2, {"windows": (3, 2), "pairwise": form}) for form in ("embedded_gaussian", "dot_product")),
        (2, {"windows": 2, "interlaced": True, "pairwise": "concatenation"}),
        (2, {"windows": (2, 4), "subsample": (2, 1), "normalize": "queries"}),
        (2, {"windows": (2, 4), "keys": "stride", "subsample": 2}),
        (2, {"windows": (1, None)}),
        (2, {"windows": (9, None)}),
        (1, {"windows": 3}),
        (1, {"windows": (3,), "interlaced": True}),
        *((dims, {"keys": "pyramid"}) for dims in (1, 2)),
        (1, {"keys": "stride", "subsample": 3, "pairwise": "concatenation"}),
        (2, {"key_channels": 4, "windows": (3, None), "pairwise": "dot_product"}),
        (3, {"causal": "frames", "windows": (None, 3, 2), "pairwise": "dot_product", "subsample": None}),
        (3, {"attend": "space", "windows": (None, 3, 2), "pairwise": "concatenation"}),
        (3, {"attend": "time", "windows": (2, None, None), "keys": "stride", "subsample": 2, "normalize": "queries"}),
    ],
    ids=str,
)
def test_options_on_other_maps_and_of_three_at_once_equal_the_definition(dims, options):
    check_definition(made(dims, **options), rtol=1e-12, atol=1e-12)
    check_definition(made(dims, torch.float32, **options), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dims", "options", "message"),
    [
        (3, {"interlaced": True}, "interlaced=True needs windows"),
        (3, {"windows": 0}, "windows=0: expected a size of at least 1"),
        (3, {"windows": True}, "windows=True: expected a size"),
        (3, {"windows": (2, 2)}, "expected a size of at least 1, or 3 of them or None, one per axis"),
        (3, {"windows": (None, None, None)}, "has no size: expected windows=None"),
        (2, {"windows": (2, 2.5)}, "expected a size of at least 1"),
        (1, {"attend": "criss_cross"}, "needs an image or a clip"),
        (2, {"attend": "channels"}, "expected one of 'spacetime', 'space', 'time', 'criss_cross', 'channel'"),
        (2, {"keys": "stride"}, "keys='stride' needs subsample"),
        (2, {"keys": "pools"}, "keys='pools': expected one of 'pool', 'stride', 'pyramid'"),
        (2, {"key_channels": 0}, "key_channels=0: expected None or at least 1"),
        (2, {"attend": "channel", "pairwise": "gaussian", "inner_channels": 2}, "expected inner_channels=6, got 2"),
        (2, {"attend": "channel", "algorithm": "tiled"}, "expected algorithm='auto' or 'dense', got 'tiled'"),
        (2, {"attend": "criss_cross", "algorithm": "fused"}, "expected algorithm='auto' or 'dense', got 'fused'"),
    ],
    ids=str,
)
def test_wrong_values_are_refused_with_a_reason(dims, options, message):
    with pytest.raises(ValueError, match=message):
        BLOCKS[dims](6, **options)


@pytest.mark.parametrize(
    ("options", "other", "message"),
    [
        ({"key_channels": 4}, None, "expected the map of keys as keys_from"),
        ({"key_channels": 4}, (2, 6, 4, 5), r"expected keys_from \(B, 4, H, W\) with the batch size 2"),
        ({}, (1, 6, 4, 5), "with the batch size 2"),
        ({"windows": (2, None)}, (2, 6, 3, 5), "expected equal sizes of axis 0"),
        ({"attend": "criss_cross"}, (2, 6, 4, 4), "expected equal sizes of axis 1"),
        ({"attend": "channel"}, (2, 6, 4, 5), "keys_from has other positions"),
        ({"subsample": 3}, (2, 6, 2, 5), r"a map of size \(2, 5\) is smaller than the pooling factors \(3, 3\)"),
        ({"windows": (3, None), "subsample": (3, 1)}, None, "fewer than the pooling factor 3"),
    ],
    ids=str,
)
def test_maps_that_do_not_fit_are_refused_with_a_reason(options, other, message):
    with pytest.raises(ValueError, match=message):
        made(2, torch.float32, **options)(torch.zeros(2, 6, 4, 5), None if other is None else torch.zeros(other))


def test_keys_of_another_map_may_have_another_size():
    block, x = made(2, key_channels=4, subsample=2), torch.randn(2, 6, 4, 5, dtype=torch.float64)
    other = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(block(x, keys_from=other), plain_block(block, x, other))
    same = made(2)
    torch.testing.assert_close(same(x, keys_from=x), same(x))


def test_an_axial_block_is_two_blocks_with_windows_of_one_position():
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    rows, columns = made(2, windows=(1, None)), made(2, windows=(None, 1))
    by_row = rows(x)
    expected = plain_block(columns, plain_block(rows, x))
    torch.testing.assert_close(nn.Sequential(rows, columns)(x), expected)
    assert by_row.shape == x.shape


def test_divided_space_and_time_are_two_blocks():
    x = torch.randn(1, 6, 3, 4, 5, dtype=torch.float64)
    space, time = made(3, attend="space"), made(3, attend="time")
    torch.testing.assert_close(nn.Sequential(space, time)(x), plain_block(time, plain_block(space, x)))


def test_two_criss_cross_blocks_reach_every_position():
    first, second = made(2, attend="criss_cross"), made(2, attend="criss_cross")
    x = torch.randn(1, 6, 4, 5, dtype=torch.float64).requires_grad_()
    for blocks, reached in (((first,), 8), ((first, second), 20)):
        y = nn.Sequential(*blocks)(x)
        (gradient,) = torch.autograd.grad(y[0, :, 1, 2].square().sum(), x)
        assert int((gradient.abs().sum(1) > 0).sum()) == reached


def test_options_are_in_config_only_where_they_are_set_and_make_an_equal_block():
    assert not {"windows", "interlaced", "keys", "key_channels"} & made(3).config.keys()
    block = made(3, windows=(2, None, None), interlaced=True, keys="stride", subsample=(1, 2, 2), key_channels=4)
    config = json.loads(json.dumps(block.config))
    twin = type(block)(**config)
    assert twin.config == block.config
    assert (twin.windows, twin.interlaced, twin.keys, twin.key_channels) == ((2, None, None), True, "stride", 4)
    assert "windows=[2, None, None], interlaced=True, keys='stride', key_channels=4" in repr(block)


def test_pickles_of_earlier_versions_load():
    block = made(2)
    state = block.__dict__
    for name in ("keys", "key_channels"):
        state.pop(name)
    for name in ("windows", "interlaced"):
        block.groups.__dict__.pop(name)
    copied = pickle.loads(pickle.dumps(block))
    x = torch.randn(1, 6, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(copied(x), made(2)(x))
    assert copied.config == made(2).config
