"""AlexHex7/Non-local_pytorch and its copies: every form, dimension and option of the layout."""

import pytest
import torch
from agreement import assert_replaced_exactly, randomized
from layouts.alexhex7 import NLBlockND, NONLocalBlock1D, NONLocalBlock2D, NONLocalBlock3D

import torch_nonlocal as nl

FORMS = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
KINDS = {1: NONLocalBlock1D, 2: NONLocalBlock2D, 3: NONLocalBlock3D}
SIZES = {1: (12,), 2: (6, 7), 3: (3, 4, 6)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_form_and_dimension_computes_the_same(form, dims):
    for sub_sample in (True, False):
        block = randomized(KINDS[dims](8, form, sub_sample=sub_sample, bn_layer=sub_sample))
        assert_replaced_exactly(block, torch.randn(2, 8, *SIZES[dims]))


@pytest.mark.parametrize("form", FORMS)
def test_the_layout_of_tea1528_computes_the_same(form):
    assert_replaced_exactly(randomized(NLBlockND(8, form)), torch.randn(2, 8, 5, 6))


def test_a_call_for_the_map_is_answered_by_the_modules_own_code():
    block = randomized(NONLocalBlock2D(8, "embedded_gaussian")).eval()
    x = torch.randn(1, 8, 6, 6)
    expected, expected_map = block(x, return_nl_map=True)
    nl.replace(block)
    actual, actual_map = block(x, return_nl_map=True)
    assert torch.equal(actual, expected)
    assert torch.equal(actual_map, expected_map)
    torch.testing.assert_close(block(x), expected)


def test_the_map_is_gone_from_memory_predicted_for_the_example():
    block = NONLocalBlock2D(8, "embedded_gaussian", sub_sample=False).eval()
    (place,) = nl.replace(block, dry_run=True, example_input=torch.empty(1, 8, 80, 80)).found
    assert place.predicted is not None
    assert (place.predicted.queries, place.predicted.keys, place.predicted.map_bytes) == (6400, 6400, 4 * 6400**2)
    assert place.predicted.memory_before - place.predicted.memory_after > place.predicted.map_bytes
