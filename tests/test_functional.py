"""Error messages of `functional`."""

import pytest
import torch

from torch_nonlocal import functional


def shaped(*sizes):
    return [torch.zeros(size) for size in sizes]


@pytest.mark.parametrize("form", [functional.gaussian, functional.embedded_gaussian, functional.dot_product])
@pytest.mark.parametrize(
    "sizes",
    [
        ((1, 4, 3), (1, 5, 2), (1, 5, 3)),  # inner widths
        ((1, 4, 3), (1, 5, 3), (1, 6, 3)),  # key counts
        ((2, 4, 3), (1, 5, 3), (1, 5, 3)),  # batches
        ((4, 3), (5, 3), (5, 3)),  # no batch axis
    ],
)
def test_disagreeing_shapes_raise_with_the_shapes(form, sizes):
    with pytest.raises(ValueError, match=r"theta \(B, N, D\).*got theta \(.*phi \(.*g \("):
        form(*shaped(*sizes))


@pytest.mark.parametrize(
    "sizes",
    [((1, 4), (1, 5), (1, 6, 3)), ((1, 4), (2, 5), (2, 5, 3)), ((1, 4, 1), (1, 5), (1, 5, 3))],
)
def test_disagreeing_scores_raise_with_the_shapes(sizes):
    with pytest.raises(ValueError, match=r"a \(B, N\), b \(B, M\).*got a \("):
        functional.concatenation(*shaped(*sizes))


def test_no_keys_raise():
    with pytest.raises(ValueError, match="expected at least one key, got M = 0"):
        functional.embedded_gaussian(*shaped((1, 4, 3), (1, 0, 3), (1, 0, 3)))


@pytest.mark.parametrize(("option", "value"), [("normalize", "rows"), ("algorithm", "fast")])
def test_an_unknown_choice_raises_with_the_known_ones(option, value):
    with pytest.raises(ValueError, match=f"{option}='{value}': expected one of '"):
        functional.embedded_gaussian(*shaped((1, 4, 3), (1, 5, 3), (1, 5, 3)), **{option: value})
