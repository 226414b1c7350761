"""inflate: errors for networks, options and example inputs."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from inflation_networks import FRAMES, OWN, Small, images, maps, network, torchvision_network
from torch import Tensor, nn

import torch_nonlocal as nl


class OwnKernel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


class Standardized(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight / self.weight.std(), self.bias)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    model[0].register_forward_hook(lambda _m, _a, output: output)
    return model


REFUSED = [
    (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3), OwnKernel()),
        {},
        ValueError,
        r"1 \(OwnKernel: a 2D kernel outside nn.Conv2d",
    ),
    (
        lambda: nn.Sequential(Standardized(3, 3, 3)),
        {},
        ValueError,
        r"0 \(Standardized: a convolution with a custom forward",
    ),
    (lambda: nn.Sequential(nn.LazyConv2d(3, 3)), {}, ValueError, r"0 \(LazyConv2d: uninitialized weights"),
    (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)), {}, ValueError, "parametrized"),
    (lambda: torch.jit.trace(nn.Conv2d(3, 3, 3), torch.randn(1, 3, 4, 4)), {}, ValueError, "compiled"),
    (lambda: nn.Sequential(nn.Conv3d(3, 3, 3)), {}, ValueError, "for clips already: '0' is a Conv3d"),
    (lambda: nl.inflate(Small()), {}, ValueError, "for clips already"),
    (lambda: nl.insert(maps(), at="0"), {}, ValueError, "hooks at 0 .*nl.remove"),
    (hooked, {}, ValueError, "hooks at 0"),
    (lambda: nn.Linear(3, 3), {}, ValueError, "no 2D convolution"),
    (Small, {"time_kernel": 4}, ValueError, "time_kernel=4.*such as 5.*half a frame"),
    (Small, {"time_kernel": 0}, ValueError, "time_kernel=0.*such as 1"),
    (Small, {"time_kernel": -3}, ValueError, "time_kernel=-3.*such as 1"),
    (Small, {"time_kernel": 3.0}, TypeError, r"expected a number of frames \(int\), got 3.0"),
    (Small, {"init": "middle"}, ValueError, "init='middle': expected 'repeat' or 'center'"),
    (Small, {"time_padding": "reflect"}, ValueError, "time_padding='reflect': expected 'replicate' or 'zeros'"),
    (Small, {"at": ["conv1", "norm1"]}, ValueError, r"expected 2D convolutions, got 'norm1' \(BatchNorm2d\)"),
    (Small, {"at": "up"}, ValueError, r"expected 2D convolutions, got 'up' \(ConvTranspose2d\)"),
    (Small, {"at": "conv3"}, ValueError, "did you mean 'conv"),
    (lambda: torchvision_network("resnet18"), {"at": "layer1.*"}, ValueError, "did you mean 'layer1.0.conv1'"),
    (Small, {"time_stride": {"norm1": 2}}, ValueError, "time_stride at 'norm1'.*BatchNorm2d"),
    (Small, {"time_stride": {"conv1": 0}}, ValueError, "time_stride at 'conv1'.*got 0"),
    (Small, {"time_stride": 2}, TypeError, "time_stride: expected a dict"),
    (Small, {"example_input": torch.randn(1, 3, 4, 8, 8)}, ValueError, r"images \(B, 3, H, W\), got \(1, 3, 4, 8, 8\)"),
    (Small, {"example_input": [1]}, TypeError, "got list"),
    (lambda: torch.randn(4, 3, 3, 3), {}, TypeError, "got Tensor; inflate_weight"),
    (lambda: Small, {}, TypeError, "got type"),
]


@pytest.mark.parametrize(("make", "options", "error", "message"), REFUSED)
def test_networks_and_options_that_raise(make: Any, options: Any, error: Any, message: str) -> None:
    model = make()
    with pytest.raises(error, match=message):
        nl.inflate(model, **options)


@pytest.mark.parametrize("name", ["small", "maps", "torchvision:resnet18"])
def test_images_instead_of_clips_raise(name: str) -> None:
    net = nl.inflate(network(name, torch.float32), 3)
    net(torch.randn(1, 3, FRAMES, 36, 44))
    with pytest.raises(ValueError, match=r"expected a clip .* got \(3, 3, 36, 44\)"):
        net(torch.randn(3, 3, 36, 44))


class MixesFrames(nn.Module):
    """A network whose output depends on the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) * x.shape[0]


def test_an_example_input_with_another_output_raises() -> None:
    example = torch.randn(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"output of a still clip differs from the image's by "):
        nl.inflate(MixesFrames(), 3, example_input=example)


@pytest.mark.parametrize("time_padding", ["replicate", "zeros"])
@pytest.mark.parametrize("name", OWN)
def test_an_example_input_with_the_same_output_passes(name: str, time_padding: Any) -> None:
    net = nl.inflate(network(name).train(), 3, time_padding=time_padding, example_input=images())
    assert net.training


def test_a_network_that_returns_tokens_raises() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).flatten(2).transpose(1, 2)

    with pytest.raises(ValueError, match=r"Tokens returns \(8, 36, 4\).*expected maps"):
        nl.inflate(Tokens(), 3)(torch.randn(2, 3, 4, 8, 8))
