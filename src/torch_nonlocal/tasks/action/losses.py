"""Training losses: weights of the classes, label smoothing and mixed clips."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_nonlocal.tasks.action.mixing import Mixed


@dataclass(frozen=True)
class ClassLoss:
    """Mean cross-entropy over a batch, or binary cross-entropy where clips have several classes.

    The loss of a clip is multiplied by the weight of its class; dividing by the number of clips, not by the sum of the
    weights, makes the loss of a batch the mean of the losses of its parts. A mixed clip has the losses for both clips,
    by their shares.

    Args:
        multi_label: whether clips have several classes.
        weights: of the classes, (K,); with several classes, weights of the positives. None for 1.
        smoothing: share of the target that is spread evenly over all classes; not with several classes.

    Reference: Szegedy et al., Rethinking the Inception Architecture, CVPR 2016 (label smoothing).
    """

    multi_label: bool = False
    weights: Tensor | None = None
    smoothing: float = 0.0

    def __call__(self, logits_BK: Tensor, labels: Tensor, mixed: Mixed | None = None) -> Tensor:
        """The loss of logits for labels (B,), or (B, K) with several classes."""
        if mixed is not None:
            own_B, other_B = (self._of(logits_BK, one, "none") for one in (labels, labels[mixed.partner]))
            return torch.lerp(other_B, own_B, mixed.share.to(own_B)).mean()
        if self.weights is None or self.multi_label:
            return self._of(logits_BK, labels, "mean")
        return self._of(logits_BK, labels, "none").mean()

    def _of(self, logits_BK: Tensor, labels: Tensor, reduction: str) -> Tensor:
        """The loss of the batch, or of each clip, (B,)."""
        weights = None if self.weights is None else self.weights.to(logits_BK)
        if self.multi_label:
            targets, options = labels.to(logits_BK.dtype), {"pos_weight": weights, "reduction": reduction}
            loss = F.binary_cross_entropy_with_logits(logits_BK, targets, **options)
            return loss.mean(1) if reduction == "none" else loss
        loss = F.cross_entropy(logits_BK, labels, reduction=reduction, label_smoothing=self.smoothing)
        return loss if weights is None else loss * weights[labels]


def accuracy(logits_BK: Tensor, labels_B: Tensor, mixed: Mixed | None = None) -> Tensor:
    """Share of the clips whose class has the highest logit; of a mixed clip, the share of the predicted one counts."""
    right_B = (logits_BK.argmax(1) == labels_B).float()
    if mixed is None:
        return right_B.mean()
    other_B = (logits_BK.argmax(1) == labels_B[mixed.partner]).float()
    return torch.lerp(other_B, right_B, mixed.share).mean()
