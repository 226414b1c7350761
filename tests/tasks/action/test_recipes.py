"""Recipes hold the published numbers, and options of the command line override them."""

import dataclasses
import json
import re

import pytest
import torch
from action_runs import film_classes

for module, extra in {"tyro": "cli", "rich": "cli"}.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from torch_nonlocal.cli import main  # noqa: E402 (after the skips)
from torch_nonlocal.insertion import blocks  # noqa: E402
from torch_nonlocal.media.sampling import parse_schedule  # noqa: E402
from torch_nonlocal.tasks.action.network import network  # noqa: E402
from torch_nonlocal.tasks.action.recipes import RECIPES  # noqa: E402
from torch_nonlocal.tasks.action.settings import ActionSettings  # noqa: E402
from torch_nonlocal.tasks.action.spec import ACTION  # noqa: E402
from torch_nonlocal.tasks.base import learning_rate_hint  # noqa: E402
from torch_nonlocal.training import TrainConfig  # noqa: E402
from torch_nonlocal.training.optimizer import schedule_factor  # noqa: E402

PAPERS = [name for name, one in RECIPES.items() if one.settings.network.startswith("ours:")]


@pytest.mark.parametrize(
    ("name", "settings", "config", "published"),
    [
        # 32 frames: 400,000 steps of batch size 64, lr 0.01, from ImageNet, batch norm on (Wang et al., section 4)
        ("c2d-r50", ("c2d_resnet50", "64-to-32", "none", "imagenet"), (400_000, None, 64, 0.01, False), "71.8/89.7"),
        ("c2d-r101-nl5", ("c2d_resnet101", "64-to-32", "paper-5", "imagenet"), (400_000, None, 64, 0.01, False),
         "75.1/91.7"),
        ("i3d-r50-nl5", ("i3d_resnet50", "64-to-32", "paper-5", "imagenet"), (400_000, None, 64, 0.01, False),
         "74.9/91.6"),
        # 128 frames: from the 32-frame network, two clips on each of 8 GPUs, batch norm frozen, lr 0.0025 (section 5.1)
        ("i3d-r101-128f-nl5", ("i3d_resnet101", "128x1", "paper-5", "none"), (400_000, None, 16, 0.0025, True),
         "77.7/93.3"),
        # 8 x 8: 196 epochs from scratch, 118 from ImageNet (PySlowFast)
        ("i3d-r50-8x8-nl5", ("i3d_resnet50_8x8", "8x8", "paper-5", "none"), (None, 196, 64, 0.1, False), "74.0/91.1"),
        ("i3d-r50-8x8-imagenet", ("i3d_resnet50_8x8", "8x8", "none", "imagenet"), (None, 118, 64, 0.01, False), "73.4"),
    ],
)  # fmt: skip
def test_numbers_equal_the_published_ones(name, settings, config, published):
    one = RECIPES[name]
    held = one.settings
    assert (held.network.removeprefix("ours:"), held.frames, held.non_local, held.weights) == settings
    assert (held.crop, held.flip) == (224, True)
    held = one.config
    assert (held.steps, held.epochs, held.batch_size, held.lr, held.freeze_bn) == config
    assert (held.optimizer, held.momentum, held.weight_decay) == ("sgd", 0.9, 1e-4)
    assert one.published == published


@pytest.mark.parametrize(
    ("name", "length", "expected"),
    [
        ("i3d-r50", 400_000, {0: 0.01, 149_999: 0.01, 150_000: 0.001, 300_000: 0.0001}),
        ("i3d-r50-128f", 400_000, {0: 0.0025, 150_000: 0.00025}),
        ("i3d-r50-8x8-imagenet", 118, {43: 0.01, 44: 0.001, 88: 0.0001}),
        ("i3d-r50-8x8", 196, {0: 0.1 / 34, 33: 0.1, 34: 0.1, 115: 0.05}),
    ],
)
def test_learning_rates_follow_the_published_schedules(name, length, expected):
    config = RECIPES[name].config
    assert length == (config.steps or config.epochs)
    for step, rate in expected.items():
        assert config.lr * schedule_factor(config, step, length) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("name", PAPERS)
def test_networks_have_five_blocks_or_none(name):
    settings = RECIPES[name].settings
    with torch.device("meta"):
        model = network(settings, 400)
    assert len(blocks(model)) == (5 if name.endswith("nl5") or name.startswith("gpu") else 0)
    assert model.dropout.p == 0.5
    assert parse_schedule(settings.frames).length in (8, 32, 128)


def test_recipes_of_128_frames_start_from_the_same_network_with_fewer_frames():
    starting = {name: one for name, one in RECIPES.items() if one.starts_from}
    assert sorted(starting) == sorted(name for name in RECIPES if "128f" in name)
    for one in starting.values():
        before = RECIPES[one.starts_from].settings
        changed = {"frames": before.frames, "weights": before.weights}
        assert dataclasses.replace(one.settings, **changed) == before


@pytest.mark.parametrize(
    ("given", "near"), [("i3d-r50-nl", "i3d-r50-nl5"), ("I3D_R101", "i3d-r101"), ("latop", "laptop")]
)
def test_unknown_name_suggests_the_nearest(given, near):
    with pytest.raises(ValueError, match=f"no recipe '{given}'; did you mean '{near}'\\?"):
        ACTION.recipe(given)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"batch_size": 16}, "lr 0.01 is for batch size 64, the batch size is 16; linear scaling gives --lr 0.0025"),
        ({"batch_size": 16, "lr": 0.0025}, ""),
        ({"batch_size": 16, "optimizer": "adamw"}, "lr 0.01 is for batch size 64, the batch size is 16$"),
    ],
)
def test_another_batch_size_gives_a_hint(changes, expected):
    chosen = TrainConfig(steps=1, batch_size=64, lr=0.01)
    hint = learning_rate_hint(dataclasses.replace(chosen, **changes), chosen)
    assert re.match(expected, hint) if expected else hint == ""


@pytest.mark.parametrize(
    ("words", "network", "frames"),
    [
        ([], "digits", "8x1"),
        (["--data", "x"], "small", "auto"),
        (["--recipe=laptop"], "small", "auto"),
        (["--data", "x", "--frames", "8x8"], "small", "8x8  (recipe: auto)"),
        (["--recipe", "i3d-r50-nl5", "--frames", "128x1"], "ours:i3d_resnet50", "128x1  (recipe: 64-to-32)"),
    ],
)
def test_data_recipe_and_options_choose_the_settings(words, network, frames, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    film_classes(tmp_path / "x")
    before = sorted(tmp_path.rglob("*"))
    main(["train", "action", *words, "--dry-run"])
    printed = capsys.readouterr().out
    assert re.search(rf"^  network +{re.escape(network)}( |$)", printed, re.MULTILINE)
    assert re.search(rf" frames +{re.escape(frames)}$", printed, re.MULTILINE)
    assert sorted(tmp_path.rglob("*")) == before, "a dry run writes nothing"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "i3d-r50-128f-nl5", "--data", "x"], "expected --weights with best.pt of --recipe i3d-r50-nl5"),
        (["--recipe", "laptop"], "recipe laptop has no built-in data: expected --data"),
    ],
)
def test_missing_data_and_weights_of_a_recipe_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["train", "action", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_settings_survive_json():
    for one in RECIPES.values():
        assert ActionSettings(**json.loads(json.dumps(dataclasses.asdict(one.settings)))) == one.settings
