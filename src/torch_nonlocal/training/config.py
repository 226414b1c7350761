"""The settings of a training run: plain values, saved beside its checkpoints."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

Optimiser = Literal["sgd", "adamw"]
Schedule = Literal["step", "cosine", "one-cycle"]
Precision = Literal["no", "bf16", "fp16"]

HARMLESS = ("workers", "checkpoint_minutes", "keep", "eval_every", "log_every", "attention_clips")
"""Settings that change no weight, and so may differ when a run goes on."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the paper's optimiser: SGD with Nesterov's momentum off, tenfold steps."""

    epochs: int | None = None
    """Times through the training data; give this or steps."""
    steps: int | None = None
    """Updates of the weights; give this or epochs."""
    batch_size: int = 64
    """Clips per update, over all processes and accumulated parts."""
    accumulate: int = 1
    """Parts that a process computes one after the other for one update: the same update, less memory."""
    lr: float = 0.01
    """Highest learning rate of the schedule."""
    optimiser: Optimiser = "sgd"
    """sgd or adamw."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = False
    """Nesterov's momentum, of SGD."""
    weight_decay: float = 1e-4
    """Of all weights but norms and biases."""
    schedule: Schedule = "step"
    """step: a tenth after each milestone; cosine: down to zero; one-cycle: up from 1/25, down to 1/250,000."""
    milestones: tuple[float, ...] = (0.375, 0.75)
    """Of the step schedule, as parts of the run: 150,000 and 300,000 of 400,000 updates in the paper."""
    warmup: float = 0.0
    """Part of the run in which the learning rate rises; of one-cycle, a tenth if zero."""
    clip_grad: float | None = None
    """Largest norm of the gradient; longer ones are scaled down."""
    precision: Precision = "no"
    """no: float32; bf16 or fp16: mixed precision."""
    ema: float | None = None
    """Decay of the averaged weights that are tested and kept; none without."""
    compile: bool = False
    """Compile the network."""
    channels_last: bool = False
    """Keep channels innermost in memory: faster on GPUs, above all in half precision."""
    freeze_bn: bool = False
    """Keep batch norms as they are, but for those of non-local blocks; for small batches of a trained network."""
    precise_bn: int = 0
    """Batches over which the statistics of batch norms are taken anew for every test; 0 keeps the running ones."""
    shard: bool = False
    """Share out weights, gradients and optimiser over the processes (FSDP2) instead of copying them (DDP)."""
    seed: int = 0
    """Of the order of the clips, their augmentation and dropout."""
    workers: int = 2
    """Processes that read data, for each training process."""
    eval_every: int = 0
    """Updates from one test to the next; 0: after each epoch."""
    log_every: int = 10
    """Updates from one line of the log to the next."""
    checkpoint_minutes: float = 10.0
    """Longest time between two checkpoints; 0 writes one after every update."""
    keep: int = 0
    """Weights of earlier tests to keep, newest first, besides the best."""
    attention_clips: int = 2
    """Training clips on which the blocks' attention is measured at every test; 0 for none."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: a value out of range; the message gives its name, what was given and what is expected.
        """
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"epochs={self.epochs}, steps={self.steps}: give exactly one of the two")
        for name in ("epochs", "steps", "batch_size", "accumulate", "log_every"):
            value = getattr(self, name)
            _check(name, value, value is None or value >= 1, "at least 1")
        for name in ("workers", "eval_every", "keep", "precise_bn", "attention_clips", "checkpoint_minutes"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        _check("lr", self.lr, 0 < self.lr < math.inf, "above 0")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "0 <= momentum < 1")
        _check("nesterov", self.nesterov, not self.nesterov or self.momentum > 0, "a momentum above 0 with it")
        _check("warmup", self.warmup, 0 <= self.warmup < 1, "a part of the run, 0 <= warmup < 1")
        _check("clip_grad", self.clip_grad, self.clip_grad is None or self.clip_grad > 0, "above 0, or none")
        _check("ema", self.ema, self.ema is None or 0 < self.ema < 1, "0 < ema < 1, or none")
        rising = all(0 < a < 1 for a in self.milestones) and list(self.milestones) == sorted(set(self.milestones))
        _check("milestones", self.milestones, rising, "rising parts of the run between 0 and 1, such as (0.375, 0.75)")
        for name, kind in (("optimiser", Optimiser), ("schedule", Schedule), ("precision", Precision)):
            choices = get_args(kind)
            _check(name, getattr(self, name), getattr(self, name) in choices, f"one of {', '.join(choices)}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size}: expected a multiple of accumulate={self.accumulate}")

    def plain(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"{name}={value!r}: expected {expected}")
