"""The definition: outputs against a double loop over positions, gradients against finite differences."""

import math

import pytest
import torch

from torch_nonlocal import functional
from torch_nonlocal.ops import dense

SHAPES = [  # B, N, M, D, V
    (1, 1, 1, 1, 1),
    (2, 5, 5, 3, 3),
    (2, 7, 3, 4, 2),
    (1, 3, 8, 2, 6),
]


def features(shape, seed=0):
    B, N, M, D, V = shape
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(B, N, D), draw(B, M, D), draw(B, M, V)


def double_loop(f, normalize, queries, keys, g):
    """Compute y_i = sum_j f(i, j) / C g_j one scalar at a time."""
    B, N, M = g.shape[0], queries.shape[1], keys.shape[1]
    y = torch.zeros(B, N, g.shape[2], dtype=torch.float64)
    for b in range(B):
        weights = [[f(queries[b, i], keys[b, j]) for j in range(M)] for i in range(N)]
        for i in range(N):
            for j in range(M):
                total = {
                    "keys": lambda i=i, weights=weights: sum(weights[i]),
                    "queries": lambda j=j, weights=weights: sum(row[j] for row in weights),
                    "count": lambda: M,
                }[normalize]()
                y[b, i] += weights[i][j] / total * g[b, j]
    return y


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalize", ["keys", "queries"])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_embedded_gaussian_equals_the_double_loop(shape, normalize, scale):
    theta, phi, g = features(shape)
    expected = double_loop(lambda q, k: math.exp(scale * float(q @ k)), normalize, theta, phi, g)
    y = functional.embedded_gaussian(theta, phi, g, scale=scale, normalize=normalize, algorithm="dense")
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_gaussian_equals_the_double_loop(shape):
    x_query, x_key, g = features(shape)
    expected = double_loop(lambda q, k: math.exp(float(q @ k)), "keys", x_query, x_key, g)
    y = functional.gaussian(x_query, x_key, g, algorithm="dense")
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_dot_product_equals_the_double_loop(shape):
    theta, phi, g = features(shape)
    expected = double_loop(lambda q, k: float(q @ k), "count", theta, phi, g)
    y = functional.dot_product(theta, phi, g, algorithm="dense")
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_concatenation_equals_the_double_loop_over_concatenated_pairs(shape):
    theta, phi, g = features(shape)
    w_f = torch.randn(2 * theta.shape[2], dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    w_theta, w_phi = w_f.split(theta.shape[2])
    expected = double_loop(lambda q, k: max(0.0, float(w_f @ torch.cat([q, k]))), "count", theta, phi, g)
    y = functional.concatenation(theta @ w_theta, phi @ w_phi, g, algorithm="dense")
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalize", ["keys", "queries"])
def test_softmax_gradients(normalize):
    inputs = [tensor.requires_grad_() for tensor in features((2, 4, 3, 2, 5))]
    operation = lambda *qkv: dense.softmax(*qkv, scale=0.7, normalize=normalize)  # noqa: E731
    assert torch.autograd.gradcheck(operation, inputs)
    assert torch.autograd.gradgradcheck(operation, inputs)


def test_dot_product_gradients():
    inputs = [tensor.requires_grad_() for tensor in features((2, 4, 3, 2, 5))]
    assert torch.autograd.gradcheck(dense.dot_product, inputs)


def test_concatenation_gradients():
    theta, phi, g = features((2, 4, 3, 2, 5))
    inputs = [theta[..., 0].clone().requires_grad_(), phi[..., 0].clone().requires_grad_(), g.requires_grad_()]
    assert torch.autograd.gradcheck(dense.concatenation, inputs)


def test_softmax_is_finite_for_large_logits():
    theta = torch.tensor([[[300.0], [-300.0]]])
    g = torch.tensor([[[1.0], [2.0]]])
    torch.testing.assert_close(dense.softmax(theta, theta, g), g)


def test_row_softmax_of_theta_phi_equals_column_softmax_of_phi_theta():
    theta, phi, g = features((1, 4, 6, 3, 2))
    columns = torch.softmax(phi @ theta.mT, dim=-2)
    torch.testing.assert_close(dense.softmax(theta, phi, g), (g.mT @ columns).mT, rtol=1e-12, atol=1e-12)
