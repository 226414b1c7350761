"""Classes with unequal numbers of clips: whether the loss or the sampler evens them out, and which metric counts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.tasks.action.settings import AUTO, NONE, ActionSettings

UNEQUAL = 3.0
"""The counts are very unequal if the largest class has at least this many times the clips of the smallest."""
MOST = 10.0
"""A clip of a rare class weighs at most this many times as much as a clip of the largest class."""
ACCURACY, MACRO_F1, MEAN_AP = "accuracy", "macro_f1", "mAP"


@dataclass(frozen=True)
class ClassCounts:
    """How many training clips each class has.

    Attributes:
        labels: classes of each training clip; empty for built-in clips, which are drawn equally often of each class.
        classes: class names.
        is_multi_label: whether a clip can have several classes.
    """

    labels: Sequence[tuple[int, ...]]
    classes: Sequence[str]
    is_multi_label: bool

    @property
    def counts(self) -> Tensor:
        """Number of training clips of each class, (K,), float64."""
        every = torch.tensor([label for own in self.labels for label in own], dtype=torch.int64)
        return torch.bincount(every, minlength=len(self.classes)).double()

    @property
    def ratio(self) -> float:
        """Clips of the largest class divided by those of the smallest that has any; 1 without clips."""
        counts = self.counts[self.counts > 0]
        return float(counts.max() / counts.min()) if len(counts) else 1.0

    @property
    def described(self) -> str:
        """The largest and the smallest class with their clips, in words."""
        counts = self.counts
        if not counts.any():
            return "clips are drawn equally often of each class"
        rare = int(torch.where(counts > 0, counts, torch.inf).argmin())
        named = [f"{self.classes[one]!r}: {int(counts[one]):,} clips" for one in (int(counts.argmax()), rare)]
        return f"largest class {named[0]}, smallest {named[1]}"


def balanced(settings: ActionSettings, found: ClassCounts) -> tuple[ActionSettings, list[str]]:
    """Resolve `balance` and `metric`.

    Args:
        settings: as the user gave them.
        found: of the training clips.

    Returns:
        The settings without "auto", and a line about each choice.

    Raises:
        ValueError: the given values do not fit the data.
    """
    _check(settings, found)
    if not found.labels:
        unequal = {"balance": NONE} if settings.balance == AUTO else {}
        settings = replace(settings, **unequal, metric=ACCURACY if settings.metric == AUTO else settings.metric)
        return settings, []
    very = found.ratio >= UNEQUAL
    rule = f"ratio {found.ratio:.3g}, {'at least' if very else 'below'} {UNEQUAL:g}"
    lines = []
    if settings.balance == AUTO:
        if found.is_multi_label:
            chosen, reason = NONE, "average precision compares the clips of each class by themselves"
        else:
            chosen, reason = ("sampler" if very else NONE), f"{found.described}; {rule}"
        settings = replace(settings, balance=chosen)
        lines.append(f"balance: {chosen}, chosen automatically; {reason}")
    if settings.metric == AUTO:
        chosen = MEAN_AP if found.is_multi_label else MACRO_F1 if very else ACCURACY
        settings = replace(settings, metric=chosen)
        if not found.is_multi_label:
            lines.append(f"metric: {chosen} on the validation clips selects the weights, chosen automatically; {rule}")
    return settings, lines


def _check(settings: ActionSettings, found: ClassCounts) -> None:
    given = f"--balance {settings.balance}"
    if settings.balance in ("loss", "sampler") and not found.labels:
        raise ValueError(f"{given}: {found.described}; expected auto or none")
    if settings.balance == "sampler" and found.is_multi_label:
        raise ValueError(
            f"{given}: clips have several classes, so none can be drawn by its class; expected loss or none"
        )
    fitting = (AUTO, MEAN_AP) if found.is_multi_label else (AUTO, ACCURACY, MACRO_F1)
    if settings.metric not in fitting:
        several = "several classes" if found.is_multi_label else "one class each"
        raise ValueError(f"--metric {settings.metric}: the clips have {several}; expected {' or '.join(fitting)}")
    if settings.label_smoothing and found.is_multi_label:
        raise ValueError(
            f"label_smoothing={settings.label_smoothing}: the clips have several classes, whose targets do not sum to "
            "one; expected 0"
        )


def clip_weights(counts_K: Tensor) -> Tensor:
    """Weight of a clip of each class: inverse to the number of clips, at most `MOST` times the smallest weight.

    The mean weight of the training clips is 1; without the limit, the clips of each class have the same sum of weights.

    Args:
        counts_K: number of training clips of each class; a class without clips has the weight 0.
    """
    counts = counts_K.double()
    relative = torch.where(counts > 0, (counts.max() / counts).clamp_max(MOST), 0.0)
    return relative * counts.sum() / (relative * counts).sum()


def positive_weights(counts_K: Tensor, clips: int) -> Tensor:
    """Weight of the clips that have a class in its binary cross-entropy, relative to those that do not have it.

    Clips without the class divided by clips with it, between 1 / `MOST` and `MOST`; 1 for a class without clips.

    Args:
        counts_K: number of training clips of each class.
        clips: number of training clips.
    """
    counts = counts_K.double()
    return torch.where(counts > 0, ((clips - counts) / counts).clamp(1 / MOST, MOST), 1.0)


def loss_weights(settings: ActionSettings, found: ClassCounts) -> Tensor | None:
    """Weights of classes in the loss, (K,) float32: of clips, or of positives if a clip can have several classes."""
    if settings.balance != "loss":
        return None
    counts = found.counts
    weights = positive_weights(counts, len(found.labels)) if found.is_multi_label else clip_weights(counts)
    return weights.float()


def class_shares(found: ClassCounts) -> list[float]:
    """Share of each class in the batches of the balanced sampler: clips are drawn in proportion to `clip_weights`."""
    counts: Any = found.counts
    return (clip_weights(counts) * counts / counts.sum()).tolist()
