"""Metrics against counts by hand."""

import pytest
import torch

pytest.importorskip("torchmetrics", reason="pip install 'torch-nonlocal[train]'")

from torch_nonlocal._common.files import printable
from torch_nonlocal.tasks.action.metrics import confusion_picture, score, worst_mistakes

LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
PREDICTED = torch.tensor([0, 0, 1, 1, 2, 2])


def confident(predicted, classes):
    return torch.full((len(predicted), classes), 0.1).scatter_(1, predicted[:, None], 0.8)


def test_metrics_equal_counts_by_hand():
    scores = score(confident(PREDICTED, 3), LABELS)
    assert scores.clips == 6
    assert scores.top1 == pytest.approx(4 / 6)
    assert scores.mean_class == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    # F1 = 2 tp / (2 tp + fp + fn): 4/5, 2/4, 2/3
    assert scores.macro_f1 == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)
    assert scores.confusion.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert scores.top5 is None
    assert "top5" not in scores.plain()


def test_per_class_metrics_equal_counts_by_hand():
    names = ["run", "jump", "wave", "sit", "hop"]
    # a seventh clip, of run, is predicted as sit, which has no clips; hop has neither clips nor predictions
    labels, predicted = torch.cat([LABELS, torch.tensor([0])]), torch.cat([PREDICTED, torch.tensor([3])])
    rows = score(confident(predicted, 5), labels).per_class(names)
    assert [row["class"] for row in rows] == names
    assert [row["clips"] for row in rows] == [4, 2, 1, 0, 0]
    assert [row["accuracy"] for row in rows[:3]] == pytest.approx([2 / 4, 1 / 2, 1])
    assert [row["f1"] for row in rows[:3]] == pytest.approx([4 / 6, 2 / 4, 2 / 3])
    assert [(row["accuracy"], row["f1"]) for row in rows[3:]] == [(None, None)] * 2


def test_top5_counts_the_five_highest_scores():
    probabilities = torch.tensor([[0.30, 0.25, 0.20, 0.15, 0.07, 0.03]]).repeat(2, 1)
    scores = score(probabilities, torch.tensor([4, 5]))
    assert (scores.top1, scores.top5) == (0, 0.5)


@pytest.mark.parametrize(
    ("clips", "labels", "match"),
    [(0, [], "no clips were tested"), (2, [0, 3], "labels 0 to 3: expected 0 to 2"), (1, [-1], "labels -1 to -1")],
)
def test_invalid_input_raises(clips, labels, match):
    with pytest.raises(ValueError, match=match):
        score(torch.rand(clips, 3), torch.tensor(labels, dtype=torch.long))


def test_worst_mistakes_come_first():
    probabilities = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.55, 0.45]])
    assert worst_mistakes(probabilities, torch.tensor([1, 1, 1, 1]), 2) == [1, 0]
    assert worst_mistakes(probabilities, torch.tensor([0, 0, 1, 0]), 5) == []


def test_confusion_matrix_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="pip install 'torch-nonlocal[view]'")
    figure = confusion_picture(score(confident(PREDICTED, 3), LABELS), ["run", "jump", "wave"])
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["2", "1", "0", "0", "1", "1", "0", "0", "1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["run", "jump", "wave"]
    figure.savefig(tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_special_characters_in_class_names_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="pip install 'torch-nonlocal[view]'")
    names = ["costs $\\frac$", "a\nb", "\udcff"]
    figure = confusion_picture(score(confident(PREDICTED, 3), LABELS), names)
    figure.savefig(tmp_path / "confusion.png")
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == [printable(name) for name in names] == ["costs $\\frac$", r"a\nb", r"\udcff"]
