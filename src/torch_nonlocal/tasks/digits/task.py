"""Moving digits: do two digits move in the same, in opposite or in perpendicular directions?

The network has a receptive field of 9 x 9 pixels and averages over the clip, so alone it cannot relate two distant
digits. A block at `conv3`, on a 4 x 8 x 8 grid for clips of 8 x 32 x 32, adds what is missing.
"""

from collections.abc import Callable
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal.data.moving_digits import Motions, MovingDigits
from torch_nonlocal.distributed.rank import ignored
from torch_nonlocal.layers import BlockOptions
from torch_nonlocal.tasks.digits.data import ConsecutiveBatches, RunClips
from torch_nonlocal.tasks.digits.muon import MuonAdamW
from torch_nonlocal.training import Task, TrainConfig, fit

STEPS = 450
BATCH = 64
LEARNING_RATE = 6e-3
"""Peak learning rate of AdamW, which trains biases, norms and the linear layer."""
_CONVOLUTION_RATE = 16  # Muon's learning rate is about 0.1
_WEIGHT_DECAY = 0.1
_CLIP_GRAD = 1.0
BLOCK: BlockOptions = {"pairwise": "gaussian", "scale": 0.3}
"""Options of the demo's block: it compares the features themselves, so digits attend to digits from the start."""


class DigitsTask(Task):
    """Moving digits for `fit`. The clips are drawn for the configured number of steps, batch size and seed.

    Convolution kernels are updated by Muon, all other parameters by AdamW. The label is an exclusive-or of two
    directions, so the first steps have almost no gradient to follow; updates that strengthen weak directions as much as
    strong ones leave this plateau in a fraction of the steps of AdamW alone.

    Args:
        model: maps clips (B, 1, T, H, W) to logits (B, 3).
        digits: source of the clips; every clip is new.
        config: training options, with `steps`.
        on_loss: called in every step with the loss of the batch.
    """

    def __init__(
        self,
        model: nn.Module,
        digits: MovingDigits,
        config: TrainConfig,
        *,
        on_loss: Callable[[float], None] | None = None,
    ) -> None:
        if config.steps is None:
            raise ValueError("moving digits are trained for a number of steps: expected steps, got epochs")
        clips = RunClips(digits, steps=config.steps, batch_size=config.batch_size, seed=config.seed)
        super().__init__(model, clips, about={"task": "digits"})
        self._clips, self._config, self._on_loss = clips, config, on_loss

    def sampler(self, batch_size: int, seed: int) -> ConsecutiveBatches:
        """The clips in the order in which they were drawn."""
        return ConsecutiveBatches(len(self.data), batch_size)

    def collate(self, items: list[Motions]) -> tuple[Tensor, Tensor]:
        """Clips (B, 1, T, H, W) in [0, 1], and labels (B,)."""
        return self._clips.render(items)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy in nats (chance is ln 3 = 1.0986), and accuracy."""
        clips, labels = batch
        logits = model(clips)
        loss = F.cross_entropy(logits, labels)
        if self._on_loss is not None:
            self._on_loss(loss.item())
        return {"loss": loss, "accuracy": (logits.detach().argmax(1) == labels).float().mean()}

    def optimizer(self, model: nn.Module) -> MuonAdamW:
        """Muon for convolution kernels, AdamW for all other parameters."""
        return MuonAdamW(
            model,
            lr=self._config.lr,
            lr_scale=_CONVOLUTION_RATE,
            momentum=0.9,
            betas=(0.9, 0.99),
            weight_decay=self._config.weight_decay,
            clip_grad=_CLIP_GRAD,
        )


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
    """Train a network in place by `fit` on a one-cycle schedule; see `DigitsTask`. All networks use the same options.

    Args:
        net: maps clips (B, 1, T, H, W) to logits (B, 3). Afterwards it is in eval mode, on the device where it was.
        data: source of the clips; every clip is new.
        steps: number of steps.
        batch: clips per step.
        lr: peak learning rate of AdamW; Muon's is a multiple of it.
        seed: seed of the clips. Call `torch.manual_seed` before building the network to fix its initial weights.
        on_step: called in every step with the number of the step, from 1, and its loss.

    Returns:
        The loss of every step, cross-entropy in nats; chance is ln 3 = 1.0986.

    Raises:
        ValueError: steps or batch is below 1, or lr is not positive.
        ImportError: accelerate is not installed.
        KeyboardInterrupt: training was interrupted by Ctrl-C or SIGTERM.
    """
    losses: list[float] = []

    def add(loss: float) -> None:
        losses.append(loss)
        if on_step is not None:
            on_step(len(losses), loss)

    config = TrainConfig(
        steps=steps,
        batch_size=batch,
        lr=lr,
        weight_decay=_WEIGHT_DECAY,
        schedule="one-cycle",
        seed=seed,
        workers=0,
        attention_items=0,
    )
    device = next(net.parameters()).device
    with TemporaryDirectory() as folder:
        result = fit(DigitsTask(net, data, config, on_loss=add), config, folder, log=ignored)
    net.to(device)
    if result.status == "stopped":
        raise KeyboardInterrupt
    return losses


@torch.no_grad()
def accuracy(net: nn.Module, data: MovingDigits, *, clips: int = 2000, seed: int = 1_000_003) -> float:
    """Accuracy of a network on new clips, in [0, 1]. The mode of the network does not change.

    Args:
        net: maps clips (B, 1, T, H, W) to logits (B, 3).
        data: source of the clips, usually the test split.
        clips: number of clips, at least 1.
        seed: seed of the clips; use another one than in training.

    Raises:
        ValueError: clips is below 1.
    """
    if clips < 1:
        raise ValueError(f"clips: got {clips}, expected at least 1")
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    training = net.training
    net.eval()
    try:
        correct = 0
        for start in range(0, clips, 200):
            drawn = data.batch(min(200, clips - start), generator)
            correct += int((net(drawn.clips.to(device)).argmax(1).cpu() == drawn.labels).sum())
    finally:
        net.train(training)
    return correct / clips
