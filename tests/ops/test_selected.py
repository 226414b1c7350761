"""Selection of keys, top-k and hard: the definition in plain operations is the judge, forward and backward."""

import re
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from torch_nonlocal import functional
from torch_nonlocal.benchmark.meter import measure
from torch_nonlocal.ops import _second, noise

SELECTIONS = {
    "top-1": {"top_k": 1},
    "top-5": {"top_k": 5},
    "hard": {"hard": True, "temperature": 0.5},
    "gumbel": {"hard": "gumbel", "temperature": 2.0},
}
SHAPES = [  # B, N, M, D, V
    (1, 1, 5, 1, 1),
    (2, 37, 53, 8, 5),
    (1, 700, 650, 16, 16),  # more than one tile of queries
    (3, 20, 300, 5, 9),
]


def draw(*shapes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def inputs(B, N, M, D, V, dtype=torch.float64):
    return draw((B, N, D), (B, M, D), (B, M, V), (B, M), (B, N, V), dtype=dtype)


def run(operation, tensors, dy, seed=3):
    x = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    torch.manual_seed(seed)
    y = operation(*x)
    return [y.detach(), *torch.autograd.grad(y, x, dy)]


def select(algorithm: Any = "tiled", **options: Any):
    def operation(theta, phi, g, bias=None):
        return functional.embedded_gaussian(theta, phi, g, scale=0.7, key_bias_BM=bias, algorithm=algorithm, **options)

    return operation


def by_hand(top_k=None, hard=False, temperature=1.0):
    """The formulas, without this package; noise from the same seeds."""

    def operation(theta, phi, g, bias=None):
        logits = 0.7 * torch.einsum("bnd,bmd->bnm", theta, phi)
        if bias is not None:
            logits = logits + bias[:, None]
        if top_k is not None:
            least = logits.sort(-1, descending=True).values[..., top_k - 1 : top_k]
            return torch.where(logits >= least, logits, -torch.inf).softmax(-1) @ g
        if hard == "gumbel":
            seeds = noise.draw_seeds(*theta.shape[:2])
            logits = logits + noise.whole_noise(seeds, theta, phi)
        soft = (logits / temperature).softmax(-1)
        return (F.one_hot(logits.argmax(-1), phi.shape[1]) - soft.detach() + soft) @ g

    return operation


def error(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-300))


@pytest.mark.parametrize("algorithm", ["tiled", "dense", "auto"])
@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_formula(shape, name, algorithm):
    *x, dy = inputs(*shape)
    expected = run(by_hand(**SELECTIONS[name]), x, dy)
    found = run(select(algorithm, **SELECTIONS[name]), x, dy)
    single = run(select(algorithm, **SELECTIONS[name]), [t.float() for t in x], dy.float())
    zero = 1e-300  # the gradients of theta, phi and bias vanish if a query has one key
    for one, rough, true in zip(found, single, expected, strict=True):
        scale = true.norm().clamp_min(zero)
        assert (one - true).norm() <= 1e-12 * scale.clamp_min(1e-3)
        assert (rough.double() - true).norm() <= 1e-5 * scale.clamp_min(1e-3)


