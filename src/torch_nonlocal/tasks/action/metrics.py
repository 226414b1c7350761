"""Classification metrics on a test set: accuracies, F1 and confusion matrix, computed by torchmetrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.optional import require


@dataclass(frozen=True)
class Scores:
    """Classification metrics.

    Attributes:
        clips: number of clips tested.
        top1: top-1 accuracy, in [0, 1].
        top5: top-5 accuracy; None with five classes or fewer.
        balanced_accuracy: top-1 accuracy of each class, averaged over the classes that have clips.
        macro_f1: F1 score of each class, averaged over the classes present or predicted.
        confusion: counts (classes, classes); rows are true classes, columns are predicted classes.
        class_accuracy: top-1 accuracy of each class, (classes,); 0 for a class without clips.
        class_f1: F1 score of each class, (classes,); 0 for a class without clips.
    """

    clips: int
    top1: float
    top5: float | None
    balanced_accuracy: float
    macro_f1: float
    confusion: Tensor
    class_accuracy: Tensor
    class_f1: Tensor

    @property
    def mean_class(self) -> float:
        """Former name of `balanced_accuracy`."""
        return self.balanced_accuracy

    def plain(self) -> dict[str, Any]:
        """The metrics as JSON values, without the confusion matrix."""
        metrics = {"top1": self.top1, "top5": self.top5}
        metrics |= {"mean_class": self.mean_class, "balanced_accuracy": self.balanced_accuracy}
        metrics |= {"macro_f1": self.macro_f1}
        return {"clips": self.clips, **{name: value for name, value in metrics.items() if value is not None}}

    def per_class(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Name, number of clips, accuracy and F1 score of each class as JSON values; both are None without clips.

        Args:
            classes: class names in the order of the labels.
        """
        rows = zip(
            classes, self.confusion.sum(1).tolist(), self.class_accuracy.tolist(), self.class_f1.tolist(), strict=True
        )
        return [
            {"class": name, "clips": clips, "accuracy": accuracy if clips else None, "f1": f1 if clips else None}
            for name, clips, accuracy, f1 in rows
        ]


def check_metrics() -> Any:
    """torchmetrics' classification functions. A test calls this first, so that a missing package raises at once.

    Raises:
        ImportError: torchmetrics is not installed.
    """
    return require("torchmetrics.functional.classification", extra="train")


def score(probabilities_NK: Tensor, labels_N: Tensor) -> Scores:
    """Metrics of N tested clips over K classes.

    Args:
        probabilities_NK: softmax scores, averaged over the views of each clip.
        labels_N: true classes.

    Raises:
        ValueError: there are no clips, or a label is out of range.
        ImportError: torchmetrics is not installed.
    """
    classification = check_metrics()
    clips, classes = probabilities_NK.shape
    if not clips:
        raise ValueError("no clips were tested")
    if labels_N.min() < 0 or labels_N.max() >= classes:
        raise ValueError(f"labels {int(labels_N.min())} to {int(labels_N.max())}: expected 0 to {classes - 1}")

    def accuracy(average: Any, top_k: int = 1) -> Tensor:
        return classification.multiclass_accuracy(probabilities_NK, labels_N, classes, average=average, top_k=top_k)

    def f1(average: Any) -> Tensor:
        return classification.multiclass_f1_score(probabilities_NK, labels_N, classes, average=average)

    confusion = classification.multiclass_confusion_matrix(probabilities_NK, labels_N, classes)
    class_accuracy = accuracy(None)
    return Scores(
        clips=clips,
        top1=float(accuracy("micro")),
        top5=float(accuracy("micro", 5)) if classes > 5 else None,
        balanced_accuracy=float(class_accuracy[confusion.sum(1) > 0].mean()),  # a predicted class may have no clips
        macro_f1=float(f1("macro")),
        confusion=confusion,
        class_accuracy=class_accuracy,
        class_f1=f1(None),
    )


def confusion_picture(scores: Scores, classes: Sequence[str]) -> Any:
    """The confusion matrix as a matplotlib figure; each row is normalized to sum to one.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", extra="view")
    counts = scores.confusion.double()
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(max(4.0, 0.4 * len(classes) + 2), 24)
    figure = figure_module.Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="cividis")
    figure.colorbar(image, ax=axes, label="share of the clips of the true class", shrink=0.7)
    named = len(classes) <= 60  # more names are not legible
    ticks = range(len(classes)) if named else []
    names = [printable(classes[i]) for i in ticks]
    axes.set_xticks(ticks, names, rotation=90, parse_math=False)  # a dollar sign in a name does not start a formula
    axes.set_yticks(ticks, names, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if len(classes) <= 20:
        for row in range(len(classes)):
            for column in range(len(classes)):
                bright = float(shares[row, column]) > 0.5
                text = str(int(counts[row, column]))
                axes.text(column, row, text, ha="center", va="center", color="black" if bright else "white")
    return figure


def worst_mistakes(probabilities_NK: Tensor, labels_N: Tensor, count: int) -> list[int]:
    """Indices of misclassified clips, in ascending order of the score of their true class."""
    wrong = (probabilities_NK.argmax(1) != labels_N).nonzero().flatten()
    own = probabilities_NK[wrong, labels_N[wrong]]
    return wrong[torch.argsort(own)][:count].tolist()
