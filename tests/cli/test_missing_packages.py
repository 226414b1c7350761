"""Commands without their optional packages: one line that names an extra that is enough, before any work."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from torch_nonlocal._common.optional import DISTRIBUTIONS, EXTRAS
from torch_nonlocal.training import TrainConfig
from torch_nonlocal.training.run_folder import RunFolder

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
COMMANDS = {
    "demo": ["demo"],
    "plan": ["plan", "torchvision:r3d_18", "--input", "3x8x32x32"],
    "replace": ["replace", "torchvision:r3d_18", "--input", "3x8x32x32"],
    "plan timm": ["plan", "timm:resnet18", "--input", "3x32x32"],
    "train": ["train", "action"],
    "train with data": ["train", "action", "--data", "clips"],
    "test": ["test", "action", "best.pt"],
    "train on images": ["train", "denoise"],
    "test on images": ["test", "denoise", "best.pt"],
    "predict": ["predict", "best.pt", "clip.mp4"],
    "predict with files": ["predict", "best.pt", "clip.mp4", "--every=1s", "--parquet=p.parquet", "--picture=p.png"],
    "view": ["view", "clip.mp4"],
    "view torchvision": ["view", "clip.mp4", "--model", "torchvision:resnet18", "--at", "layer2"],
    "convert": ["convert", "in.safetensors", "out.pt"],
    "data check": ["data", "check", "clips"],
    "gallery build": ["gallery", "build", "people", "best.pt", "set"],
    "gallery delete": ["gallery", "delete", "people", "--identity", "anna"],
    "bench": ["bench"],
    "train on tracklets": ["train", "reid"],
    "test on tracklets": ["test", "reid", "best.pt"],
    "gallery": ["gallery", "search", "people", "query"],
    "denoise": ["denoise", "noisy.png", "clean.png"],
    "denoise with weights": ["denoise", "noisy.png", "clean.png", "--show=5,5"],
}
# A process in which optional packages are not found.
BLOCKED = """
import contextlib, importlib.machinery, io, json, sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else super().find_spec(name, path, target)

blocked, commands = json.loads(sys.argv[1])
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
from torch_nonlocal.cli import main
found = {}
for label, words in commands.items():
    errors, code = io.StringIO(), 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
        try:
            main(words)
        except SystemExit as end:
            code = end.code
    found[label] = [code, errors.getvalue(), "torch" in sys.modules]
print(json.dumps(found))
"""


def run_blocked(commands, present, folder):
    """Exit code and output of commands where only torch and the packages `present` are found; whether torch is used."""
    blocked = sorted(set(EXTRAS) - present - {"jinja2"})  # torch needs jinja2
    command = [sys.executable, "-c", BLOCKED, json.dumps([blocked, commands])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def distributions_of(extras):
    """Names of the packages that extras install, with those of the extras they name."""
    names = set()
    for extra in extras.split(","):
        for requirement in PROJECT["optional-dependencies"][extra]:
            own = re.fullmatch(r"torch-nonlocal\[(.+)\]", requirement)
            names |= distributions_of(own[1]) if own else {re.split(r"[<>=!~\[; ]", requirement)[0]}
    return names


@pytest.fixture(scope="module", params=["only torch", "torch and the command line"])
def outcomes(request, tmp_path_factory):
    """What every command prints where the optional packages are missing; with or without tyro and rich."""
    if request.param != "only torch":
        pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
        pytest.importorskip("rich", reason="pip install 'torch-nonlocal[cli]'")
    folder = tmp_path_factory.mktemp("empty")
    yield run_blocked(COMMANDS, set() if request.param == "only torch" else {"tyro", "rich"}, folder)
    assert not list(folder.iterdir()), "no command leaves a file"


@pytest.mark.parametrize("label", COMMANDS)
def test_a_command_names_an_extra_that_is_enough(outcomes, label):
    code, printed, imported_torch = outcomes[label]
    assert code == 2
    message = re.fullmatch(r"nonlocal: missing packages? (.+): pip install 'torch-nonlocal\[(.+)\]'\n", printed)
    assert message, printed
    assert set(message[1].split(", ")) <= distributions_of(message[2])
    assert not imported_torch, "checked before any work"


@pytest.mark.parametrize("module", EXTRAS)
def test_the_extra_of_a_package_installs_it(module):
    assert DISTRIBUTIONS.get(module, module) in distributions_of(EXTRAS[module])


def test_extras_name_only_extras_that_exist():
    for requirements in PROJECT["optional-dependencies"].values():
        for requirement in requirements:
            own = re.fullmatch(r"torch-nonlocal\[(.+)\]", requirement)
            assert not own or set(own[1].split(",")) <= set(PROJECT["optional-dependencies"])


@pytest.fixture
def files(tmp_path):
    """A folder with a network, a checkpoint of another project and clips."""
    source = "from torch import nn\n\ndef small():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())\n"
    (tmp_path / "network.py").write_text(source)
    layers = "nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 2)"
    clips = f"from torch import nn\n\ndef clips():\n    return nn.Sequential({layers})\n"
    (tmp_path / "clips.py").write_text(clips)
    shapes = {"theta": (4, 8, 1, 1), "phi": (4, 8, 1, 1), "g": (4, 8, 1, 1), "W_z.0": (8, 4, 1, 1)}
    theirs = {f"nl_1.{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    torch.save(
        {**theirs, **{f"nl_1.{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}},
        tmp_path / "theirs.pth",
    )
    return tmp_path


@pytest.mark.parametrize(
    ("extras", "words"),
    [
        ("cli", ["plan", "network.py:small", "--input", "3x8x8"]),
        ("cli", ["convert", "theirs.pth", "ours.pt"]),
        ("checkpoints,cli", ["convert", "theirs.pth", "ours.safetensors"]),
        ("cli,video", ["data", "check", "clips"]),
        (
            "cli,models,video",
            ["predict", "best.pt", "clips/walk/1.mp4", "--network", "clips.py:clips", "--json", "p.json"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_command_runs_with_its_extra_alone(extras, words, files):
    present = {module for module in EXTRAS if DISTRIBUTIONS.get(module, module) in distributions_of(extras)}
    for module in present:
        pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{EXTRAS[module]}]'")
    if words[0] in ("data", "predict"):
        from torch_nonlocal.media import write_mp4

        (files / "clips" / "walk").mkdir(parents=True)
        write_mp4(files / "clips" / "walk" / "1.mp4", torch.zeros(4, 32, 32, 3, dtype=torch.uint8).numpy(), 8)
    if words[0] == "predict":
        about = {
            "task": "action",
            "network": "",
            "frames": "2x1",
            "crop": 16,
            "non_local": "none",
            "classes": ["a", "b"],
        }
        folder = RunFolder(files, TrainConfig(steps=1), about)
        tensors = {"2.weight": torch.zeros(2, 3), "2.bias": torch.zeros(2)}
        folder.write_weights(files / "best.pt", tensors, step=1, metrics={})
    code, printed, _ = run_blocked({"command": words}, present, files)["command"]
    assert code == 0, printed
