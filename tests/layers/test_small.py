"""The short path of blocks on small maps: equal to the general path, and not taken by unusual calls."""

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.layers import non_local
from torch_nonlocal.layers.small import small_forward
from torch_nonlocal.layers.streamed import streamed_by

FORMS = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
BLOCKS = (nl.NonLocal1d, nl.NonLocal2d, nl.NonLocal3d)


def block_of(kind=nl.NonLocal2d, **options):
    torch.manual_seed(0)
    block = kind(6, **options).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def results(block, x):
    """The output, the gradients of the input and of all parameters, and the statistics of the norm."""
    x = x.clone().requires_grad_()
    block.zero_grad()
    z = block(x)
    (z * torch.linspace(0, 1, z.numel(), dtype=z.dtype).view_as(z)).sum().backward()
    return [z.detach(), x.grad, *(one.grad for one in block.parameters()), *block.buffers()]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("options", [{}, {"norm": None}, {"norm": "group", "inner_channels": 5}])
def test_the_short_path_equals_the_general_one(monkeypatch, form, kind, batch, options):
    scale = {"scale": "sqrt"} if form == "embedded_gaussian" else {}
    x = torch.randn(batch, 6, *(3, 4, 5)[: kind.dims], dtype=torch.float64)
    for training in (True, False):
        block = block_of(kind, pairwise=form, **options, **scale).train(training)
        twin = block_of(kind, pairwise=form, **options, **scale).train(training)
        assert small_forward(block, x) is not None
        with torch.no_grad():
            inference = block(x)
        block.load_state_dict(twin.state_dict())
        found = results(block, x)
        with monkeypatch.context() as patch:
            patch.setattr(non_local, "small_forward", lambda block, x: None)
            with torch.no_grad():
                torch.testing.assert_close(
                    inference, block_of(kind, pairwise=form, **options, **scale).train(training)(x)
                )
            expected = results(twin, x)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"attend": "space"},
        {"attend": "time"},
        {"causal": "frames"},
        {"subsample": 2},
        {"normalize": "queries"},
        {"algorithm": "tiled"},
        {"checkpoint": True},
        {"layout": "channels_last"},
    ],
)
def test_unusual_options_take_the_general_path(options):
    assert small_forward(block_of(nl.NonLocal3d, **options), torch.randn(1, 6, 2, 4, 4, dtype=torch.float64)) is None


@pytest.mark.parametrize("name", ["theta", "phi", "g", "out", "pool"])
@pytest.mark.parametrize("form", FORMS)
def test_hooks_of_children_run(name, form):
    block, seen = block_of(pairwise=form), []
    getattr(block, name).register_forward_hook(lambda *call: seen.append(call))
    block(torch.randn(2, 6, 3, 3, dtype=torch.float64))
    assert len(seen) == (2 if name == "pool" else 1)  # keys and values are pooled


def test_unusual_inputs_and_contexts_take_the_general_path():
    block, x = block_of(), torch.randn(2, 6, 3, 3, dtype=torch.float64)
    assert small_forward(block, x) is not None
    unusual = (
        x[:0],
        x[..., :0],
        nn.Parameter(x),
        x.float(),
        x[0],
        x[0, 0, 0],
        x[:, :5],
        torch.randn(2, 6, 150, 150).double(),
    )
    for one in unusual:
        assert small_forward(block, one) is None
    with streamed_by(lambda *given: x):
        assert small_forward(block, x) is None
    with nl.watch(nn.Sequential(block)):
        assert small_forward(block, x) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert small_forward(block, x) is None
    assert small_forward(nl.NonLocal2d(512), torch.randn(1, 512, 3, 3)) is None  # weights that are not copied
    many = torch.randn(1, 6, 20, 20).double()
    assert small_forward(block_of(pairwise="concatenation"), many) is None  # sorting is faster
