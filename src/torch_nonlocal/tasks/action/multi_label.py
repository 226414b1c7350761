"""Metrics of clips with several classes: average precision of each class, computed by torchmetrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.tasks.action.metrics import check_metrics


@dataclass(frozen=True)
class MultiLabelScores:
    """Metrics of clips with several classes.

    Attributes:
        clips: number of clips tested.
        mean_ap: mean of the average precision over the classes that have clips, in [0, 1].
        average_precision: of each class, (classes,); NaN for a class without clips.
        counts: number of clips of each class, (classes,).
    """

    clips: int
    mean_ap: float
    average_precision: Tensor
    counts: Tensor

    def plain(self) -> dict[str, Any]:
        """The metrics as JSON values, without those of each class."""
        return {"clips": self.clips, "mAP": self.mean_ap}

    def per_class(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Name, number of clips and average precision of each class as JSON values; None without clips.

        Args:
            classes: class names in the order of the labels.
        """
        rows = zip(classes, self.counts.tolist(), self.average_precision.tolist(), strict=True)
        return [
            {"class": name, "clips": clips, "average_precision": value if clips else None}
            for name, clips, value in rows
        ]


def score_multi_label(probabilities_NK: Tensor, labels_NK: Tensor) -> MultiLabelScores:
    """Metrics of N tested clips over K classes.

    Args:
        probabilities_NK: sigmoid scores, combined over the views of each clip.
        labels_NK: 1 for each class of a clip, 0 for others.

    Raises:
        ValueError: there are no clips, or no clip has a class.
        ImportError: torchmetrics is not installed.
    """
    classification = check_metrics()
    clips, classes = probabilities_NK.shape
    counts = labels_NK.sum(0).long()
    if not clips or not counts.any():
        raise ValueError("no clips with a class were tested")
    precision = torch.full((classes,), float("nan"))
    for label in counts.nonzero().flatten().tolist():
        precision[label] = classification.binary_average_precision(
            probabilities_NK[:, label], labels_NK[:, label].long()
        )
    return MultiLabelScores(clips, float(precision[counts > 0].mean()), precision, counts)
