"""Scores, logits and features that are infinite or NaN: the result is that of the definition, never a finite number."""

import itertools
import math

import pytest
import torch

from torch_nonlocal import functional

INF, NAN = math.inf, math.nan


def draw(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def run(operation, inputs, **options):
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    y = operation(*inputs, **options)
    return [y.detach(), *torch.autograd.grad(y.sum(), inputs)]


SCORES = [(-INF,), (INF,), (NAN,), (-INF, -INF), (-INF, INF), (-INF, NAN), (INF, INF)]


@pytest.mark.parametrize("values", SCORES, ids=str)
@pytest.mark.parametrize("place", ["a", "b", "both"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_scores_that_are_not_finite(values, place, dtype):
    a, b, g = draw((2, 9), (2, 7), (2, 7, 3), dtype=dtype)
    for scores in {"a": [a], "b": [b], "both": [a, b]}[place]:
        scores[0, : len(values)] = torch.tensor(values)
    fast = run(functional.concatenation, [a, b, g], algorithm="sorted")
    slow = run(functional.concatenation, [a, b, g], algorithm="dense")
    torch.testing.assert_close(fast, slow, equal_nan=True)


@pytest.mark.parametrize("query", [-INF, 0.5])
def test_keys_that_are_all_excluded_add_nothing(query):
    (g,) = draw((1, 4, 3))
    a, b = torch.full((1, 5), query, dtype=torch.float64), torch.full((1, 4), -INF, dtype=torch.float64)
    for result in run(functional.concatenation, [a, b, g]):
        assert not result.any()


def test_the_gradient_penalty_with_excluded_keys():
    a, b, g = draw((1, 9), (1, 7), (1, 7, 3))
    b[0, :2], a[0, 4] = -INF, -INF
    penalties = []
    for algorithm in ("sorted", "dense"):
        x = [tensor.clone().requires_grad_() for tensor in (a, b, g)]
        gradients = torch.autograd.grad(
            functional.concatenation(*x, algorithm=algorithm).square().sum(), x, create_graph=True
        )
        penalties.append(torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), x))
    torch.testing.assert_close(*penalties)


FEATURES = list(itertools.product([NAN, INF, -INF], [0, 1, 2], [3, 8, 40]))


@pytest.mark.parametrize(("value", "place", "keys"), FEATURES)
@pytest.mark.parametrize("algorithm", ["tiled", "fused", "queries"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_softmax_of_features_that_are_not_finite(value, place, keys, algorithm, dtype):
    inputs = draw((2, 9, 8), (2, keys, 8), (2, keys, 8), dtype=dtype)
    inputs[place][0, 1, 3] = value
    options = {"normalize": "queries"} if algorithm == "queries" else {"algorithm": algorithm}
    fast = run(functional.embedded_gaussian, inputs, **options)
    slow = run(functional.embedded_gaussian, inputs, **{**options, "algorithm": "dense"})
    for one, other in zip(fast, slow, strict=True):
        assert torch.equal(one.isfinite(), other.isfinite())


@pytest.mark.parametrize("keys", [1, 3, 8, 40])
@pytest.mark.parametrize("algorithm", ["tiled", "fused"])
def test_logits_that_are_all_minus_infinity_are_nan(algorithm, keys):
    theta, phi, g = draw((2, 9, 8), (2, keys, 8), (2, keys, 8), dtype=torch.float32)
    theta[0, 4], phi = -INF, phi.abs()
    y = functional.embedded_gaussian(theta, phi, g, algorithm=algorithm)
    expected = functional.embedded_gaussian(theta, phi, g, algorithm="dense")
    assert expected[0, 4].isnan().all()
    torch.testing.assert_close(y, expected, equal_nan=True)


@pytest.mark.parametrize("algorithm", ["tiled", "fused"])
def test_equal_logits_of_one_key_are_not_nan(algorithm):
    """The fused kernel returns the log sum 0 for them, as for logits that are all NaN."""
    g = torch.zeros(1, 1, 8)
    y = functional.embedded_gaussian(torch.zeros(1, 3, 8), torch.zeros(1, 1, 8), g, algorithm=algorithm)
    assert torch.equal(y, torch.zeros(1, 3, 8))


@pytest.mark.parametrize("algorithm", ["auto", "tiled", "dense"])
def test_a_bias_that_excludes_all_keys_is_nan(algorithm):
    theta, phi, g, bias = draw((2, 9, 8), (2, 6, 8), (2, 6, 8), (2, 6))
    bias[1] = -INF
    results = run(
        lambda *x: functional.embedded_gaussian(*x[:3], key_bias_BM=x[3], algorithm=algorithm), [theta, phi, g, bias]
    )
    for result in results:
        assert result[0].isfinite().all()
        assert result[1].isnan().all()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_dot_product_of_nan(place):
    inputs = draw((2, 9, 8), (2, 7, 8), (2, 7, 8))
    inputs[place][0, 1, 3] = NAN
    fast = run(functional.dot_product, inputs, algorithm="reassociated")
    slow = run(functional.dot_product, inputs, algorithm="dense")
    for one, other in zip(fast, slow, strict=True):
        assert (one.isnan() | ~other.isnan()).all()  # NaN wherever the definition is


@pytest.mark.parametrize("place", ["g", "dy"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_concatenation_of_features_that_are_not_finite(place, value):
    a, b, g, dy = draw((2, 9), (2, 7), (2, 7, 3), (2, 9, 3))
    (g if place == "g" else dy)[0, 2, 1] = value
    results = []
    for algorithm in ("sorted", "dense"):
        x = [tensor.clone().requires_grad_() for tensor in (a, b, g)]
        y = functional.concatenation(*x, algorithm=algorithm)
        results.append([y.detach(), *torch.autograd.grad(y, x, dy)])
    for one, other in zip(*results, strict=True):
        assert (~one.isfinite() | other.isfinite()).all()  # not finite wherever the definition is not
