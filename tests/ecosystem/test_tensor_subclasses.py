"""Tensors of other packages, which override methods of PyTorch's."""

import pytest
import torch
from packages import package
from torch import nn

import torch_nonlocal as nl

FORMS = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")


@pytest.mark.parametrize("pairwise", FORMS)
@pytest.mark.parametrize("size", [6, 12])  # small maps take other algorithms
def test_monai_meta_tensors(pairwise, size):
    meta = package("monai.data").MetaTensor
    block = nl.NonLocal3d(8, pairwise=pairwise)
    nn.init.ones_(block.norm.weight)
    x = torch.randn(2, 8, size, size, size)
    for train in (True, False):
        expected, y = block.train(train)(x), block(meta(x))
        assert type(y) is meta
        torch.testing.assert_close(y.as_tensor(), expected)
        given = meta(x).requires_grad_()
        block(given).square().sum().backward()
        assert given.grad is not None
