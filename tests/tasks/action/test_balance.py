"""Unequal classes: what is chosen, exact weights and shares, and runs that keep and resume the choice."""

import dataclasses
import json
import math

import pytest
import torch

MODULES = {"av": "video", "accelerate": "train", "torchmetrics": "train", "torchvision": "train"}
for module, extra in MODULES.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from action_runs import CONFIG, SETTINGS, film, train, use_tiny_networks  # noqa: E402 (after the skips)

from torch_nonlocal.tasks.action import task as action  # noqa: E402
from torch_nonlocal.tasks.action.balance import (  # noqa: E402
    ClassCounts,
    balanced,
    class_shares,
    clip_weights,
    positive_weights,
)
from torch_nonlocal.tasks.action.losses import ClassLoss  # noqa: E402
from torch_nonlocal.tasks.action.settings import ActionSettings, settings_of_file  # noqa: E402
from torch_nonlocal.training import load_weights_file  # noqa: E402


def counts_of(*counts, multi_label=False):
    labels = [(label,) for label, count in enumerate(counts) for _ in range(count)]
    return ClassCounts(labels, tuple("abcdef"[: len(counts)]), multi_label)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((10, 10), (1, 1)),
        ((100, 10), (0.55, 5.5)),  # clips / (classes x clips of the class)
        ((6, 3, 2), (11 / 18, 11 / 9, 11 / 6)),
        ((100, 2), (102 / 120, 1020 / 120)),  # at most 10 to 1: 100 w + 2 x 10 w = 102
        ((4, 0, 4), (1, 0, 1)),
    ],
)
def test_weights_of_clips_are_inverse_to_the_counts_with_the_mean_1(counts, expected):
    counts = torch.tensor(counts)
    weights = clip_weights(counts)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1)


def test_shares_of_the_sampler_are_even_up_to_the_limit():
    assert class_shares(counts_of(100, 10, 20)) == pytest.approx([1 / 3] * 3)
    assert class_shares(counts_of(100, 2)) == pytest.approx([100 / 120, 20 / 120])
    assert class_shares(counts_of(5, 0, 5)) == pytest.approx([0.5, 0, 0.5])


def test_weights_of_positives_are_negatives_over_positives_within_limits():
    weights = positive_weights(torch.tensor([10, 25, 40, 1, 0, 50]), 50)
    assert weights.tolist() == pytest.approx([4, 1, 0.25, 10, 1, 0.1])


@pytest.mark.parametrize(
    ("counts", "balance", "metric", "described"),
    [
        ((30, 10), "sampler", "macro_f1", "largest class 'a': 30 clips, smallest 'b': 10 clips; ratio 3, at least 3"),
        ((29, 10), "none", "accuracy", "largest class 'a': 29 clips, smallest 'b': 10 clips; ratio 2.9, below 3"),
        ((4, 40, 0), "sampler", "macro_f1", "largest class 'b': 40 clips, smallest 'a': 4 clips; ratio 10, at least 3"),
    ],
)
def test_choice_follows_from_the_counts_and_is_told_with_the_reason(counts, balance, metric, described):
    settings, lines = balanced(ActionSettings(), counts_of(*counts))
    assert (settings.balance, settings.metric) == (balance, metric)
    ratio = described.split("; ")[1]
    assert lines == [
        f"balance: {balance}, chosen automatically; {described}",
        f"metric: {metric} on the validation clips selects the weights, chosen automatically; {ratio}",
    ]
    given = ActionSettings(balance="loss", metric="accuracy")
    assert balanced(given, counts_of(*counts)) == (given, []), "what the user chose stays"


def test_choice_without_counts_and_with_several_classes():
    settings, lines = balanced(ActionSettings(), ClassCounts((), ("a", "b"), False))
    assert (settings.balance, settings.metric, lines) == ("none", "accuracy", []), "built-in clips are equally many"
    assert balanced(ActionSettings(metric="macro_f1"), ClassCounts((), ("a", "b"), False))[0].metric == "macro_f1"
    settings, lines = balanced(ActionSettings(multi_label=True), counts_of(30, 1, multi_label=True))
    assert (settings.balance, settings.metric) == ("none", "mAP")
    assert lines == [
        "balance: none, chosen automatically; average precision compares the clips of each class by themselves"
    ]


