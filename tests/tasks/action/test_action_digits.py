"""Action recognition without data of one's own: moving digits go the way that clips go."""

import dataclasses
import json

import pytest
import torch

NEEDS = {"accelerate": "train", "tensorboard": "train", "torchmetrics": "train", "sklearn": "demo"}
for module, extra in NEEDS.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from torch_nonlocal.data import RELATIONS  # noqa: E402 (after the skips)
from torch_nonlocal.tasks.action import data as action_data  # noqa: E402
from torch_nonlocal.tasks.action import task as action  # noqa: E402
from torch_nonlocal.tasks.action.recipes import recipe  # noqa: E402
from torch_nonlocal.training import load_weights_file  # noqa: E402

SETTINGS = recipe("digits").settings


class Killed(BaseException):
    """The end of a process, as far as `fit` can tell."""


def config(**changes):
    values = {"epochs": None, "steps": 6, "batch_size": 4, "workers": 0, "log_every": 1, "checkpoint_minutes": 0.0}
    return dataclasses.replace(recipe("digits").config, **{**values, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A short run never interrupted, its folder and what it said."""
    torch.set_num_threads(1)
    folder, said = tmp_path_factory.mktemp("whole"), []
    result = action.train(None, folder, SETTINGS, config(), log=said.append)
    return folder, said, result


def state(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def test_a_run_leaves_what_a_run_on_clips_leaves(whole):
    folder, said, result = whole
    assert (result.status, result.best["metric"]) == ("finished", "accuracy")
    assert said[0] == "weights: all random"
    kept = load_weights_file(result.weights)
    assert kept["about"] == {"task": "action", **dataclasses.asdict(SETTINGS), "classes": list(RELATIONS)}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    test = next(line for line in lines if line["kind"] == "eval")
    assert 0 < test["attention/conv3.2/entropy"] <= 1
    assert list((folder / "tensorboard").iterdir())
    assert not (folder / "broken.jsonl").exists()


def test_an_interrupted_run_ends_with_the_same_bits(whole, tmp_path):
    def die_after_three(line):
        if line.startswith("3/6"):
            raise Killed

    with pytest.raises(Killed):
        action.train(None, tmp_path, SETTINGS, config(), log=die_after_three)
    assert 2 <= state(tmp_path)["progress"]["step"] <= 3
    said = []
    assert action.train(None, tmp_path, SETTINGS, config(), log=said.append).status == "finished"
    assert not any(line.startswith("weights:") for line in said), "they are those of the checkpoint"
    one, other = state(whole[0]), state(tmp_path)
    assert all(torch.equal(tensor, other["model"][name]) for name, tensor in one["model"].items())
    assert one["progress"]["loss"] == other["progress"]["loss"]


def test_a_test_shows_unseen_handwriting(whole, monkeypatch):
    assert action_data.TEST_DIGITS == 2000
    monkeypatch.setattr(action_data, "TEST_DIGITS", 200)
    tested = action.evaluate(whole[2].weights, None, workers=0, batch=50)
    assert tested.scores.clips == len(tested.clips) == 200
    assert tested.clips.classes == RELATIONS
    assert [clip.label for clip in tested.clips.clips] == tested.labels.tolist()
    assert tested.clips.name(tested.clips.clips[3]) == "test/3"


def test_the_command_tests_without_data(whole, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="pip install 'torch-nonlocal[view]'")
    from torch_nonlocal.cli.app import app_for

    monkeypatch.setattr(action_data, "TEST_DIGITS", 60)
    arguments = ["test", "action", str(whole[2].weights), "--out", str(tmp_path), "--workers", "0", "--mistakes", "1"]
    app_for(arguments).cli(args=arguments, prog="nonlocal")
    assert json.loads((tmp_path / "scores.json").read_text())["clips"] == 60
    assert (tmp_path / "confusion.png").exists()
    assert len(list((tmp_path / "mistakes").glob("*.png"))) == 1
    assert "taken for" in capsys.readouterr().out


def test_blocks_go_into_a_network_trained_without(whole, tmp_path):
    settings = dataclasses.replace(SETTINGS, non_local="none")
    before = action.train(None, tmp_path / "without", settings, config(steps=2), log=lambda line: None)
    said = []
    settings = dataclasses.replace(SETTINGS, weights=str(before.weights))
    after = action.train(None, tmp_path / "with", settings, config(steps=1, lr=1e-30), log=said.append)
    assert said[0].endswith("new: blocks at conv3.2 (they start at zero)")
    first, second = (load_weights_file(one.weights)["model"] for one in (before, after))
    assert all(torch.allclose(second[name], one) for name, one in first.items() if name.endswith(("weight", "bias")))


def test_other_networks_take_the_digits_in_colour():
    from torch_nonlocal.data.broken import BrokenClips
    from torch_nonlocal.tasks.action.data import source

    settings = dataclasses.replace(SETTINGS, network="small", frames="4x2")
    digits = source(None, settings, "skip")
    clip, label, index = digits.training(settings, 0, BrokenClips())[0][5]
    assert (clip.shape, clip.dtype, index) == ((3, 4, 32, 32), torch.uint8, 5)
    assert digits.classes[label] in RELATIONS


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"frames": "8x8"}, None, r"speeds: got \(8, 24\).*< size / 2 = 16"),
        ({}, "clips", "network 'digits' is for moving digits alone: expected no --data"),
        ({"weights": "imagenet"}, None, "weights 'imagenet': there are none for the network of moving digits"),
    ],
)
def test_what_does_not_fit_is_said(changes, data, message, tmp_path):
    settings = dataclasses.replace(SETTINGS, **changes)
    with pytest.raises(ValueError, match=message):
        action.train(data and tmp_path / data, tmp_path / "run", settings, config())
    assert not (tmp_path / "run").exists()