@pytest.mark.parametrize("algorithm", ["tiled", "dense"])
def test_all_keys_are_soft(algorithm):
    *x, dy = inputs(2, 9, 7, 4, 3)
    for one, other in zip(run(select(algorithm, top_k=7), x, dy), run(select("dense"), x, dy), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("algorithm", ["tiled", "dense"])
def test_excluded_keys_are_not_selected_if_fewer_than_k_are_left(algorithm):
    theta, phi, g, _, dy = inputs(1, 9, 12, 4, 3)
    bias = torch.zeros(1, 12, dtype=torch.float64)
    bias[:, 3:] = -torch.inf
    few = run(select(algorithm, top_k=5), [theta, phi, g, bias], dy)
    expected = run(select("dense"), [theta, phi[:, :3], g[:, :3]], dy)
    torch.testing.assert_close(few[0], expected[0])
    torch.testing.assert_close(few[1], expected[1])
    for one, other in zip(few[2:4], expected[2:], strict=True):
        torch.testing.assert_close(one[:, :3], other)
        assert not one[:, 3:].any()
    hard = run(select(algorithm, hard=True), [theta, phi, g, bias], dy)
    assert not hard[3][:, 3:].any()


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_equal_the_float32_result_of_the_same_rounded_inputs(dtype, name):
    *x, dy = inputs(2, 150, 130, 16, 16, dtype=dtype)
    x = x[:3]
    half = run(select("auto", **SELECTIONS[name]), x, dy)
    full = run(select("tiled", **SELECTIONS[name]), [t.float() for t in x], dy.float())
    for one, other in zip(half, full, strict=True):
        assert one.dtype == dtype
        assert (one.float() - other).norm() <= 2 * torch.finfo(dtype).eps * other.norm().clamp_min(1.0)


@pytest.mark.parametrize("algorithm", ["tiled", "dense"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_autocast(name, algorithm):
    *x, dy = inputs(2, 40, 30, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(select(algorithm, **SELECTIONS[name]), x[:3], dy.bfloat16())
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, *[torch.float32] * 3]
    assert all(tensor.isfinite().all() for tensor in found)


@pytest.mark.parametrize("name", SELECTIONS)
def test_second_derivatives(name, monkeypatch):
    monkeypatch.setattr(_second, "PART_BYTES", 1)  # parts of the fewest positions
    *x, _ = inputs(2, 90 if name == "gumbel" else 18, 7, 2, 2)

    def penalty(algorithm):
        tensors = [tensor.clone().requires_grad_() for tensor in x]
        torch.manual_seed(0)
        y = select(algorithm, **SELECTIONS[name])(*tensors)
        gradients = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
        return torch.autograd.grad(torch.stack([one.square().sum() for one in gradients]).sum(), tensors)

    for one, other in zip(penalty("tiled"), penalty("dense"), strict=True):
        torch.testing.assert_close(one, other)


def test_top_k_gradcheck():
    *x, _ = inputs(2, 6, 9, 3, 2)
    tensors = [tensor.requires_grad_() for tensor in x]
    assert torch.autograd.gradcheck(select(top_k=3), tensors)
    assert torch.autograd.gradgradcheck(select(top_k=3), tensors, check_batched_grad=False)


@pytest.mark.parametrize("algorithm", ["tiled", "dense"])
@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_give_nan(value, name, algorithm):
    theta, phi, g = draw((1, 5, 4), (1, 40, 4), (1, 40, 3), dtype=torch.float32)
    theta[0, 2, 0], phi[..., 0] = value, phi[..., 0].abs()
    y = select(algorithm, **SELECTIONS[name])(theta, phi, g)
    assert y[0, 2].isnan().all()
    assert y[0, [0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("algorithm", ["tiled", "dense"])
@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("sizes", [(0, 5, 6, 4, 4), (2, 0, 6, 4, 4), (2, 5, 6, 0, 4), (2, 5, 6, 4, 0)], ids=str)
def test_empty_inputs(sizes, name, algorithm):
    *x, dy = inputs(*sizes)
    found = run(select(algorithm, **SELECTIONS[name]), x, dy)
    assert [tensor.shape for tensor in found] == [dy.shape, *(tensor.shape for tensor in x)]
    assert not found[2].any()


class TestGumbel:
    def test_the_seed_determines_the_noise(self):
        theta, phi, g = draw((2, 70, 4), (2, 30, 4), (2, 30, 3))
        operation = select(hard="gumbel")
        torch.manual_seed(1)
        first, second = operation(theta, phi, g), operation(theta, phi, g)
        torch.manual_seed(1)
        assert torch.equal(operation(theta, phi, g), first)
        assert not torch.equal(first, second)
        torch.manual_seed(1)
        assert torch.equal(select("dense", hard="gumbel")(theta, phi, g), first)

    def test_a_key_is_drawn_with_the_probability_of_its_soft_weight(self):
        count = 40_000
        theta, phi = torch.ones(1, count, 1), torch.tensor([[[0.0], [1.0], [2.0], [-1.0]]])
        torch.manual_seed(0)
        y = functional.embedded_gaussian(theta, phi, torch.eye(4)[None], hard="gumbel", temperature=0.3)
        expected = torch.softmax(phi[0, :, 0], 0)
        assert (y[0].mean(0) - expected).abs().max() < 4 * 0.5 / count**0.5

    def test_noise_follows_the_gumbel_distribution(self):
        torch.manual_seed(0)
        drawn = noise.whole_noise(noise.draw_seeds(2, 300), torch.empty(2, 300, 1), torch.empty(2, 200, 1))
        assert drawn.isfinite().all()
        assert abs(float(drawn.mean()) - 0.57722) < 0.02
        assert abs(float(drawn.var()) - torch.pi**2 / 6) < 0.05


@pytest.mark.parametrize("name", ["top-5", "gumbel"])
def test_compiled(name):
    *x, dy = inputs(2, 90, 70, 8, 8, dtype=torch.float32)
    operation = select("tiled", **SELECTIONS[name])
    eager = run(operation, x, dy)
    compiled = run(torch.compile(operation, fullgraph=True, backend="aot_eager"), x, dy)
    torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize("name", SELECTIONS)
def test_vmap_uses_the_definition(name):
    theta, phi, g = draw((3, 2, 9, 4), (3, 2, 8, 4), (3, 2, 8, 3))
    operation = select("auto", **SELECTIONS[name])
    y = torch.vmap(operation, randomness="different")(theta, phi, g)
    if name != "gumbel":
        torch.testing.assert_close(y, torch.stack([operation(*one) for one in zip(theta, phi, g, strict=True)]))
    assert y.shape == (3, 2, 9, 3)


REFUSED = [
    ({"top_k": 9}, "top_k=9: expected at most the number of keys, M = 8"),
    ({"top_k": 0}, "top_k=0: expected None or a number of keys, at least 1"),
    ({"top_k": 2.0}, "top_k=2.0"),
    ({"top_k": True}, "top_k=True"),
    ({"hard": "soft"}, "hard='soft': expected False, True or 'gumbel'"),
    ({"hard": 1}, "hard=1: expected False"),
    ({"hard": True, "temperature": 0.0}, "temperature=0.0: expected a finite number above 0"),
    ({"hard": "gumbel", "temperature": -1}, "temperature=-1"),
    ({"hard": True, "temperature": float("nan")}, "temperature=nan"),
    ({"hard": True, "temperature": "1"}, "temperature='1'"),
    ({"temperature": 2.0}, "temperature=2.0 applies to hard=True and hard='gumbel'"),
    ({"top_k": 2, "temperature": 2.0}, "temperature=2.0 applies to hard"),
    ({"top_k": 2, "hard": True}, "top_k=2 and hard=True exclude each other"),
    ({"top_k": 2, "normalize": "queries"}, "normalize='queries' normalizes the weights of each key"),
    ({"hard": True, "normalize": "queries"}, "hard=True selects keys of each query"),
    ({"top_k": 2, "frames": 4}, "top_k=2 selects among all keys; with causal frames"),
    ({"hard": "gumbel", "frames": 4}, "hard='gumbel' selects among all keys"),
    ({"top_k": 2, "algorithm": "fused"}, "algorithm='fused' does not support top_k=2"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value))
def test_refused_with_the_reason(options, message):
    theta, phi, g = draw((1, 8, 4), (1, 8, 4), (1, 8, 4))
    with pytest.raises(ValueError, match=re.escape(message)):
        functional.embedded_gaussian(theta, phi, g, **options)


def test_gaussian_selects_too():
    x, g = draw((1, 9, 4), (1, 9, 3))
    torch.testing.assert_close(
        functional.gaussian(x, x, g, top_k=3), functional.embedded_gaussian(x, x, g, top_k=3, algorithm="dense")
    )


N = 12544
MAP = 4 * N * N  # 600 MB


def forward_backward(options):
    def step(positions):
        x = [torch.randn(1, 8, positions).mT.requires_grad_() for _ in range(3)]
        return lambda: functional.embedded_gaussian(*x, **options).sum().backward()

    step(64)()
    return step(N)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"top_k": 8}, {"hard": True}], ids=str)
def test_memory_grows_with_n_not_n_squared(options):
    assert measure(forward_backward, options, repeats=0).extra_bytes <= 128 * 2**20 < MAP / 4