@pytest.mark.parametrize(
    ("given", "found", "message"),
    [
        (
            {"balance": "loss"},
            ClassCounts((), ("a",), False),
            "--balance loss: clips are drawn equally .* auto or none",
        ),
        ({"balance": "sampler"}, counts_of(3, 1, multi_label=True), "--balance sampler: clips have several classes"),
        ({"metric": "accuracy"}, counts_of(3, 1, multi_label=True), "several classes; expected auto or mAP"),
        ({"metric": "mAP"}, counts_of(3, 1), "one class each; expected auto or accuracy or macro_f1"),
        ({"label_smoothing": 0.1}, counts_of(3, 1, multi_label=True), r"label_smoothing=0\.1: the clips have several"),
    ],
)
def test_options_that_do_not_fit_the_data_raise(given, found, message):
    with pytest.raises(ValueError, match=message):
        balanced(ActionSettings(**given), found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"balance": "weights"}, "balance='weights': expected one of auto, none, loss, sampler"),
        ({"metric": "f1"}, "metric='f1': expected one of auto, accuracy, macro_f1, mAP"),
        ({"label_smoothing": 1.0}, r"label_smoothing=1\.0: expected at least 0 and below 1"),
        ({"dropout": -0.1}, r"dropout=-0\.1: expected at least 0 and below 1"),
        ({"mixup": -1.0}, r"mixup=-1\.0: expected 0 \(none\) to 100"),
        ({"cutmix": float("nan")}, r"cutmix=nan: expected 0 \(none\) to 100"),
        ({"rand_augment": 31}, r"rand_augment=31: expected 0 \(none\) to 30"),
    ],
)
def test_values_out_of_range_raise(given, message):
    with pytest.raises(ValueError, match=message):
        ActionSettings(**given)


def test_settings_of_older_files_load():
    old = {"network": "digits", "frames": "2x1", "crop": 16, "non_local": "none", "flip": False, "weights": "none"}
    assert settings_of_file(old) == ActionSettings("digits", "2x1", 16, "none", False)
    with pytest.raises(ValueError, match="balance='both': expected one of"):
        settings_of_file({**old, "balance": "both"})


def test_weighted_and_smoothed_loss_equals_the_definition():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    labels, weights = torch.tensor([0, 2, 1, 0, 2]), torch.tensor([0.5, 1.0, 3.0])
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = sum(map(math.exp, row))
        target = [0.2 / 3 + (0.8 if one == label else 0) for one in range(3)]
        loss = -sum(share * math.log(math.exp(x) / total) for share, x in zip(target, row, strict=True))
        expected += weights[label].item() * loss / 5
    assert float(ClassLoss(False, weights, 0.2)(logits, labels)) == pytest.approx(expected)
    parts = [ClassLoss(False, weights, 0.2)(logits[part], labels[part]) for part in (slice(0, 1), slice(1, 5))]
    assert float(parts[0] + 4 * parts[1]) / 5 == pytest.approx(expected), "parts of a batch add up"


def test_loss_of_several_classes_weighs_positives():
    logits, labels = torch.tensor([[0.3, -1.0]]), torch.tensor([[1.0, 0.0]])
    expected = (4 * math.log1p(math.exp(-0.3)) + math.log1p(math.exp(-1.0))) / 2
    assert float(ClassLoss(True, torch.tensor([4.0, 2.0]))(logits, labels)) == pytest.approx(expected)


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """Eight red and two blue training clips, and four validation clips."""
    root = tmp_path_factory.mktemp("unequal")
    for split, color, name, clips in (
        ("train", 0, "red", 8), ("train", 2, "blue", 2), ("val", 0, "red", 2), ("val", 2, "blue", 2)
    ):  # fmt: skip
        for number in range(clips):
            film(root / split / name / f"{number}.mp4", 1000 * len(split) + 100 * color + number, color=color)
    return root


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    use_tiny_networks(monkeypatch)


