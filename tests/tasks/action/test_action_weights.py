"""Initial weights: of another run, with other classes, without blocks, or of a 2D network."""

import dataclasses

import pytest
import torch
from torch import nn

pytest.importorskip("timm", reason="pip install 'torch-nonlocal[train]'")

from torch_nonlocal.insertion import blocks
from torch_nonlocal.tasks.action.network import network, start_from
from torch_nonlocal.tasks.action.settings import ActionSettings
from torch_nonlocal.training import TrainConfig
from torch_nonlocal.training.run_folder import RunFolder

TINY = """
from torch import nn

def tiny():
    layers = nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, 400))

def other():
    return nn.Sequential(nn.Conv3d(3, 6, 3), nn.Conv3d(6, 4, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 9))
"""
CLIPS = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    return ActionSettings(f"{tmp_path / 'tiny.py'}:tiny", frames="4x1", crop=8, non_local="none")


def made(settings, classes, seed=0):
    torch.manual_seed(seed)
    return network(settings, classes).eval()


def kept(path, model, settings, classes):
    """Write a best.pt with this network."""
    about = {"task": "action", **dataclasses.asdict(settings), "classes": [f"class {k}" for k in range(classes)]}
    path.parent.mkdir(exist_ok=True)
    folder = RunFolder(path.parent, TrainConfig(steps=1), about)
    folder.write_weights(path, model.state_dict(), step=1, metrics={})
    return path


def test_blocks_start_at_zero_on_a_network_trained_without(settings, tmp_path):
    before = made(settings, 5)
    path = kept(tmp_path / "run" / "best.pt", before, settings, 5)
    after = made(dataclasses.replace(settings, non_local="0"), 5, seed=1)
    line = start_from(after, dataclasses.replace(settings, weights=str(path)))
    assert list(blocks(after)) == ["0"]
    assert torch.equal(after(CLIPS), before(CLIPS))
    assert line == f"weights: {path}: 9 tensors; newly initialized: 0.non_local (identity until trained)"


def test_last_layer_is_initialized_for_another_number_of_classes(settings, tmp_path):
    before = made(settings, 5)
    path = kept(tmp_path / "run" / "best.pt", before, settings, 5)
    chosen = dataclasses.replace(settings, non_local="0", weights=str(path))
    after, fresh = made(chosen, 3, seed=1), made(chosen, 3, seed=1)
    line = start_from(after, chosen)
    assert torch.equal(after[:5](CLIPS), before[:5](CLIPS))
    assert torch.equal(after[5].weight, fresh[5].weight)
    assert after(CLIPS).shape == (2, 3)
    assert line.endswith(
        "newly initialized: 5 (5 classes in the weights, 3 in the model), 0.non_local (identity until trained)"
    )


def test_last_layer_is_initialized_for_other_class_names(settings, tmp_path):
    before = made(settings, 2)
    path = kept(tmp_path / "run" / "best.pt", before, settings, 2)
    chosen = dataclasses.replace(settings, weights=str(path))
    for classes, new in (
        (["class 0", "class 1"], "nothing"),
        (["run", "walk"], "5 (2 other classes in the weights, 2 in the model)"),
    ):
        after = made(chosen, 2, seed=1)
        assert start_from(after, chosen, classes).endswith(f"newly initialized: {new}")
        assert torch.equal(after[5].weight, before[5].weight) == (new == "nothing")


def test_trained_blocks_are_loaded(settings, tmp_path):
    """A network with blocks initializes one for more frames."""
    with_blocks = dataclasses.replace(settings, non_local="0")
    before = made(with_blocks, 5)
    nn.init.ones_(blocks(before)["0"].norm.weight)
    path = kept(tmp_path / "run" / "best.pt", before, with_blocks, 5)
    after = made(dataclasses.replace(with_blocks, frames="8x1"), 5, seed=1)
    assert start_from(after, dataclasses.replace(settings, weights=str(path))).endswith("newly initialized: nothing")
    assert torch.equal(after(CLIPS), before(CLIPS))


def test_weights_of_the_2d_network_are_inflated(settings, tmp_path):
    flat = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
    torch.save(flat.state_dict(), tmp_path / "flat.pt")
    model = made(settings, 5)
    line = start_from(model, dataclasses.replace(settings, weights=str(tmp_path / "flat.pt")))
    assert torch.equal(model[0].weight, flat[0].weight.unsqueeze(2).repeat(1, 1, 3, 1, 1) / 3)
    assert line.endswith(": 7 tensors, 1 of them inflated; newly initialized: 5 (not in the weights, 5 in the model)")


@pytest.mark.parametrize(
    ("of", "places", "message"),
    [
        ("tiny", "0", "has blocks at 0, the model has none there; insert blocks at the same places"),
        (
            "other",
            "none",
            r"Sequential: missing keys: 1\.running_mean.*unexpected keys: 4\.weight.*other shapes: 0\.weight",
        ),
    ],
)
def test_weights_that_do_not_fit_raise_and_change_nothing(settings, tmp_path, of, places, message):
    theirs = dataclasses.replace(settings, network=settings.network.replace(":tiny", f":{of}"), non_local=places)
    path = kept(tmp_path / "run" / "best.pt", made(theirs, 5), theirs, 5)
    model = made(settings, 5, seed=1)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        start_from(model, dataclasses.replace(settings, weights=str(path)))
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_code_in_a_file_does_not_run(settings, tmp_path):
    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"model": Code()}, tmp_path / "best.pt")
    with pytest.raises(ValueError, match=r"nothing in it was executed: it asks for io\.open"):
        start_from(made(settings, 5), dataclasses.replace(settings, weights=str(tmp_path / "best.pt")))
    assert not (tmp_path / "written").exists()


def test_missing_file_raises(settings):
    with pytest.raises(FileNotFoundError, match=r"no weights file at nowhere\.pt"):
        start_from(made(settings, 5), dataclasses.replace(settings, weights="nowhere.pt"))
