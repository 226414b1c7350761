"""Moving digits as a task: a small 3D network, its training and its accuracy.

The network sees 9 x 9 pixels at a time and averages what it saw over the clip, so alone it cannot relate two far
digits. A block inserted at `conv3`, on a 4 x 8 x 8 grid for clips of 8 x 32 x 32, is all it lacks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal.data.moving_digits import RELATIONS, MovingDigits

STEPS = 800
BATCH = 32
LEARNING_RATE = 6e-3


class RelationNet(nn.Module):
    """A 3D network with a receptive field of 9 x 9 pixels: (B, 1, T, H, W) -> (B, 3) logits.

    | module | kernel | stride  | output for (1, 8, 32, 32)  | sees (T, H, W) |
    |--------|--------|---------|----------------------------|----------------|
    | stem   | 3x5x5  | 1, 2, 2 | channels, 8, 16, 16        | 3, 5, 5        |
    | conv2  | 3x3x3  | 1, 2, 2 | channels, 8, 8, 8          | 5, 9, 9        |
    | conv3  | 3x1x1  | 2, 1, 1 | channels, 4, 8, 8          | 7, 9, 9        |
    | head   | 1x1x1  | 1       | average over T, H, W; linear to the three relations |

    There is no normalisation that mixes positions of a clip, so the receptive field is what the table says.

    Args:
        channels: C, width of the three stages; at least 1.
        hidden: width of the head's 1x1x1 convolution; at least 1.

    Raises:
        ValueError: if a width is below 1.
    """

    def __init__(self, channels: int = 32, *, hidden: int = 128) -> None:
        super().__init__()
        if channels < 1 or hidden < 1:
            raise ValueError(f"channels, hidden: got {channels}, {hidden}, expected at least 1 each")
        self.stem = _stage(1, channels, (3, 5, 5), (1, 2, 2))
        self.conv2 = _stage(channels, channels, (3, 3, 3), (1, 2, 2))
        self.conv3 = _stage(channels, channels, (3, 1, 1), (2, 1, 1))
        self.head = nn.Sequential(
            *_stage(channels, hidden, (1, 1, 1), (1, 1, 1)),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(hidden, len(RELATIONS)),
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Logits (B, 3) of the relations, for clips (B, 1, T, H, W) in [0, 1]."""
        return self.head(self.conv3(self.conv2(self.stem(clips))))


def train(
    net: nn.Module,
    data: MovingDigits,
    *,
    steps: int = STEPS,
    batch: int = BATCH,
    lr: float = LEARNING_RATE,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Trains a network in place with AdamW on a one-cycle schedule; leaves it in eval mode.

    Args:
        net: takes clips (B, 1, T, H, W), gives logits (B, 3); trained on the device where its parameters are.
        data: where clips come from; every clip is new.
        steps: number of updates.
        batch: clips per update.
        lr: the schedule's highest learning rate.
        seed: of the clips. The network's own start is the caller's (`torch.manual_seed` before building it).
        on_step: called after each update with the number of updates done and the loss.

    Returns:
        The loss of each update, cross-entropy in nats; chance is ln 3 = 1.0986.

    Raises:
        ValueError: if steps or batch is below 1, or lr is not positive.
    """
    if steps < 1 or batch < 1 or not lr > 0:
        raise ValueError(f"steps, batch, lr: got {steps}, {batch}, {lr}, expected at least 1, at least 1, above 0")
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    losses: list[float] = []
    net.train()
    for step in range(1, steps + 1):
        drawn = data.batch(batch, generator)
        loss = F.cross_entropy(net(drawn.clips.to(device)), drawn.labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(step, losses[-1])
    net.eval()
    return losses


@torch.no_grad()
def accuracy(net: nn.Module, data: MovingDigits, *, clips: int = 2000, seed: int = 1_000_003) -> float:
    """Share of clips, in [0, 1], whose relation the network names; the network's mode is kept.

    Args:
        net: takes clips (B, 1, T, H, W), gives logits (B, 3).
        data: usually the test split.
        clips: number of clips, at least 1.
        seed: of the clips; keep it apart from training's.

    Raises:
        ValueError: if clips is below 1.
    """
    if clips < 1:
        raise ValueError(f"clips: got {clips}, expected at least 1")
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    training = net.training
    net.eval()
    try:
        right = 0
        for start in range(0, clips, 200):
            drawn = data.batch(min(200, clips - start), generator)
            right += int((net(drawn.clips.to(device)).argmax(1).cpu() == drawn.labels).sum())
    finally:
        net.train(training)
    return right / clips


def _stage(
    in_channels: int, out_channels: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> nn.Sequential:
    """Convolution, same padding, and ReLU. He initialisation: the untrained features keep the input's scale."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    convolution = nn.Conv3d(in_channels, out_channels, kernel, stride, padding)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.ReLU(inplace=True))
