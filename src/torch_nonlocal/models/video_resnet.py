"""C2D, I3D and Slow ResNets for clips (Wang et al., CVPR 2018, table 1; Carreira and Zisserman, CVPR 2017;
Feichtenhofer et al., ICCV 2019).

Parameters have the names of torchvision's ResNet (conv1, layer2.0.conv1, fc), so ImageNet weights fit after inflation.
Sizes in comments are for 32 frames of 224 x 224 pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from torch_nonlocal._common.tracing import is_recorded
from torch_nonlocal.models.inputs import IMAGENET, Inputs

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
KERNELS = ("3x1x1", "3x3x3")


@dataclass(frozen=True)
class TimePlan:
    """Kernels and strides of a network over time, in frames.

    Attributes:
        stem_kernel: kernel of conv1.
        stem_stride: stride of conv1.
        pool1_kernel: kernel of the max pool after conv1.
        pool1_stride: stride of the max pool after conv1.
        pool2_kernel: kernel of the max pool between res2 and res3.
        pool1_padding: spatial padding of the max pool after conv1, 0 or 1 pixel.
        pool2_stride: stride of the max pool between res2 and res3.
        inflated: residual blocks with kernels over time: "alternate" for every second one and all of res2, "late" for
            all of res4 and res5.
    """

    stem_kernel: int = 1
    stem_stride: int = 2
    pool1_kernel: int = 3
    pool1_stride: int = 2
    pool2_kernel: int = 3
    pool1_padding: int = 1
    pool2_stride: int = 2
    inflated: Literal["alternate", "late"] = "alternate"


C2D = TimePlan()  # the paper's table 1
I3D = TimePlan(stem_kernel=5)
# For 8 frames, 8 apart: only pool2 has a stride over time.
C2D_8X8 = TimePlan(stem_stride=1, pool1_kernel=1, pool1_stride=1, pool2_kernel=2)
I3D_8X8 = TimePlan(stem_kernel=5, stem_stride=1, pool1_kernel=1, pool1_stride=1, pool2_kernel=2)
# Keeps all frames: the slow pathway of SlowFast, alone.
SLOW = TimePlan(stem_stride=1, pool1_kernel=1, pool1_stride=1, pool2_kernel=1, pool2_stride=1, inflated="late")


class Bottleneck(nn.Module):
    """Residual block of 1x1, 3x3 and 1x1 convolutions: (B, C, T, H, W) -> (B, 4 width, T, H / stride, W / stride).

    Args:
        channels: C, channels of the input.
        width: channels of the middle convolution.
        stride: spatial stride of the middle convolution.
        kernel: None for 2D; "3x1x1" extends the first convolution over three frames, "3x3x3" the middle one.
    """

    def __init__(self, channels: int, width: int, *, stride: int = 1, kernel: str | None = None) -> None:
        super().__init__()
        first, middle = 3 if kernel == "3x1x1" else 1, 3 if kernel == "3x3x3" else 1
        out = EXPANSION * width
        self.conv1 = nn.Conv3d(channels, width, (first, 1, 1), padding=(first // 2, 0, 0), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        size, steps, padding = (middle, 3, 3), (1, stride, stride), (middle // 2, 1, 1)
        self.conv2 = nn.Conv3d(width, width, size, stride=steps, padding=padding, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv3d(channels, out, 1, stride=(1, stride, stride), bias=False), nn.BatchNorm3d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, 4 width, T, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class VideoResNet(nn.Module):
    """C2D, I3D or Slow ResNet: clips (B, 3, T, H, W) -> scores (B, num_classes).

    The I3D variants inflate one kernel in every second residual block (in every block of res2), the Slow variants in
    every block of res4 and res5.

    Args:
        depth: 50 or 101.
        kernel: inflated kernel, "3x1x1" or "3x3x3"; None for C2D.
        time: kernels and strides over time; None for those of the paper.
        num_classes: width of the last layer.
        dropout: dropout probability before the last layer.

    Attributes:
        inputs: description of the inputs, see `models.inputs`.

    Raises:
        ValueError: another depth or kernel.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        kernel: str | None = None,
        time: TimePlan | None = None,
        num_classes: int = 400,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"depth={depth}: expected one of {', '.join(map(str, DEPTHS))}")
        if kernel is not None and kernel not in KERNELS:
            raise ValueError(f"kernel={kernel!r}: expected None (2D), {' or '.join(map(repr, KERNELS))}")
        self.inputs: Inputs = IMAGENET
        plan = time or (C2D if kernel is None else I3D)
        self.depth, self.kernel, self.time = depth, kernel, plan
        size = (plan.stem_kernel, 7, 7)
        steps, padding = (plan.stem_stride, 2, 2), (plan.stem_kernel // 2, 3, 3)
        self.conv1 = nn.Conv3d(3, 64, size, stride=steps, padding=padding, bias=False)  # 64 x 16 x 112 x 112
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU(inplace=True)
        edge = plan.pool1_padding
        self.maxpool = nn.MaxPool3d(  # 64 x 8 x 56 x 56
            (plan.pool1_kernel, 3, 3), (plan.pool1_stride, 2, 2), padding=(plan.pool1_kernel // 2, edge, edge)
        )
        kernels = [_inflated(kernel, stage, count, plan.inflated) for stage, count in enumerate(DEPTHS[depth])]
        self.layer1 = _stage(64, WIDTHS[0], kernels[0])  # res2: 256 x 8 x 56 x 56
        self.pool2 = nn.MaxPool3d(  # 256 x 4 x 56 x 56
            (plan.pool2_kernel, 1, 1), (plan.pool2_stride, 1, 1), padding=((plan.pool2_kernel - 1) // 2, 0, 0)
        )
        self.layer2 = _stage(256, WIDTHS[1], kernels[1], 2)  # res3: 512 x 4 x 28 x 28
        self.layer3 = _stage(512, WIDTHS[2], kernels[2], 2)  # res4: 1024 x 4 x 14 x 14
        self.layer4 = _stage(1024, WIDTHS[3], kernels[3], 2)  # res5: 2048 x 4 x 7 x 7
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(EXPANSION * WIDTHS[3], num_classes)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W), normalized by `inputs` -> scores (B, num_classes).

        Raises:
            ValueError: another number of dimensions or channels.
        """
        if not is_recorded(x) and (x.ndim != 5 or x.shape[1] != 3):
            raise ValueError(f"expected clips (B, 3, T, H, W), got {tuple(x.shape)}")
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.pool2(self.layer1(x)))
        x = self.layer4(self.layer3(x))
        return self.fc(self.dropout(self.avgpool(x).flatten(1)))


def _inflated(kernel: str | None, stage: int, count: int, inflated: str) -> list[str | None]:
    """Kernel of each residual block: "alternate" is all of res2, even blocks of res3 and res4, odd blocks of res5."""
    if inflated == "late":
        return [kernel if stage >= 2 else None] * count
    chosen = (lambda _: True, lambda i: i % 2 == 0, lambda i: i % 2 == 0, lambda i: i % 2 == 1)[stage]
    return [kernel if chosen(index) else None for index in range(count)]


def _stage(channels: int, width: int, kernels: Sequence[str | None], stride: int = 1) -> nn.Sequential:
    blocks = [Bottleneck(channels, width, stride=stride, kernel=kernels[0])]
    blocks += [Bottleneck(EXPANSION * width, width, kernel=kernel) for kernel in kernels[1:]]
    return nn.Sequential(*blocks)


def _initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
