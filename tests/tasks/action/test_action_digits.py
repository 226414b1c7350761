"""Action recognition on built-in moving digits, through the same code as clips."""

import dataclasses
import json

import pytest
import torch

NEEDS = {"accelerate": "train", "tensorboard": "train", "torchmetrics": "train", "sklearn": "demo"}
for module, extra in NEEDS.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from torch_nonlocal.data import RELATIONS  # noqa: E402 (after the skips)
from torch_nonlocal.models.inputs import GRAY  # noqa: E402
from torch_nonlocal.tasks.action import data as action_data  # noqa: E402
from torch_nonlocal.tasks.action.evaluation import evaluate  # noqa: E402
from torch_nonlocal.tasks.action.recipes import RECIPES  # noqa: E402
from torch_nonlocal.tasks.action.settings import PLACES, ActionTestOptions  # noqa: E402
from torch_nonlocal.tasks.action.spec import ACTION  # noqa: E402
from torch_nonlocal.training import load_weights_file  # noqa: E402

SETTINGS = RECIPES["digits"].settings


class Killed(BaseException):
    """Ends `fit` like the end of the process."""


def config(**changes):
    values = {"epochs": None, "steps": 6, "batch_size": 4, "workers": 0, "log_every": 1, "checkpoint_minutes": 0.0}
    return dataclasses.replace(RECIPES["digits"].config, **{**values, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A short uninterrupted run: its folder, log lines and result."""
    torch.set_num_threads(1)
    folder, lines = tmp_path_factory.mktemp("whole"), []
    result = ACTION.train(None, folder, SETTINGS, config(), log=lines.append)
    return folder, lines, result


def state(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def test_a_run_writes_the_same_files_as_a_run_on_clips(whole):
    folder, log_lines, result = whole
    assert (result.status, result.best["metric"]) == ("finished", "accuracy")
    assert log_lines[0] == "weights: all newly initialized"
    kept = load_weights_file(result.weights)
    settings = {name: value for name, value in dataclasses.asdict(SETTINGS).items() if name not in PLACES}
    settings |= {"balance": "none", "metric": "accuracy"}  # chosen automatically
    assert kept["about"] == {"task": "action", **settings, "classes": list(RELATIONS), "inputs": GRAY.to_dict()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    test = next(line for line in lines if line["kind"] == "validation")
    assert 0 < test["attention/conv3.2/entropy"] <= 1
    assert list((folder / "tensorboard").iterdir())
    assert not (folder / "broken.jsonl").exists()


def test_an_interrupted_run_ends_with_identical_weights(whole, tmp_path):
    def die_after_three(line):
        if line.startswith("3/6"):
            raise Killed

    with pytest.raises(Killed):
        ACTION.train(None, tmp_path, SETTINGS, config(), log=die_after_three)
    assert 2 <= state(tmp_path)["progress"]["step"] <= 3
    lines = []
    assert ACTION.train(None, tmp_path, SETTINGS, config(), log=lines.append).status == "finished"
    assert not any(line.startswith("weights:") for line in lines), "the weights come from the checkpoint"
    one, other = state(whole[0]), state(tmp_path)
    assert all(torch.equal(tensor, other["model"][name]) for name, tensor in one["model"].items())
    assert one["progress"]["loss"] == other["progress"]["loss"]


def test_test_clips_have_unseen_handwriting(whole, monkeypatch):
    assert action_data.TEST_DIGITS == 2000
    monkeypatch.setattr(action_data, "TEST_DIGITS", 200)
    tested = evaluate(whole[2].weights, None, workers=0, batch=50)
    assert tested.scores.clips == len(tested.clips) == 200
    assert tested.clips.classes == RELATIONS
    assert [clip.label for clip in tested.clips.clips] == tested.labels.tolist()
    assert tested.clips.name(tested.clips.clips[3]) == "test/3"


def test_results_are_written_without_data(whole, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="pip install 'torch-nonlocal[view]'")
    monkeypatch.setattr(action_data, "TEST_DIGITS", 60)
    lines = []
    ACTION.test(whole[2].weights, None, tmp_path, ActionTestOptions(workers=0, mistakes=1), log=lines.append)
    assert json.loads((tmp_path / "scores.json").read_text())["clips"] == 60
    assert (tmp_path / "confusion.png").exists()
    assert len(list((tmp_path / "mistakes").glob("*.png"))) == 1
    assert any(line.startswith("mistake: test/") for line in lines)


def test_blocks_are_inserted_into_a_network_trained_without(whole, tmp_path):
    settings = dataclasses.replace(SETTINGS, non_local="none")
    before = ACTION.train(None, tmp_path / "without", settings, config(steps=2), log=lambda line: None)
    lines = []
    settings = dataclasses.replace(SETTINGS, weights=str(before.weights))
    after = ACTION.train(None, tmp_path / "with", settings, config(steps=1, lr=1e-30), log=lines.append)
    assert lines[0].endswith("newly initialized: conv3.2.non_local (identity until trained)")
    first, second = (load_weights_file(one.weights)["model"] for one in (before, after))
    assert all(torch.allclose(second[name], one) for name, one in first.items() if name.endswith(("weight", "bias")))


def test_other_networks_get_three_color_channels():
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
        ({}, "clips", "network 'digits' takes moving digits only; expected no --data"),
        ({"weights": "imagenet"}, None, "weights 'imagenet': the network for moving digits has none"),
    ],
)
def test_invalid_settings_raise_and_write_nothing(changes, data, message, tmp_path):
    settings = dataclasses.replace(SETTINGS, **changes)
    with pytest.raises(ValueError, match=message):
        ACTION.train(data and tmp_path / data, tmp_path / "run", settings, config())
    assert not (tmp_path / "run").exists()
