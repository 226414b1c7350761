"""`nonlocal export`: every network of `--network` and the recipes, its scores, its metadata, its mistakes."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

for package in ("accelerate", "onnx", "onnxruntime", "onnxscript", "rich", "timm", "torchvision", "tyro"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[export,train]'")

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from action_runs import SETTINGS, use_tiny_networks  # noqa: E402

import torch_nonlocal as nl  # noqa: E402
from torch_nonlocal.cli import main  # noqa: E402
from torch_nonlocal.models.inputs import Inputs  # noqa: E402
from torch_nonlocal.tasks import exporting  # noqa: E402
from torch_nonlocal.tasks.action.classifier import ActionClassifier  # noqa: E402
from torch_nonlocal.tasks.action.export import export  # noqa: E402
from torch_nonlocal.tasks.action.network import network  # noqa: E402
from torch_nonlocal.tasks.action.recipes import RECIPES  # noqa: E402
from torch_nonlocal.tasks.action.settings import AUTO, NONE, ActionSettings  # noqa: E402
from torch_nonlocal.training import TrainConfig  # noqa: E402
from torch_nonlocal.training.run_folder import RunFolder  # noqa: E402

CLASSES = ("a", "b", "c")
OF_TORCHVISION = [
    ActionSettings("torchvision:r3d_18"),
    ActionSettings("torchvision:mc3_18"),
    ActionSettings("torchvision:r2plus1d_18"),
    ActionSettings("torchvision:swin3d_t", non_local=NONE),
    ActionSettings("ours:i3d_resnet50_3x3x3"),
]


def name_of(settings):
    return f"{settings.network}-{settings.frames}-{settings.non_local}"


OF_RECIPES = {name_of(one.settings): dataclasses.replace(one.settings, weights=NONE) for one in RECIPES.values()}
"""Settings of the recipes; several recipes share them."""


def trained(settings, classes=CLASSES):
    """A network with features of the scale of trained ones, and blocks that attend to many positions.

    In ResNets with random weights, features grow with every residual block, and attention to them is sharp: rounding
    errors of float32 alone exceed 1e-4.
    """
    torch.manual_seed(0)
    model = network(settings, len(classes))
    for name, module in model.named_modules():
        if name.endswith("bn3") and settings.network.startswith("ours:"):
            torch.nn.init.constant_(module.weight, 0.2)
    for block in nl.blocks(model).values():
        if block.norm is not None:
            torch.nn.init.normal_(block.norm.weight, std=0.5)
        if settings.network.startswith(("ours:", "torchvision:")):
            torch.nn.init.normal_(block.theta.weight, std=0.002)
    return ActionClassifier(model, settings, classes).eval()


def small(settings):
    """The settings with frames of at most 64 pixels; the graph is the same. The automatic choice is made."""
    frames = "uniform-8" if settings.frames == AUTO else settings.frames
    return dataclasses.replace(settings, crop=min(settings.crop, 64), frames=frames)


def scores_of(path, clips):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["scores"], {"clips": clips.numpy()})[0])


# The many layers of the default network take half a minute; tests/inflation exports its backbone.
@pytest.mark.parametrize(
    "settings", [pytest.param(ActionSettings(), marks=pytest.mark.extended), RECIPES["digits"].settings], ids=name_of
)
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_networks_trained_by_default_are_exported_for_any_batch_and_length(settings, suffix, tmp_path):
    model, path = trained(small(settings)), tmp_path / f"out{suffix}"
    made = export(model, path, format=exporting.SUFFIXES[suffix])
    channels, side = model.inputs.channels, small(settings).crop
    assert made.shape == ("batch", channels, "frames", side, side)
    assert made.difference <= 1e-4
    assert {shape[2] for shape in made.checked} == {8, 12}
    clips = torch.randn(3, channels, 5, side, side)
    found = scores_of(path, clips) if suffix == ".onnx" else torch.export.load(path).module()(clips)
    torch.testing.assert_close(found, model(clips), rtol=1e-4, atol=1e-4)


@pytest.mark.extended
@pytest.mark.parametrize("settings", [*OF_RECIPES.values(), *OF_TORCHVISION], ids=name_of)
def test_every_network_of_the_recipes_is_exported_to_onnx(settings, tmp_path):
    made = export(trained(small(settings)), tmp_path / "out.onnx", format="onnx")
    assert made.shape[0] == "batch"
    assert made.shape[2] == "frames"
    assert made.difference <= 1e-4


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with best.pt of a tiny network."""
    use_tiny_networks(monkeypatch)
    monkeypatch.chdir(tmp_path)
    inputs = Inputs((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    about = {"task": "action", **dataclasses.asdict(SETTINGS), "classes": list(CLASSES), "inputs": inputs.to_dict()}
    model = network(SETTINGS, 3)
    RunFolder(tmp_path, TrainConfig(steps=1), about).write_weights(
        tmp_path / "best.pt", model.state_dict(), step=1, metrics={}
    )
    return tmp_path


def command(*words):
    try:
        main(["export", *map(str, words)])
    except SystemExit as end:
        return end.code
    return 0


EXPECTED = {
    "classes": ["a", "b", "c"],
    "activation": "softmax",
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "value_range": [0, 1],
    "color_order": "RGB",
    "layout": "BCTHW",
    "size": [16, 16],
    "short_side": 18,
    "frames": 2,
    "stride": 2,
    "fps": None,
    "task": "action",
    "dynamic": ["batch", "frames"],
}


def test_metadata_name_the_classes_and_the_preprocessing(run, capsys):
    assert command("best.pt", "out.onnx") == 0
    held = {entry.key: entry.value for entry in onnx.load("out.onnx").metadata_props}
    assert {name: json.dumps(value) if not isinstance(value, str) else value for name, value in EXPECTED.items()} == {
        name: held[name] for name in EXPECTED
    }
    printed = capsys.readouterr().out
    assert "input: clips (batch, 3, frames, 16, 16), float32, normalized; output: scores (batch, 3)" in printed
    assert "largest difference: " in printed
    assert "onnxruntime" in printed
    assert command("best.pt", "out.pt2") == 0
    extra = {exporting.METADATA: ""}
    torch.export.load("out.pt2", extra_files=extra)
    plain = json.loads(extra[exporting.METADATA])
    assert {name: plain[name] for name in EXPECTED} == EXPECTED


def test_the_metadata_suffice_to_predict_as_the_model_does(run):
    assert command("best.pt", "out.onnx") == 0
    held = {entry.key: entry.value for entry in onnx.load("out.onnx").metadata_props}
    frames = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)  # of the size of the input: no crop of the frame
    mean, std = (torch.tensor(json.loads(held[name])).view(3, 1, 1, 1) for name in ("mean", "std"))
    clip = (frames.permute(3, 0, 1, 2) / 255 - mean) / std
    probabilities = scores_of("out.onnx", clip[None].float()).softmax(1)[0]
    found = nl.load("best.pt").predict(frames, views=1, crops="full")
    by_class = dict(zip(json.loads(held["classes"]), probabilities.tolist(), strict=True))
    assert by_class == pytest.approx(dict(found.top()), abs=0.02)  # the whole frame is scaled to the short side


class OneLength(torch.nn.Module):
    """A network for clips of two frames."""

    def __init__(self, classes):
        super().__init__()
        self.last = torch.nn.Linear(6, classes)

    def forward(self, clips):
        return self.last(clips.mean((3, 4)).flatten(1))


def test_a_network_of_one_length_has_a_dynamic_batch_only(run, capsys):
    made = export(ActionClassifier(OneLength(3).eval(), SETTINGS, CLASSES), Path("out.onnx"), format="onnx")
    assert made.shape == ("batch", 3, 2, 16, 16)
    held = {entry.key: entry.value for entry in onnx.load("out.onnx").metadata_props}
    assert held["dynamic"] == '["batch"]'
    assert {shape[0] for shape in made.checked} == {1, 2}


class Unequal(torch.nn.Module):
    """A network whose exported form computes something else."""

    def __init__(self):
        super().__init__()
        self.last = torch.nn.Linear(3, 3)

    def forward(self, clips):
        scores = self.last(clips.mean((2, 3, 4)))
        return scores + 0.01 if torch.compiler.is_exporting() else scores


@pytest.mark.parametrize("name", ["out.onnx", "out.pt2"])
def test_unequal_scores_are_an_error_and_nothing_is_written(run, name):
    model, before = ActionClassifier(Unequal().eval(), SETTINGS, CLASSES), set(run.iterdir())
    with pytest.raises(ValueError, match=rf"{name} is not written: its scores up to .* differ by 0.01, expected"):
        export(model, Path(name), format=exporting.SUFFIXES[Path(name).suffix])
    assert set(run.iterdir()) == before


class Rounding(Unequal):
    """The same with rounding errors of up to 0.03 of its own, which explain the difference."""

    def forward(self, clips):
        return super().forward(clips) + 0.5 * clips.amax((1, 2, 3, 4))[:, None] + 1e6 - 1e6


def test_a_difference_within_rounding_errors_of_the_network_is_reported(run):
    model = ActionClassifier(Rounding().eval(), SETTINGS, CLASSES)
    made = export(model, Path("out.pt2"), format="exported-program")
    assert made.rounding is not None
    assert 1e-4 < made.difference <= 4 * made.rounding < 0.2


class Refusing(torch.nn.Module):
    """A network whose path depends on its values, which no graph can hold."""

    def __init__(self):
        super().__init__()
        self.last = torch.nn.Linear(3, 3)

    def forward(self, clips):
        return self.last(clips.mean((2, 3, 4))) * (1 if clips.sum().item() > 0 else 2)


def test_a_network_that_cannot_be_exported_is_named_in_one_line(run):
    before = set(run.iterdir())
    with pytest.raises(ValueError, match=r"^Refusing cannot be exported: ") as error:
        export(ActionClassifier(Refusing().eval(), SETTINGS, CLASSES), Path("out.onnx"), format="onnx")
    assert "\n" not in str(error.value)
    assert set(run.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("best.pt", "out.txt"), "OUT out.txt: expected a name that ends in .onnx or .pt2"),
        (("best.pt", "out.onnx", "--format", "exported-program"), "expected a name that ends in .pt2"),
        (("best.pt", "there.onnx"), "OUT there.onnx exists; --overwrite replaces it"),
        (("best.pt", "nowhere/out.onnx"), "there is no folder nowhere"),
        (("missing.pt", "out.onnx"), "no weights at missing.pt"),
        (("there.onnx", "out.onnx"), "there.onnx"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_end_in_one_line_and_leave_no_file(words, message, run, capsys):
    Path("there.onnx").write_text("kept")
    before = set(run.rglob("*"))
    assert command(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert set(run.rglob("*")) == before
    assert Path("there.onnx").read_text() == "kept"


def test_overwrite_replaces_the_file(run):
    Path("out.onnx").write_text("former")
    assert command("best.pt", "out.onnx", "--overwrite") == 0
    assert onnx.load("out.onnx").graph.output[0].name == "scores"
