"""Projections by oneDNN, called by name: numbers and derivatives of the definition, and the calls that use it."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import torch_nonlocal as nl
from torch_nonlocal._common import onednn
from torch_nonlocal._common.onednn import convolution, is_faster_by_name

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture
def by_name(monkeypatch):
    """Calls of any size use oneDNN by name, on any CPU."""
    monkeypatch.setattr(onednn, "_LEAST", 1)
    monkeypatch.setattr(onednn, "_LEAST_POSITIONS", 1)
    monkeypatch.setattr(onednn, "_is_wide", lambda: True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


GEOMETRIES = {
    "1x1": ((2, 4, 5, 3), (6, 4, 1, 1), 0, 1, 1, 1),
    "1x1x1": ((1, 4, 2, 5, 3), (6, 4, 1, 1, 1), 0, 1, 1, 1),
    "1x1 with padding": ((2, 4, 5, 3), (6, 4, 1, 1), 1, 1, 1, 1),
    "1x1 with stride": ((2, 4, 5, 3), (6, 4, 1, 1), 0, 2, 1, 1),
    "1x1 in groups": ((2, 4, 5, 3), (6, 2, 1, 1), 0, 1, 1, 2),
    "3x3": ((2, 4, 6, 5), (6, 4, 3, 3), 1, 1, 1, 1),
    "3x3 with stride": ((2, 4, 6, 5), (6, 4, 3, 3), 1, 2, 1, 1),
    "3x3 with dilation": ((2, 4, 7, 6), (6, 4, 3, 3), 2, 1, 2, 1),
    "3x3, padding beyond the kernel": ((2, 4, 7, 6), (6, 4, 3, 3), 3, 1, 1, 1),
    "sequence": ((2, 4, 9), (6, 4, 3), 1, 1, 1, 1),
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_convolutions_have_the_derivatives_of_the_definition(name, has_bias):
    size, kernel, padding, stride, dilation, groups = GEOMETRIES[name]
    torch.manual_seed(0)
    axes = len(size) - 2
    tensors = [torch.randn(size), torch.randn(kernel), *([torch.randn(kernel[0])] if has_bias else [])]
    geometry = [padding] * axes, [stride] * axes, [dilation] * axes, groups

    def named(x, weight, bias=None):
        return convolution(x, weight, bias, *geometry)

    def defined(x, weight, bias=None):
        padding, stride, dilation, groups = geometry
        return (F.conv1d, F.conv2d, F.conv3d)[axes - 1](x, weight, bias, stride, padding, dilation, groups)

    def derivatives(function, inputs, second):
        inputs = [one.clone().requires_grad_() for one in inputs]
        y = function(*inputs)
        first = torch.autograd.grad((y**3).sum(), inputs, create_graph=second)
        if not second:
            return [y, *first]
        return torch.autograd.grad(sum((one**2).sum() for one in first), inputs)

    for second in (False, True):
        expected = derivatives(defined, [one.double() for one in tensors], second)
        for found, right in zip(derivatives(named, tensors, second), expected, strict=True):
            assert (found - right).abs().max() <= 1e-5 * right.abs().max()


@pytest.mark.parametrize(("form", "algorithm"), [("embedded_gaussian", "tiled"), ("concatenation", "sorted")])
def test_blocks_give_the_same_numbers(by_name, monkeypatch, form, algorithm):
    torch.manual_seed(0)
    block, x = nl.NonLocal2d(8, pairwise=form, algorithm=algorithm, norm=None), torch.randn(2, 8, 14, 9)
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


def test_few_positions_train_without_it(by_name, monkeypatch):
    x, weight = torch.randn(2, 5, 3, 4), torch.randn(6, 5, 1, 1)
    monkeypatch.setattr(onednn, "_LEAST_POSITIONS", 24)
    assert is_faster_by_name(x, weight)
    monkeypatch.setattr(onednn, "_LEAST_POSITIONS", 25)
    assert not is_faster_by_name(x, weight)
    with torch.no_grad():
        assert is_faster_by_name(x, weight)


def _refuses(x, weight):
    assert not is_faster_by_name(x, weight)
