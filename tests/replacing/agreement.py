"""Comparison of a module of another project before and after `nl.replace`."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import torch_nonlocal as nl


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give all parameters random values: a norm initialized to zero would hide what the module computes."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * spread)
    return module


def results(model: nn.Module, x: Tensor, **kwargs: Any) -> dict[str, Tensor]:
    """Outputs, gradients of the input and the parameters, and buffers after a run in train mode."""
    x = x.detach().clone().requires_grad_()
    model.zero_grad(set_to_none=True)
    outputs = [one for one in tree_leaves(model(x, **kwargs)) if isinstance(one, Tensor)]
    draw = torch.Generator().manual_seed(1)
    torch.stack(
        [(one * torch.randn(one.shape, generator=draw, dtype=one.dtype)).sum() for one in outputs]
    ).sum().backward()
    found = {f"output {number}": one.detach() for number, one in enumerate(outputs)} | {"input": x.grad}
    found |= {name: one.grad for name, one in model.named_parameters()}
    return {name: one for name, one in (found | dict(model.named_buffers())).items() if one is not None}


def assert_replaced_exactly(
    model: nn.Module, x: Tensor, names: list[str] | None = None, tolerance: float = 1e-8
) -> None:
    """Assert that a replaced model gives the same outputs, gradients and statistics, and that restore gives it back.

    Args:
        model: the model; it runs in float64.
        x: its input.
        names: the places that must be replaced; by default the model itself.
        tolerance: of the largest value of each result, or of a millionth of the largest of all for those that are zero.
    """
    model = model.double()
    x = x.double()
    for training in (True, False):
        model.train(training)
        before = copy.deepcopy(model)
        expected = results(before, x)
        parameters = dict(model.named_parameters())
        keys, kinds = list(model.state_dict()), [type(one) for one in model.modules()]
        report = nl.replace(model)
        assert report.replaced == (names or [""]), str(report)
        actual = results(model, x)
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            floor = 1e-6 * max(float(one.abs().max()) for one in expected.values())
            error = float((actual[name] - value).abs().max() / value.abs().max().clamp(min=floor))
            assert error < tolerance, f"{name} differs by {error:.1e}"
        assert list(model.state_dict()) == keys
        assert all(parameters[name] is one for name, one in model.named_parameters())
        assert nl.restore(model) is model
        assert [type(one) for one in model.modules()] == kinds
        model.load_state_dict(before.state_dict())
        assert torch.equal(results(model, x)["output 0"], results(before, x)["output 0"])
