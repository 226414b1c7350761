"""Projections by oneDNN, called by name: the numbers and derivatives of the definition, and who does not use it."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import torch_nonlocal as nl
from torch_nonlocal._common import onednn
from torch_nonlocal._common.onednn import convolution_1x1, is_faster_by_name

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture
def by_name(monkeypatch):
    """Calls of any size use oneDNN by name, on any CPU."""
    monkeypatch.setattr(onednn, "_LEAST", 1)
    monkeypatch.setattr(onednn, "_is_wide", lambda: True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(1, 5, 7), (2, 5, 3, 4), (3, 5, 2, 3, 4)])
def test_it_is_the_product_with_its_derivatives(by_name, shape):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(6, 5, *(1,) * (len(shape) - 2)), torch.randn(6)
    assert is_faster_by_name(x, weight)

    def derivatives(function, *inputs):
        for one in inputs:
            one.requires_grad_()
        y = function(*inputs)
        first = torch.autograd.grad((y**3).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum((one**2).sum() for one in first), inputs)
        return [y, *first, *second]

    def defined(x, weight, bias):
        return torch.einsum("bc...,dc->bd...", x, weight.flatten(1)) + bias.view(-1, *(1,) * (x.dim() - 2))

    expected = derivatives(defined, x.double(), weight.double(), bias.double())
    for found, right in zip(derivatives(convolution_1x1, x, weight, bias), expected, strict=True):
        assert (found - right).abs().max() <= 1e-5 * right.abs().max()


@pytest.mark.parametrize("form", ["embedded_gaussian", "concatenation"])
def test_blocks_give_the_same_numbers(by_name, monkeypatch, form):
    torch.manual_seed(0)
    block, x = nl.NonLocal2d(8, pairwise=form, algorithm="auto", norm=None), torch.randn(2, 8, 140, 90)
    torch.nn.init.normal_(block.out.weight)
    x.requires_grad_()
    found = block(x)
    found.sum().backward()
    gradient, x.grad = x.grad, None
    monkeypatch.setattr(onednn, "_LEAST", 2**60)
    expected = block(x)
    expected.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, x.grad, rtol=1e-4, atol=1e-4)


def test_other_calls_do_not_use_it(by_name):
    x, weight = torch.randn(2, 5, 3, 4), torch.randn(6, 5, 1, 1)
    assert is_faster_by_name(x, weight)
    assert not is_faster_by_name(x.double(), weight)
    assert not is_faster_by_name(x.expand(2, 5, 3, 4).repeat(8, 1, 1, 1), weight)  # 16 images
    with FlopCounterMode(display=False):
        assert not is_faster_by_name(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_faster_by_name(x, weight)
    torch.vmap(lambda one: (_refuses(one[None], weight), one)[1])(x)
    with torch.autograd.forward_ad.dual_level():
        assert not is_faster_by_name(x, weight)


def _refuses(x, weight):
    assert not is_faster_by_name(x, weight)
