"""Projections of small maps and batches: equal to the convolutions, with one gradient of the weights per batch."""

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.benchmark.meter import measure
from torch_nonlocal.layers.projection import Linear, apply, project, with_norm

# (B, C, *size) and the widths: one item, a batch, weights that are larger than the map, and 1D and 3D maps
CASES = [
    ((1, 6, 5, 4), (3, 3, 3)),
    ((4, 6, 5, 4), (3, 3, 3)),
    ((3, 6, 7), (2, 5)),
    ((2, 6, 2, 3, 3), (1, 1, 4)),
    ((2, 400, 2, 2), (150, 150, 150)),
    ((1, 400, 2, 2), (150, 150, 150)),
    ((3, 6, 5, 4), (4,)),
    ((0, 6, 5, 4), (3, 3, 3)),
]


def convolutions(shape, widths, dtype=torch.float64):
    conv = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)]
    torch.manual_seed(0)
    return [conv(shape[1], width, 1, dtype=dtype) for width in widths], torch.randn(shape, dtype=dtype)


def one_by_one(modules):
    return [Linear(module.weight.flatten(1), module.bias) for module in modules]


@pytest.mark.parametrize(("shape", "widths"), CASES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_outputs_and_gradients_equal_those_of_the_convolutions(shape, widths, channels_last):
    modules, x = convolutions(shape, widths)
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    x.requires_grad_()
    found, expected = apply(x, one_by_one(modules)), [module(x) for module in modules]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs = [x, *(one for module in modules for one in module.parameters())]
    dy = [torch.randn_like(one) for one in expected]
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, dy), torch.autograd.grad(expected, inputs, dy), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(("shape", "widths"), [CASES[0], CASES[1], CASES[2], CASES[3]])
def test_second_derivatives(shape, widths):
    modules, x = convolutions(shape, widths)
    weights = [one.weight.detach().flatten(1).requires_grad_() for one in modules]
    biases = [one.bias.detach() for one in modules]

    def run(x, *weights):
        return tuple(apply(x, [Linear(*both) for both in zip(weights, biases, strict=True)]))

    assert torch.autograd.gradgradcheck(run, (x.requires_grad_(), *weights), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("shape", "widths"), [CASES[1], CASES[4]])
def test_half_types_equal_the_convolutions_of_the_same_numbers_in_float32(dtype, shape, widths):
    modules, x = convolutions(shape, widths, dtype)
    found = apply(x, one_by_one(modules))
    expected = [module.float()(x.float()) for module in modules]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.float(), other, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


def test_autocast_gives_its_dtype():
    modules, x = convolutions(*CASES[1], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert [one.dtype for one in project(x, modules)] == [torch.bfloat16] * 3


@pytest.mark.parametrize("shape", [(1, 6, 5, 4), (2, 6, 8, 300, 6)])
def test_an_evaluated_norm_is_applied_to_small_maps_and_folded_for_large_ones(shape):
    (conv,), x = convolutions(shape, (7,), torch.float32)
    norm = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](7).eval()
    nn.init.uniform_(norm.weight)
    nn.init.normal_(norm.running_mean)
    folded = with_norm(conv, norm, x)
    assert (folded is None) == (x.numel() < 2**17)
    if folded is not None:
        torch.testing.assert_close(apply(x, [folded])[0], norm(conv(x)), rtol=1e-5, atol=1e-5)


def training_step(batch, channels, size):
    torch.set_num_threads(1)
    block = nl.NonLocal2d(channels)

    def run(x):
        block.zero_grad()
        block(x).sum().backward()

    run(torch.randn(2, channels, 2, 2))  # libraries initialize at the first call
    x = torch.randn(batch, channels, size, size)
    return lambda: run(x)


@pytest.mark.slow
def test_memory_of_a_training_step_holds_no_weights_per_batch_item():
    batch, channels = 24, 512
    per_item = 4 * batch * 4 * channels * channels // 2  # 50 MB
    maps = 4 * batch * channels * 9
    assert measure(training_step, batch, channels, 3, repeats=0).extra_bytes < min(per_item / 2, 25 * maps + 8 * 2**20)
