"""Second and third derivatives: finite differences in float64, and the definition for gradient penalties of blocks."""

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal import functional
from torch_nonlocal.benchmark.meter import measure
from torch_nonlocal.ops import _second, tiled

F = functional
OPERATIONS = {
    "tiled": lambda t, p, g, b: F.embedded_gaussian(t, p, g, scale=0.7, algorithm="tiled"),
    "tiled, bias": lambda t, p, g, b: F.embedded_gaussian(t, p, g, key_bias_BM=b, algorithm="tiled"),
    "queries": lambda t, p, g, b: F.embedded_gaussian(t, p, g, normalize="queries", algorithm="tiled"),
    "recomputed": lambda t, p, g, b: tiled.softmax(t, p, g, keep=False),
    "recomputed queries": lambda t, p, g, b: tiled.softmax(t, p, g, keep=False, normalize="queries"),
    "fused": lambda t, p, g, b: F.embedded_gaussian(t, p, g, scale=0.7, algorithm="fused"),
    "gaussian": lambda t, p, g, b: F.gaussian(t, p, g, algorithm="tiled"),
    "reassociated": lambda t, p, g, b: F.dot_product(t, p, g, algorithm="reassociated"),
    "sorted": lambda t, p, g, b: F.concatenation(t[..., 0], p[..., 0], g, algorithm="sorted"),
}


def inputs(N=5, M=4, D=3, V=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, N, D), (2, M, D), (2, M, V), (2, M)
    return [torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("name", OPERATIONS)
def test_second_derivatives(name, monkeypatch):
    monkeypatch.setattr(_second, "PART_BYTES", 1)  # parts of 16 positions
    assert torch.autograd.gradgradcheck(OPERATIONS[name], inputs(N=18, M=17, D=2, V=2), check_batched_grad=False)


@pytest.mark.parametrize("name", OPERATIONS)
def test_third_derivatives(name):
    x = inputs(3, 3, 2, 2)

    def penalty(*tensors):
        y = OPERATIONS[name](*tensors)
        gradients = torch.autograd.grad(y.square().sum(), tensors, create_graph=True, materialize_grads=True)
        return sum(gradient.square().sum() for gradient in gradients)

    assert torch.autograd.gradgradcheck(penalty, x)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_gradient_penalty_equals_that_of_float64(name, dtype):
    def penalty_gradients(tensors):
        y = OPERATIONS[name](*tensors)
        gradients = torch.autograd.grad(y.square().sum(), tensors, create_graph=True, materialize_grads=True)
        penalty = sum(gradient.double().square().sum() for gradient in gradients)
        return torch.autograd.grad(penalty, tensors, materialize_grads=True)

    rough = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs(30, 20)]
    expected = penalty_gradients([tensor.detach().double().requires_grad_() for tensor in rough])
    for one, other in zip(penalty_gradients(rough), expected, strict=True):
        assert one.dtype == dtype
        assert (one.double() - other).norm() <= 20 * torch.finfo(dtype).eps * other.norm()


def r1_gradients(block, x):
    """The gradients of the parameters for the R1 penalty, the squared norm of the gradient of the input."""
    block.zero_grad()
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    return [parameter.grad for parameter in block.parameters()]


FORMS = list(functional.ALGORITHMS)


def trained(pairwise, algorithm, **options):
    torch.manual_seed(0)
    block = nl.NonLocal2d(4, pairwise=pairwise, algorithm=algorithm, **options).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}, {"subsample": 2}, {"norm": None}], ids=str)
@pytest.mark.parametrize("pairwise", FORMS)
def test_the_gradient_penalty_of_a_block_equals_the_definition(pairwise, options):
    torch.manual_seed(1)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    for algorithm in functional.ALGORITHMS[pairwise]:
        if algorithm == "fused" and pairwise == "gaussian":
            continue  # D = C is not V
        for train in (True, False):
            block = trained(pairwise, algorithm, **options).train(train)
            expected = r1_gradients(trained(pairwise, "dense", **options).train(train), x)
            torch.testing.assert_close(r1_gradients(block, x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pairwise", FORMS)
def test_the_gradient_penalty_of_a_compiled_block(pairwise):
    torch.manual_seed(1)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    block = trained(pairwise, functional.ALGORITHMS[pairwise][2])
    expected = r1_gradients(block, x)
    compiled = torch.compile(block, backend="eager")
    torch.testing.assert_close(r1_gradients(compiled, x), expected, rtol=1e-9, atol=1e-9)


N = 5500
MAP = 4 * N * N  # 121 MB; the definition holds about ten


def penalty_of_a_large_map(form, algorithm, normalize):
    """Return a gradient penalty. A small one runs first, since libraries initialize on first use."""
    options = {"algorithm": algorithm} | ({"normalize": normalize} if normalize else {})

    def run(positions):
        x = [torch.randn(1, positions, 4).requires_grad_() for _ in range(3)]
        if form == "concatenation":
            x[:2] = [torch.randn(1, positions).requires_grad_() for _ in range(2)]

        def penalty():
            y = getattr(functional, form)(*x, **options)
            gradients = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            sum(gradient.square().sum() for gradient in gradients).backward()

        return penalty

    run(64)()
    return run(N)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [("embedded_gaussian", "auto", "keys"), ("embedded_gaussian", "tiled", "queries"), ("concatenation", "auto", None)],
    ids=str,
)
def test_a_gradient_penalty_needs_no_map(case):
    assert measure(penalty_of_a_large_map, *case, repeats=0).extra_bytes <= 1.5 * MAP
