"""The attention of SAGAN, BigGAN, DANet, RNAN and PFNL, and maps that are returned beside the output."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from agreement import assert_replaced_exactly, randomized
from layouts.gan import Attention, NonLocalBlock, NonLocalBlock2D, PAM_Module, Self_Attn
from torch import Tensor, nn
from torch.nn.utils import spectral_norm
from torch.utils.checkpoint import checkpoint

import torch_nonlocal as nl


@pytest.mark.parametrize("names", [("query_conv", "key_conv", "value_conv"), ("f", "g", "h")])
@pytest.mark.parametrize("options", [{}, {"axis": 1}, {"turned": False}, {"with_map": False}], ids=str)
def test_sagan_and_its_copies(names, options):
    assert_replaced_exactly(randomized(Self_Attn(8, names=names, **options)), torch.randn(2, 8, 5, 6))


def test_danet():
    assert_replaced_exactly(randomized(PAM_Module(8)), torch.randn(2, 8, 5, 6))


@pytest.mark.parametrize("options", [{}, {"spectral": False}, {"pool": 1}], ids=str)
def test_biggan(options):
    assert_replaced_exactly(randomized(Attention(8, **options)), torch.randn(2, 8, 4, 6))


def test_biggan_ignores_class_features():
    block = randomized(Attention(8)).double().eval()
    x, y = torch.randn(2, 8, 4, 6).double(), torch.randn(2, 3)
    expected = block(x, y)
    nl.replace(block)
    with nl.watch(block) as seen:
        torch.testing.assert_close(block(x, y), expected)
        torch.testing.assert_close(block(x, y=y), expected)
    assert list(seen) == [""]


def test_rnan_normalizes_over_the_queries():
    block = randomized(NonLocalBlock2D(8, 4))
    assert_replaced_exactly(block, torch.randn(2, 8, 5, 6))
    assert nl.replace(block, dry_run=True).found[0].computed.normalize == "queries"


@pytest.mark.parametrize("reshaped", [False, True])
@pytest.mark.parametrize(("width", "sub_sample", "nltype"), [(4, 1, 0), (4, 2, 0), (8, 1, 1), (8, 2, 1)])
def test_pfnl(width, sub_sample, nltype, reshaped):
    block = randomized(NonLocalBlock(8, width, sub_sample, nltype, reshaped=reshaped))
    assert_replaced_exactly(block, torch.randn(2, 8, 4, 6))


def test_pfnls_quotient_of_dot_products_is_left():
    assert "differs by" in nl.replace(NonLocalBlock(8, 4, nltype=2)).left[""]


def test_weights_that_hooks_compute():
    class Self_Attention(Self_Attn):  # noqa: N801
        """A copy with the spectral norm of hooks."""

    block = randomized(Self_Attention(8))
    for name in block.names:
        spectral_norm(block.get_submodule(name))
    x = torch.randn(2, 8, 5, 6)
    block(x)[0].sum().backward()  # the computed weight is no leaf now
    expected = block.eval()(x)
    assert nl.replace(block).replaced == [""]
    for one, other in zip(block(x), expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.fixture
def given() -> tuple[nn.Module, Tensor]:
    return randomized(Self_Attn(8)).eval(), torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(0))


def test_the_map_has_its_values_and_gradients_when_it_is_used(given):
    block, x = given[0].double(), given[1].double()
    results = []
    for _ in range(2):
        block.zero_grad()
        out, attention = block(x)
        assert isinstance(attention, Tensor)
        assert (attention.shape, attention.dtype, attention.device.type) == ((2, 30, 30), torch.float64, "cpu")
        loss = out.square().sum() + (attention * torch.arange(30)).square().sum()
        loss.backward()
        results.append([attention.detach(), loss.detach(), *(one.grad.clone() for one in block.parameters())])
        nl.replace(block)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize(
    "used",
    [
        copy.deepcopy,
        lambda one: pickle.loads(pickle.dumps(one)),
        lambda one: torch.from_numpy(one.detach().numpy()),
        lambda one: one[:, 3].argmax(-1),
        lambda one: torch.stack([one, one]),
        lambda one: one.clone().mul_(2),
        lambda one: torch.tensor(one.tolist()),
        lambda one: torch.ops.aten.mul(one, 2),
        lambda one: _Doubled.apply(one),
    ],
)
@torch.no_grad()
def test_the_map_acts_as_a_tensor(given, used):
    block, x = given
    expected = used(block(x)[1])
    nl.replace(block)
    actual = used(block(x)[1])
    assert type(actual) is Tensor
    torch.testing.assert_close(actual, expected)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, one):
        return one * 2

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * 2


def penalty(block: nn.Module, x: Tensor) -> Tensor:
    out, attention = block(x)
    (slope,) = torch.autograd.grad((attention * out.sum()).square().sum(), x, create_graph=True)
    return torch.autograd.grad(slope.square().sum(), x)[0]


@pytest.mark.parametrize(
    "compute",
    [
        penalty,
        lambda block, x: torch.func.vmap(lambda one: block(one[None])[1])(x),
        lambda block, x: torch.func.jvp(lambda one: block(one)[1], (x,), (x.detach() + 1,))[1],
        lambda block, x: torch.jit.trace(block, x)(x)[1],
        lambda block, x: torch.export.export(block, (x,)).module()(x)[1],
    ],
    ids=["second derivatives", "vmap", "jvp", "trace", "export"],
)
def test_transforms_of_the_map(given, compute):
    block, x = given[0].double(), given[1].double().requires_grad_()
    expected = compute(block, x)
    nl.replace(block)
    torch.testing.assert_close(compute(block, x), expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_map_under_checkpointing(given, reentrant):
    block, x = given[0].double(), given[1].double()
    gradients = []
    for _ in range(2):
        one = x.clone().requires_grad_()
        out, attention = checkpoint(block, one, use_reentrant=reentrant)
        (out.square().sum() + attention.square().sum()).backward()
        gradients.append(one.grad)
        nl.replace(block)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_map_is_not_built_unless_it_is_used(given):
    block, _ = given
    (place,) = nl.replace(block, example_input=torch.empty(1, 8, 80, 80)).found
    assert place.predicted is not None
    assert place.predicted.memory_after < 6400**2
    theta: list[weakref.ref[Tensor]] = []
    block.query_conv.register_forward_hook(lambda _module, _args, out: theta.append(weakref.ref(out)))
    out, attention = block(torch.randn(1, 8, 80, 80))
    assert repr(attention.shape) == "torch.Size([1, 6400, 6400])"
    del out, attention
    gc.collect()
    assert theta[0]() is None


def test_compiled_code_returns_the_map(given):
    block, x = given
    expected = block(x)
    nl.replace(block)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    for one, other in zip(compiled(x), expected, strict=True):
        torch.testing.assert_close(one, other)
