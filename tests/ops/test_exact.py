"""All algorithms against the definition, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_nonlocal import functional

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def draw(device, dtype, *shapes, seed=0, layout="positions"):
    """Random tensors (B, P, W): position-major, channel-major like a convolution's output, or slices of larger ones."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for shape in shapes:
        if layout == "channels" and len(shape) == 3:
            batch, positions, width = shape
            tensor = torch.randn(batch, width, positions, generator=generator, dtype=torch.float64).transpose(1, 2)
        elif layout == "sliced":
            tensor = torch.randn(*shape[:-1], 2 * shape[-1], generator=generator, dtype=torch.float64)[..., ::2]
        else:
            tensor = torch.randn(*shape, generator=generator, dtype=torch.float64)
        tensors.append(tensor.to(dtype).to(device))
    return tensors


def run(operation, inputs, dy, **options):
    """Return the output and the gradients of all inputs."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    y = operation(*inputs, **options)
    return [y.detach(), *torch.autograd.grad(y, inputs, dy)]


def relative_error(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-300))


def assert_exact(operation, inputs, dy, algorithm, **options):
    """Assert a relative error to the float64 definition of at most 1e-5 in float32 and 1e-12 in float64."""
    fast = run(operation, inputs, dy, algorithm=algorithm, **options)
    slow = run(operation, [tensor.double() for tensor in inputs], dy.double(), algorithm="dense", **options)
    limit = 1e-12 if inputs[0].dtype == torch.float64 else 1e-5
    for one, other in zip(fast, slow, strict=True):
        assert one.shape == other.shape
        assert relative_error(one, other) <= limit


SHAPES = [  # B, N, M, D, V
    (1, 1, 1, 1, 1),
    (2, 5, 1, 3, 3),
    (1, 1, 7, 2, 2),
    (2, 37, 53, 8, 8),
    (1, 700, 650, 16, 16),  # more than one tile of queries
    (3, 20, 30, 5, 9),
    (2, 30, 20, 9, 4),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["positions", "channels", "sliced"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
class TestEveryShape:
    def test_softmax(self, device, dtype, layout, shape):
        B, N, M, D, V = shape
        *inputs, dy = draw(device, dtype, (B, N, D), (B, M, D), (B, M, V), (B, N, V), layout=layout)
        assert_exact(functional.embedded_gaussian, inputs, dy, "tiled", scale=0.7)
        assert_exact(functional.embedded_gaussian, inputs, dy, "tiled", scale=0.7, normalize="queries")
        assert_exact(functional.embedded_gaussian, inputs, dy, "auto")
        if D == V and device == "cpu":
            assert_exact(functional.embedded_gaussian, inputs, dy, "fused", scale=0.7)

    def test_dot_product(self, device, dtype, layout, shape):
        B, N, M, D, V = shape
        *inputs, dy = draw(device, dtype, (B, N, D), (B, M, D), (B, M, V), (B, N, V), layout=layout)
        assert_exact(functional.dot_product, inputs, dy, "reassociated")

    def test_concatenation(self, device, dtype, layout, shape):
        B, N, M, _, V = shape
        *inputs, dy = draw(device, dtype, (B, N), (B, M), (B, M, V), (B, N, V), layout=layout)
        assert_exact(functional.concatenation, inputs, dy, "sorted")


sizes = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(B=st.integers(1, 3), N=sizes, M=sizes, D=st.integers(1, 12), V=st.integers(1, 12), seed=st.integers(0, 999))
@pytest.mark.parametrize("form", ["keys", "queries", "dot", "concatenation"])
def test_any_shape(form, B, N, M, D, V, seed):
    if form == "concatenation":
        *inputs, dy = draw("cpu", torch.float64, (B, N), (B, M), (B, M, V), (B, N, V), seed=seed)
        assert_exact(functional.concatenation, inputs, dy, "sorted")
        return
    *inputs, dy = draw("cpu", torch.float64, (B, N, D), (B, M, D), (B, M, V), (B, N, V), seed=seed)
    if form == "dot":
        assert_exact(functional.dot_product, inputs, dy, "reassociated")
    else:
        assert_exact(functional.embedded_gaussian, inputs, dy, "tiled", normalize=form)


def test_kept_and_recomputed_weights_agree():
    from torch_nonlocal.ops import tiled

    *inputs, dy = draw("cpu", torch.float32, (2, 300, 8), (2, 200, 8), (2, 200, 5), (2, 300, 5))
    for normalize in ("keys", "queries"):
        kept = run(tiled.softmax, inputs, dy, keep=True, normalize=normalize)
        again = run(tiled.softmax, inputs, dy, keep=False, normalize=normalize)
        for one, other in zip(kept, again, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_key_bias_and_its_gradient():
    theta, phi, g, bias, dy = draw("cpu", torch.float64, (2, 9, 4), (2, 6, 4), (2, 6, 3), (2, 6), (2, 9, 3))
    operation = lambda t, p, v, b, **options: functional.embedded_gaussian(t, p, v, key_bias_BM=b, **options)  # noqa: E731
    assert_exact(operation, [theta, phi, g, bias], dy, "tiled")
    assert_exact(operation, [theta, phi, g, bias], dy, "auto")


def test_a_bias_of_minus_infinity_excludes_keys():
    theta, phi, g = draw("cpu", torch.float32, (1, 9, 4), (1, 6, 4), (1, 6, 3))
    bias = torch.zeros(1, 6)
    bias[:, 4:] = -torch.inf
    expected = functional.embedded_gaussian(theta, phi[:, :4], g[:, :4], algorithm="dense")
    torch.testing.assert_close(functional.embedded_gaussian(theta, phi, g, key_bias_BM=bias), expected)


@pytest.mark.parametrize("algorithm", ["tiled", "fused"])
def test_large_logits(algorithm):
    # The weights are nearly one-hot and the gradients of theta and phi vanish: errors are relative to that of g.
    *inputs, dy = draw("cpu", torch.float64, (1, 40, 8), (1, 50, 8), (1, 50, 8), (1, 40, 8))
    inputs[0] *= 300
    fast = run(functional.embedded_gaussian, inputs, dy, algorithm=algorithm)
    slow = run(functional.embedded_gaussian, inputs, dy, algorithm="dense")
    for one, other in zip(fast, slow, strict=True):
        assert (one - other).norm() <= 1e-12 * slow[3].norm()
    single = [tensor.float() for tensor in inputs]
    for result in run(functional.embedded_gaussian, single, dy.float(), algorithm=algorithm):
        assert torch.isfinite(result).all()


class TestSortedScores:
    """The sorted algorithm for inputs that are difficult to sort."""

    def check(self, a, b, dtype=torch.float64):
        g, dy = draw("cpu", dtype, (1, b.shape[1], 4), (1, a.shape[1], 4), seed=3)
        assert_exact(functional.concatenation, [a.to(dtype), b.to(dtype), g], dy, "sorted")

    def test_ties_and_exact_zeros(self):
        a = torch.tensor([[1.0, 1.0, -2.0, 0.0, 0.5, -0.0]])
        b = torch.tensor([[-1.0, -1.0, 2.0, 0.0, 0.0, -0.5, 2.0]])
        self.check(a, b)
        self.check(a, b, torch.float32)

    def test_all_positive(self):
        self.check(torch.rand(1, 9) + 5, torch.rand(1, 11) + 5)

    def test_all_negative(self):
        a, b = -torch.rand(1, 9) - 5, -torch.rand(1, 11) - 5
        g = torch.randn(1, 11, 3)
        assert not functional.concatenation(a, b, g).any()

    def test_one_key(self):
        self.check(torch.randn(1, 9), torch.randn(1, 1))

    @pytest.mark.parametrize("shift", [0.0, 1e3])
    def test_float32_error_is_at_most_that_of_the_definition(self, shift):
        N = 3000
        a, b, g, dy = draw("cpu", torch.float32, (1, N), (1, N), (1, N, 16), (1, N, 16))
        a, b = a + shift, b - shift
        exact = run(functional.concatenation, [t.double() for t in (a, b, g)], dy.double(), algorithm="dense")
        ours = run(functional.concatenation, (a, b, g), dy, algorithm="sorted")
        plain = run(functional.concatenation, (a, b, g), dy, algorithm="dense")
        for true, one, other in zip(exact, ours, plain, strict=True):
            assert relative_error(one, true) <= max(relative_error(other, true), 1e-7)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["tiled", "queries", "fused", "reassociated", "sorted"])
def test_half_types_equal_the_float32_result_of_the_same_rounded_inputs(device, dtype, form):
    B, N, D = 2, 300, 16
    theta, phi, g, dy, a, b = draw(device, dtype, *[(B, N, D)] * 4, (B, N), (B, N), layout="channels")
    operation, inputs, options = {
        "tiled": (functional.embedded_gaussian, [theta, phi, g], {"algorithm": "tiled"}),
        "queries": (functional.embedded_gaussian, [theta, phi, g], {"normalize": "queries", "algorithm": "tiled"}),
        "fused": (functional.embedded_gaussian, [theta, phi, g], {"algorithm": "fused"}),
        "reassociated": (functional.dot_product, [theta, phi, g], {"algorithm": "reassociated"}),
        "sorted": (functional.concatenation, [a, b, g], {"algorithm": "sorted"}),
    }[form]
    half = run(operation, inputs, dy, **options)
    full = run(operation, [t.float() for t in inputs], dy.float(), **{**options, "algorithm": "dense"})
    for one, other in zip(half, full, strict=True):
        assert one.dtype == dtype
        assert relative_error(one, other) <= 2 * torch.finfo(dtype).eps


def test_gradients_of_sums_beyond_the_range_of_float16():
    N = 3000
    a, b = torch.ones(1, N, dtype=torch.float16), torch.ones(1, N, dtype=torch.float16)
    g, dy = torch.full((1, N, 2), 100.0, dtype=torch.float16), torch.full((1, N, 2), 0.01, dtype=torch.float16)
    half = run(functional.concatenation, [a, b, g], dy, algorithm="sorted")
    full = run(functional.concatenation, [a.float(), b.float(), g.float()], dy.float(), algorithm="dense")
    for one, other in zip(half, full, strict=True):
        assert relative_error(one, other) <= 2 * torch.finfo(torch.float16).eps


@pytest.mark.parametrize("algorithm", ["tiled", "fused"])
def test_gradcheck_softmax(algorithm):
    inputs = [t.requires_grad_() for t in draw("cpu", torch.float64, (2, 5, 3), (2, 4, 3), (2, 4, 3))]
    operation = lambda *qkv: functional.embedded_gaussian(*qkv, scale=0.5, algorithm=algorithm)  # noqa: E731
    assert torch.autograd.gradcheck(operation, inputs)


def test_gradcheck_concatenation():
    inputs = [t.requires_grad_() for t in draw("cpu", torch.float64, (2, 5), (2, 4), (2, 4, 3))]
    assert torch.autograd.gradcheck(lambda *abg: functional.concatenation(*abg, algorithm="sorted"), inputs)


def test_gradients_of_some_inputs_only():
    theta, phi, g, a, b = draw("cpu", torch.float64, (1, 5, 3), (1, 4, 3), (1, 4, 3), (1, 5), (1, 4))
    for operation, inputs in ((functional.embedded_gaussian, (theta, phi, g)), (functional.concatenation, (a, b, g))):
        for chosen in range(3):
            grads = []
            for algorithm in ("auto", "dense"):
                one = [t.clone().requires_grad_(i == chosen) for i, t in enumerate(inputs)]
                operation(*one, algorithm=algorithm).square().sum().backward()
                grads.append(one[chosen].grad)
            torch.testing.assert_close(*grads)


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("batch", [1, 2])
def test_fused_does_not_depend_on_the_number_of_threads(threads, batch):
    """The queries are split into heads by the number of threads, also with padded and with empty queries."""
    before = torch.get_num_threads()
    *inputs, dy = draw("cpu", torch.float32, (batch, 13, 8), (batch, 5, 8), (batch, 5, 8), (batch, 13, 8))
    torch.set_num_threads(threads)
    try:
        assert_exact(functional.embedded_gaussian, inputs, dy, "fused", scale=0.7)
    finally:
        torch.set_num_threads(before)
