"""Training configuration: plain values, saved beside the checkpoints. Importing it does not import torch."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["step", "cosine", "one-cycle"]
Precision = Literal["no", "bf16", "fp16"]

HARMLESS = (
    "extend", "patience", "workers", "checkpoint_minutes", "keep", "eval_every", "log_every", "attention_items"
)  # fmt: skip
"""Fields that change no weight; they may differ when a run resumes."""

ADDED = {"freeze_backbone": 0}
"""Fields that saved configurations of earlier versions lack, and their value then."""

RENAMED = {"optimiser": "optimizer", "attention_clips": "attention_items"}
"""Former name of a field -> its name. `TrainConfig` accepts former names with a DeprecationWarning."""

_Config = TypeVar("_Config")


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration values with former field names replaced by current ones."""
    former = {new: values[old] for old, new in RENAMED.items() if old in values}
    return {**{name: value for name, value in values.items() if name not in RENAMED}, **former}


def _accept_renamed(cls: type[_Config]) -> type[_Config]:
    """Let the constructor of a dataclass take the former names of its fields."""
    init = cls.__init__

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **values: Any) -> None:
        for old in RENAMED.keys() & values.keys():
            _warn_renamed(old)
        init(self, *args, **current_names(values))

    cls.__init__ = wrapped
    return cls


def _warn_renamed(old: str) -> None:
    warnings.warn(f"TrainConfig.{old} is renamed to {RENAMED[old]}", DeprecationWarning, stacklevel=3)


@_accept_renamed
@dataclass(frozen=True)
class TrainConfig:
    """Training options. The defaults are those of the paper: SGD with momentum, lr divided by ten at each milestone."""

    epochs: int | None = None
    """Passes over the training data; give either epochs or steps."""
    steps: int | None = None
    """Optimizer steps; give either steps or epochs."""
    extend: bool = False
    """Train a run beyond its former epochs or steps: at a tenth of lr for half of the new steps, then linearly to 0."""
    batch_size: int = 64
    """Global batch size: items per step, over all processes and accumulation parts."""
    accumulate: int = 1
    """Gradient accumulation: parts of a batch computed one after the other, to take less memory."""
    lr: float = 0.01
    """Peak learning rate of the schedule."""
    optimizer: Optimizer = "sgd"
    """Optimizer."""
    momentum: float = 0.9
    """SGD momentum."""
    nesterov: bool = False
    """Use Nesterov momentum with SGD."""
    weight_decay: float = 1e-4
    """Weight decay; not applied to normalization parameters and biases."""
    schedule: Schedule = "step"
    """Schedule. step: divide lr by 10 at each milestone; cosine: decay to 0; one-cycle: rise from lr/25, decay to 0."""
    milestones: tuple[float, ...] = (0.375, 0.75)
    """Milestones of the step schedule, as fractions of the run; 0.375 and 0.75 in the paper."""
    warmup: float = 0.0
    """Fraction of the run in which the learning rate rises linearly; one-cycle uses 0.1 instead of 0."""
    clip_grad: float | None = None
    """Maximum gradient norm; larger gradients are scaled down."""
    precision: Precision = "no"
    """Mixed precision; no is float32."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, which is evaluated and saved in their place."""
    compile: bool = False
    """Compile the model with torch.compile."""
    channels_last: bool | Literal["auto"] = False
    """Use the channels-last memory format; auto does so on GPUs, and on a CPU if it is faster in a short trial."""
    freeze_bn: bool = False
    """Freeze all batch norms, statistics and parameters, except those of blocks and a new head; for small batches."""
    freeze_backbone: int = 0
    """Epochs in which only the last layer and the blocks are trained, before the whole network; -1: in all epochs."""
    precise_bn: int = 0
    """Batches over which batch norm statistics are recomputed before each evaluation; 0 uses running averages."""
    shard: bool = False
    """Shard weights, gradients and optimizer state over the processes (FSDP2) instead of replicating them (DDP)."""
    seed: int = 0
    """Seed of the initial weights, the sampling order, augmentation and dropout."""
    workers: int = 2
    """Data loading processes per training process; 0 loads in the training process."""
    eval_every: int = 0
    """Steps between evaluations; 0 evaluates after each epoch."""
    log_every: int = 10
    """Steps between log lines."""
    checkpoint_minutes: float = 10.0
    """Maximum minutes between checkpoints; 0 writes one after every step."""
    keep: int = 0
    """Number of weights to keep besides the best, from the latest evaluations."""
    attention_items: int = 2
    """Training items on which attention statistics are measured at each evaluation; 0 for none."""
    patience: int = 0
    """Stop after this many evaluations in a row without a better metric; 0 trains to the end."""

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            ValueError: if a value is out of range; the message gives its name, the value and what is expected.
        """
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"epochs={self.epochs}, steps={self.steps}: expected exactly one of the two")
        for name in ("epochs", "steps", "batch_size", "accumulate", "log_every"):
            value = getattr(self, name)
            _check(name, value, value is None or value >= 1, "at least 1")
        for name in (
            "workers",
            "eval_every",
            "keep",
            "patience",
            "precise_bn",
            "attention_items",
            "checkpoint_minutes",
        ):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        _check("freeze_backbone", self.freeze_backbone, self.freeze_backbone >= -1, "a number of epochs, or -1 for all")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        _check("lr", self.lr, 0 < self.lr < math.inf, "above 0")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "0 <= momentum < 1")
        _check("nesterov", self.nesterov, not self.nesterov or self.momentum > 0, "momentum above 0 with nesterov")
        _check("warmup", self.warmup, 0 <= self.warmup < 1, "a fraction of the run, 0 <= warmup < 1")
        _check("clip_grad", self.clip_grad, self.clip_grad is None or self.clip_grad > 0, "above 0, or none")
        _check("ema", self.ema, self.ema is None or 0 < self.ema < 1, "0 < ema < 1, or none")
        rising = all(0 < a < 1 for a in self.milestones) and list(self.milestones) == sorted(set(self.milestones))
        expected = "increasing fractions of the run between 0 and 1, such as (0.375, 0.75)"
        _check("milestones", self.milestones, rising, expected)
        for name, kind in (("optimizer", Optimizer), ("schedule", Schedule), ("precision", Precision)):
            choices = get_args(kind)
            _check(name, getattr(self, name), getattr(self, name) in choices, f"one of {', '.join(choices)}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size}: expected a multiple of accumulate={self.accumulate}")

    def plain(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @property
    def optimiser(self) -> Optimizer:
        """Deprecated name of `optimizer`."""
        _warn_renamed("optimiser")
        return self.optimizer

    @property
    def attention_clips(self) -> int:
        """Deprecated name of `attention_items`."""
        _warn_renamed("attention_clips")
        return self.attention_items


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"{name}={value!r}: expected {expected}")
