"""2D networks to inflate: user networks with unusual code, torchvision networks, timm networks."""

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FRAMES = 4


class Gate(nn.Module):
    """Squeeze and excitation in its common form: unpacked sizes, views of four axes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.size()
        return x * torch.sigmoid(self.fc(self.pool(x).view(batch, channels))).view(batch, channels, 1, 1)


class Small(nn.Module):
    """A user network: functional pools, sizes, a mean over (2, 3), a scale parameter, many kinds of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, (3, 5), padding=(1, 2), padding_mode="reflect")
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding="same", dilation=2, groups=4, bias=False)
        self.norm2 = nn.GroupNorm(2, 8)
        self.gate = Gate(8)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.down = nn.Sequential(nn.Conv2d(8, 12, 2, 2), nn.ReLU(inplace=True), nn.Dropout2d(0.3))
        self.up = nn.ConvTranspose2d(12, 12, 2, 2)
        self.sized_up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False, ceil_mode=True)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2, ceil_mode=True)
        x = x + self.scale * self.gate(self.norm2(self.conv2(x)))
        x = self.down(x)
        x = self.pool(self.up(x) + self.sized_up(x))
        return self.fc(x.mean((2, 3)))


def maps() -> nn.Module:
    """A sequence of layers that returns a map."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.InstanceNorm2d(8, affine=True),
        nn.PReLU(8),
        nn.Conv2d(8, 16, 4, stride=2, padding=1, padding_mode="circular"),
        nn.PixelShuffle(2),
        nn.ZeroPad2d(1),
        nn.Conv2d(4, 4, 3, padding="valid", bias=False),
        nn.AdaptiveMaxPool2d((5, 3)),
    )


def flat() -> nn.Module:
    """A network whose head flattens a pooled map of several pixels."""
    body = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6, affine=False), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(36, 4))


def torchvision_network(name: str) -> nn.Module:
    return pytest.importorskip("torchvision").models.get_model(name, num_classes=10)


def timm_network(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=10)


OWN = {"small": Small, "maps": maps, "flat": flat}
LARGE = {"resnet50", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "densenet121", "shufflenet_v2_x0_5"}
LARGE |= {"mobilenet_v2", "efficientnet_lite0", "tf_efficientnet_lite0"}
TORCHVISION = ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny")
TORCHVISION += ("densenet121", "shufflenet_v2_x0_5")
TIMM = ("resnet18", "efficientnet_lite0", "convnext_atto", "tf_efficientnet_lite0")
NETWORKS: dict[str, Any] = {
    **OWN,
    **{f"torchvision:{name}": lambda name=name: torchvision_network(name) for name in TORCHVISION},
    **{f"timm:{name}": lambda name=name: timm_network(name) for name in TIMM},
}


def network(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    return copy.deepcopy(cached_network(name)).to(dtype)


@functools.cache
def cached_network(name: str) -> nn.Module:
    """A network in eval mode whose statistics and scales differ from their initial values."""
    torch.manual_seed(0)
    model = NETWORKS[name]().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim != 4:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(dtype: torch.dtype = torch.float64, count: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, 3, 36, 44, dtype=dtype)


def still(frames: Tensor, length: int = FRAMES) -> Tensor:
    return frames.unsqueeze(2).repeat(1, 1, length, 1, 1)
