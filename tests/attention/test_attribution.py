"""Contributions against their definitions, and a model that is unchanged afterwards."""

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.attention import added_magnitudes, gradient_times_activation


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1)).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(1))


def test_gradient_times_activation_matches_autograd(model, images):
    found = gradient_times_activation(model, model[0], images, lambda scores: scores[:, 2].sum())
    features = model[0](images).detach().requires_grad_()
    model[3](model[2](torch.relu(features)))[:, 2].sum().backward()
    assert features.grad is not None
    torch.testing.assert_close(found, (features.grad * features.detach()).sum(1))
    assert found.shape == (2, 6, 7)


def test_contributions_of_a_linear_head_sum_to_the_target(model, images):
    found = gradient_times_activation(model, model[2], images, lambda scores: (scores[0, 1] - scores[0, 3]).sum())
    scores = model(images)[0, :, 0, 0].detach()
    assert found.sum().item() == pytest.approx(float(scores[1] - scores[3]), abs=1e-6)
    assert found[1].abs().max() == 0


def test_parameters_and_hooks_are_unchanged(model, images):
    model[0].requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with torch.no_grad():
        gradient_times_activation(model, model[2], images, lambda scores: scores[0, 1].sum())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ZeroDivisionError):
        gradient_times_activation(model, model[2], images, lambda _: 1 / 0)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match=r"the module \(Linear\) does not run"):
        gradient_times_activation(model, nn.Linear(2, 2), images, lambda scores: scores.sum())


def test_added_magnitude_is_relative_to_the_input(images):
    block = nl.NonLocal2d(3).eval()
    with added_magnitudes({"a": block, "b": nl.NonLocal2d(3)}) as added:
        block(images)
    assert added == {"a": 0.0}  # the identity until it is trained
    nn.init.normal_(block.norm.weight)
    with torch.no_grad(), added_magnitudes({"a": block}) as added:
        change = block(images) - images
    assert added["a"] == pytest.approx(float(change.norm() / images.norm()), rel=1e-5)
    assert not block._forward_hooks
