"""Recipes hold the published numbers, and options of the command line override them."""

import dataclasses
import json
import re

import pytest
import torch

for module, extra in {"tyro": "cli", "rich": "cli"}.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

import tyro  # noqa: E402 (after the skips)

from torch_nonlocal.cli.train import command, recipe_table  # noqa: E402
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


def train(*arguments):
    """`nonlocal train` with these arguments, as the command line parses them."""
    return tyro.cli(command(arguments), args=list(arguments), prog="nonlocal train")


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


def test_options_override_a_recipe_and_all_settings_are_said(tmp_path, capsys):
    options = "--recipe", "i3d-r50-nl5", "--dry-run", "--batch-size", "16", "--crop", "112", "--epochs", "3"
    train("action", "--data", str(tmp_path), "--out", str(tmp_path / "run"), *options)
    printed = capsys.readouterr().out
    said = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    chosen = RECIPES["i3d-r50-nl5"]
    changes = {"batch_size": 16, "crop": 112, "epochs": 3, "steps": None}
    assert said == {**vars(chosen.settings), **chosen.config.plain(), **changes}
    assert "recipe i3d-r50-nl5, changed by other options: Wang et al. 2018" in printed
    assert "linear scaling gives --lr 0.0025" in printed
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(("--data", "x"), "small"), (("--data=x",), "small"), ((), "digits"), (("--recipe=laptop",), "small")],
)
def test_data_and_recipe_choose_the_defaults(arguments, expected, capsys):
    train("action", *arguments, "--dry-run")
    said = json.loads(next(line for line in capsys.readouterr().out.splitlines() if line.startswith("{")))
    assert said["network"] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "i3d-r50-128f-nl5", "--data", "x"), "expected --weights with best.pt of --recipe i3d-r50-nl5"),
        (("--recipe", "laptop"), "recipe laptop is for clips: expected --data"),
    ],
)
def test_what_a_recipe_needs_is_said(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train("action", *arguments, "--out", str(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_the_list_shows_every_recipe(capsys):
    train("action", "--recipe", "list")
    assert recipe_table().row_count == len(RECIPES)
    shown = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert set(RECIPES) <= shown


def test_settings_survive_json():
    for one in RECIPES.values():
        assert ActionSettings(**json.loads(json.dumps(dataclasses.asdict(one.settings)))) == one.settings
