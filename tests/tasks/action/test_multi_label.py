"""Clips of several classes: loss, metrics, checkpoints, predictions."""

import csv
import dataclasses
import json

import pytest
import torch
from torch.nn import functional as F

MODULES = {"av": "video", "accelerate": "train", "torchmetrics": "train", "torchvision": "train", "matplotlib": "view"}
for module, extra in MODULES.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from action_runs import CONFIG, SETTINGS, film, train, use_tiny_networks  # noqa: E402 (after the skips)

from torch_nonlocal.data.clip_list import Clip, ClipList  # noqa: E402
from torch_nonlocal.data.dataset import ViewDataset, collate_clips  # noqa: E402
from torch_nonlocal.data.splits import Splits  # noqa: E402
from torch_nonlocal.media.transforms import EvalTransform  # noqa: E402
from torch_nonlocal.tasks.action import data as action_data  # noqa: E402
from torch_nonlocal.tasks.action import evaluation  # noqa: E402
from torch_nonlocal.tasks.action.evaluation import predict  # noqa: E402
from torch_nonlocal.tasks.action.multi_label import score_multi_label  # noqa: E402
from torch_nonlocal.tasks.action.results import run_test  # noqa: E402
from torch_nonlocal.tasks.action.settings import ActionTestOptions  # noqa: E402
from torch_nonlocal.training import load_weights_file  # noqa: E402

CLASSES = ("red", "green", "blue", "bright")


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_networks(patch)
        yield


def clip_list(root, first, clips):
    """Clips of one color, which are also bright if their number is even."""
    found = []
    for number in range(first, first + clips):
        color = number % 3
        labels = (color, 3) if number % 2 == 0 else (color,)
        found.append(Clip(film(root / f"{number}.mp4", number, color=color), labels[0], labels=labels))
    return ClipList(root, CLASSES, tuple(found), is_multi_label=True)


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return {"train": clip_list(root, 0, 8), "val": clip_list(root, 8, 6)}


@pytest.fixture
def data(lists, monkeypatch):
    """A path that stands for these lists."""
    prints = {name: tuple(clip.path.name for clip in one.clips) for name, one in lists.items()}
    splits = Splits(lists, "a list", False, prints)
    monkeypatch.setattr(action_data, "assign", lambda data, **options: splits)
    chosen = evaluation.ClipsToTest(lists["val"], "the validation clips", (), (), False)
    monkeypatch.setattr(evaluation, "clips_to_test", lambda *arguments, **options: chosen)
    return lists["train"].root


def test_labels_are_one_for_each_class_of_a_clip(lists):
    views = ViewDataset(lists["train"], (2, 1), EvalTransform(crop=16, crops=3), views=1, on_error="fail")
    clips, labels, indices = collate_clips([views[0], views[1]])
    assert clips.shape[:3] == (6, 3, 2)
    assert labels.tolist() == [[1, 0, 0, 1]] * 3 + [[0, 1, 0, 0]] * 3
    assert indices.tolist() == [0, 0, 0, 1, 1, 1]


def test_average_precision_of_each_class():
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.7, 0.3], [0.7, 0.9, 0.1], [0.1, 0.3, 0.4]])
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
    found = score_multi_label(scores, labels)
    first, second = (1 / 1 + 2 / 3) / 2, 1 / 2
    assert found.plain() == {"clips": 4, "mAP": pytest.approx((first + second) / 2)}
    assert found.per_class(("a", "b", "c")) == [
        {"class": "a", "clips": 2, "average_precision": pytest.approx(first)},
        {"class": "b", "clips": 1, "average_precision": pytest.approx(second)},
        {"class": "c", "clips": 0, "average_precision": None},
    ]
    with pytest.raises(ValueError, match="no clips with a class"):
        score_multi_label(scores, torch.zeros(4, 3))


def test_the_largest_score_of_all_views_counts():
    logits = torch.tensor([[0.0, -2], [1, -3], [-1, 4], [-5, 0.5]])
    items = [(torch.full((1, 2, 4, 4), float(number)), torch.tensor([1.0, 0]), number // 2) for number in range(4)]
    model = torch.nn.Linear(1, 1)
    model.forward = lambda clips: logits[clips[:, 0, 0, 0, 0].long()]
    scores, labels, indices = predict(model, items, batch=4, workers=0, prepare=lambda clips: clips, multi_label=True)
    torch.testing.assert_close(scores, torch.tensor([[1.0, -2], [-1, 4]]).sigmoid())
    assert (labels.tolist(), indices.tolist()) == ([[1, 0], [1, 0]], [0, 1])


def test_a_run_is_trained_with_binary_cross_entropy_and_chosen_by_map(data, lists, tmp_path):
    result, _ = train(data, tmp_path / "run", config=dataclasses.replace(CONFIG, epochs=2, batch_size=8, log_every=1))
    assert result.best["metric"] == "mAP"
    kept = load_weights_file(result.weights)
    assert kept["about"]["multi_label"] is True
    assert set(kept["metrics"]) == {"mAP", "loss"}
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert "accuracy" not in first
    assert first["loss"] == pytest.approx(float(F.binary_cross_entropy(torch.tensor(0.5), torch.tensor(1.0))), abs=0.5)

    lines: list[str] = []
    options = ActionTestOptions(views=2, crops="1", workers=0)
    metrics = run_test(result.weights, data, tmp_path / "out", options, on_progress=None, log=lines.append)
    assert metrics == {"clips": 6, "mAP": pytest.approx(kept["metrics"]["mAP"])}
    assert any(line.startswith("mAP        0.") or line == "mAP        1.0000" for line in lines)
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [row["clips"] for row in scores["per_class"]] == [2, 2, 2, 3]
    assert "confusion" not in scores
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["predictions.csv", "scores.json"]
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert [row["true_label"] for row in rows[:2]] == ["blue; bright", "red"]
    assert {f"probability {name}" for name in CLASSES} < set(rows[0])
    assert "class_rank" not in rows[0]


def test_the_task_option_must_fit_the_data(data, tmp_path):
    with pytest.raises(ValueError, match="multi_label=False, but the data have clips of several classes"):
        train(data, tmp_path, dataclasses.replace(SETTINGS, multi_label=False))


def test_charades_is_recognized_trained_and_tested(tmp_path):
    header = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
    for split, first, clips in (("train", 0, 8), ("test", 8, 4)):
        rows = []
        for number in range(first, first + clips):
            clip_list(tmp_path / "data", number, 1)
            actions = f"c00{number % 3} 0.00 2.00" + (";c003 1.00 2.00" if number % 2 == 0 else "")
            rows.append(f'{number},S,Kitchen,6,7,Yes,"a, b",c,d,{actions},2.0\n')
        (tmp_path / "data" / f"Charades_v1_{split}.csv").write_text(header + "".join(rows))
    result, lines = train(tmp_path / "data", tmp_path / "run", config=dataclasses.replace(CONFIG, batch_size=4))
    about = load_weights_file(result.weights)["about"]
    assert (about["multi_label"], about["classes"]) == (True, ["c000", "c001", "c002", "c003"])
    assert result.best["metric"] == "mAP"
    assert any("8 training clips, 4 validation clips" in line for line in lines)
    tested = evaluation.evaluate(result.weights, tmp_path / "data", views=1, crops=1, workers=0)
    assert tested.labels.tolist() == [[0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert tested.subset == "the test clips"
    assert "they chose the weights" in tested.notes[0], "there is no other validation split"