def test_automatic_choice_is_saved_and_resumes(unequal, tmp_path):
    result, lines = train(unequal, tmp_path)
    about = load_weights_file(result.weights)["about"]
    assert (about["balance"], about["metric"], result.best["metric"]) == ("sampler", "macro_f1", "macro_f1")
    assert any("balance: sampler, chosen automatically" in line and "'red': 8 clips" in line for line in lines)
    assert set(load_weights_file(result.weights)["metrics"]) == {"accuracy", "balanced_accuracy", "macro_f1", "loss"}
    assert train(unequal, tmp_path)[0].status == "finished before"
    with pytest.raises(ValueError, match=r"about\.balance \(saved: 'sampler', given: 'none'\)"):
        train(unequal, tmp_path, dataclasses.replace(SETTINGS, balance="none"))
    with pytest.raises(ValueError, match=r"about\.mixup \(saved: 0\.0, given: 0\.2\)"):
        train(unequal, tmp_path, dataclasses.replace(SETTINGS, mixup=0.2))


def test_dry_run_tells_the_choice(unequal):
    lines: list[str] = []
    action.check_data(unequal, SETTINGS, log=lines.append)
    assert any(line.startswith("balance: sampler, chosen automatically") for line in lines)


class Crash(Exception):  # noqa: N818 (stands for a killed process)
    pass


@pytest.mark.parametrize("balance", ["sampler", "loss"])
def test_interrupted_run_with_every_option_ends_with_the_same_weights(unequal, tmp_path, monkeypatch, balance):
    options = {"balance": balance, "mixup": 0.4, "cutmix": 1.0, "rand_augment": 9, "dropout": 0.5}
    settings = dataclasses.replace(SETTINGS, label_smoothing=0.1, **options)
    config = dataclasses.replace(CONFIG, epochs=3, batch_size=4, accumulate=2, checkpoint_minutes=0.0)
    train(unequal, tmp_path / "whole", settings, config)
    real, calls = action.ActionTask.loss, iter(range(5))

    def loss(self, model, batch):
        if next(calls, None) is None:
            raise Crash
        return real(self, model, batch)

    monkeypatch.setattr(action.ActionTask, "loss", loss)
    with pytest.raises(Crash):
        train(unequal, tmp_path / "broken", settings, config)
    monkeypatch.setattr(action.ActionTask, "loss", real)
    result, _ = train(unequal, tmp_path / "broken", settings, config)
    assert result.status == "finished"
    states = [torch.load(tmp_path / run / "checkpoints" / "last.pt", weights_only=True) for run in ("whole", "broken")]
    assert states[0]["model"].keys() == states[1]["model"].keys() == {"last.weight", "last.bias"}
    assert all(torch.equal(one, states[1]["model"][name]) for name, one in states[0]["model"].items())


def test_run_of_an_older_version_resumes_without_the_new_options(unequal, tmp_path):
    plain = dataclasses.replace(SETTINGS, balance="none", metric="accuracy")
    config = dataclasses.replace(CONFIG, steps=4, epochs=None, checkpoint_minutes=0.0)
    train(unequal, tmp_path, plain, config)
    held = json.loads((tmp_path / "config.json").read_text())
    for name in ("balance", "metric", "label_smoothing", "mixup", "cutmix", "rand_augment", "dropout"):
        del held["about"][name]
    del held["config"]["patience"]
    (tmp_path / "config.json").write_text(json.dumps(held))
    result, lines = train(unequal, tmp_path, SETTINGS, config)
    assert result.status == "finished before"
    assert not any("chosen automatically" in line and "balance" in line for line in lines)
    with pytest.raises(ValueError, match=r"about\.dropout \(saved: None, given: 0\.5\)"):
        train(unequal, tmp_path, dataclasses.replace(SETTINGS, dropout=0.5), config)
    with pytest.raises(ValueError, match=r"about\.balance \(saved: None, given: 'loss'\)"):
        train(unequal, tmp_path, dataclasses.replace(SETTINGS, balance="loss"), config)


def test_mixing_needs_two_clips_per_forward_pass(unequal, tmp_path):
    config = dataclasses.replace(CONFIG, accumulate=2)
    with pytest.raises(ValueError, match=r"mixup=0\.2, cutmix=0\.0: one clip per forward pass \(batch_size=2, acc"):
        train(unequal, tmp_path, dataclasses.replace(SETTINGS, mixup=0.2), config)


def test_moving_digits_take_no_rand_augment(tmp_path):
    with pytest.raises(ValueError, match="rand_augment=9: moving digits are drawn anew in every epoch"):
        train(None, tmp_path, dataclasses.replace(SETTINGS, network="digits", rand_augment=9))
