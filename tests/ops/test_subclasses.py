"""Tensor subclasses, such as MONAI's MetaTensor: the values of plain tensors, and the type that convolutions return."""

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal import functional


class OneTuple(torch.Tensor):
    """new_empty and its relatives take one tuple, as those of MetaTensor do."""

    def new_empty(self, size, dtype=None, device=None, requires_grad=False):
        return self.as_subclass(torch.Tensor).new_empty(size=size, dtype=dtype, device=device)

    def new_zeros(self, size, dtype=None, device=None, requires_grad=False):
        return self.as_subclass(torch.Tensor).new_zeros(size=size, dtype=dtype, device=device)


class Strict(OneTuple):
    """Indexing raises: the items of a MetaTensor differ from those of a tensor."""

    def __getitem__(self, index):
        raise AssertionError("indexed")


ALGORITHMS = [
    (form, name)
    for form, names in functional.ALGORITHMS.items()
    for name in names
    if (form, name) != ("gaussian", "fused")
]


@pytest.mark.parametrize(("form", "algorithm"), ALGORITHMS)
@pytest.mark.parametrize("options", [{}, {"subsample": 2}, {"checkpoint": True}], ids=str)
@pytest.mark.parametrize("kind", [OneTuple, Strict])
def test_blocks_take_subclasses(form, algorithm, options, kind):
    torch.manual_seed(0)
    block = nl.NonLocal3d(4, pairwise=form, algorithm=algorithm, **options)
    nn.init.ones_(block.norm.weight)
    results = []
    for of in (torch.Tensor, kind):
        x = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0)).as_subclass(of).requires_grad_()
        block.zero_grad()
        y = block.train()(x)
        y.square().sum().backward()
        gradients = [parameter.grad.as_subclass(torch.Tensor) for parameter in block.parameters()]
        inference = block.eval()(x.detach())
        assert type(y) is type(inference) is type(block.g(x)) is of
        results.append([tensor.detach().as_subclass(torch.Tensor) for tensor in (y, inference, x.grad, *gradients)])
        for module in block.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.reset_running_stats()
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("form", "algorithm"), ALGORITHMS)
def test_functions_take_subclasses(form, algorithm):
    draw = lambda *size: torch.randn(*size, generator=torch.Generator().manual_seed(0))  # noqa: E731
    inputs = [draw(2, 7, 4), draw(2, 5, 4), draw(2, 5, 4)]
    if form == "concatenation":
        inputs[:2] = draw(2, 7), draw(2, 5)
    expected = getattr(functional, form)(*inputs, algorithm=algorithm)
    y = getattr(functional, form)(*(tensor.as_subclass(OneTuple) for tensor in inputs), algorithm=algorithm)
    torch.testing.assert_close(y.as_subclass(torch.Tensor), expected)
