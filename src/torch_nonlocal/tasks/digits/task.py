"""Moving digits as a task: a small 3D network, its training and its accuracy.

The network sees 9 x 9 pixels at a time and averages what it saw over the clip, so alone it cannot relate two far
digits. A block inserted at `conv3`, on a 4 x 8 x 8 grid for clips of 8 x 32 x 32, is all it lacks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal.data.moving_digits import MovingDigits
from torch_nonlocal.layers import BlockOptions

STEPS = 450
BATCH = 64
LEARNING_RATE = 6e-3  # of AdamW: biases, norms, the linear layer
_CONVOLUTION_RATE = 16  # Muon's updates have unit scale whatever the gradient; times the learning rate about 0.1
_WEIGHT_DECAY = 0.1
BLOCK: BlockOptions = {"pairwise": "gaussian", "scale": 0.3}
"""Options of the demo's block: it compares the features themselves, so that digits look at digits from the start."""
_LARGEST_GRADIENT_NORM = 1.0
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


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
    """Trains a network in place on a one-cycle schedule; leaves it in eval mode.

    Convolution weights are updated by Muon (see `_Muon`), all else by AdamW. The relation is an exclusive-or of two
    directions, which gives the first steps almost no gradient to follow; updates that strengthen weak directions as
    much as strong ones leave that plateau several times sooner than AdamW alone. The recipe is the same for every net.

    Args:
        net: takes clips (B, 1, T, H, W), gives logits (B, 3); trained on the device where its parameters are.
        data: where clips come from; every clip is new.
        steps: number of updates.
        batch: clips per update.
        lr: the schedule's highest learning rate, of AdamW; Muon's is in proportion.
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
    kernels = [module.weight for module in net.modules() if isinstance(module, _CONVOLUTIONS)]
    chosen = {id(kernel) for kernel in kernels}
    others = [parameter for parameter in net.parameters() if id(parameter) not in chosen]
    muon = _Muon(kernels, lr=lr * _CONVOLUTION_RATE, weight_decay=_WEIGHT_DECAY)
    adamw = torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=_WEIGHT_DECAY)
    optimizers = (muon, adamw)
    rising = 0.1 if steps == 1 else max(0.1, 1.1 / steps)  # OneCycleLR divides by zero where it is one step exactly
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            one, one.defaults["lr"], total_steps=steps, pct_start=rising, cycle_momentum=False
        )
        for one in optimizers
    ]
    losses: list[float] = []
    net.train()
    for step in range(1, steps + 1):
        drawn = data.batch(batch, generator)
        loss = F.cross_entropy(net(drawn.clips.to(device)), drawn.labels.to(device))
        net.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), _LARGEST_GRADIENT_NORM)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
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


class _Muon(torch.optim.Optimizer):
    """Momentum, then the nearest matrix with orthogonal rows: every direction of the update gets the same size.

    For convolution kernels, seen as (out, in x kernel) matrices. The orthogonalisation is five Newton-Schulz steps.
    (torch.optim.Muon takes matrices only, and torch 2.6 does not have it.)

    Reference: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
    """

    def __init__(self, kernels: list[Tensor], *, lr: float, weight_decay: float) -> None:
        super().__init__(kernels, {"lr": lr, "momentum": 0.9, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                average = self.state[kernel].setdefault("average", torch.zeros_like(kernel))
                average.lerp_(kernel.grad, 1 - group["momentum"])
                update = _orthogonal(kernel.grad.lerp(average, group["momentum"]).flatten(1))
                rows, columns = update.shape
                kernel.mul_(1 - group["lr"] * group["weight_decay"])
                kernel.add_(update.view_as(kernel), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def _orthogonal(matrix: Tensor) -> Tensor:
    """U V^T of a matrix U S V^T, roughly (singular values come out between 0.7 and 1.2), by matrix products alone."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-12)
    for _ in range(5):  # a quintic with a steep start; the coefficients are the reference's
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x
