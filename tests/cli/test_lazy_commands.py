"""The command line brings large packages only to the sub-command that needs them."""

import inspect
import subprocess
import sys
from importlib import import_module

import pytest

pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
pytest.importorskip("rich", reason="pip install 'torch-nonlocal[cli]'")

from torch_nonlocal.cli.app import COMMANDS, app_for

HELPS = """
import sys
from torch_nonlocal.cli.app import run
for arguments in (["--help"], ["plan", "--help"], ["train", "--help"]):
    sys.argv = ["nonlocal", *arguments]
    try:
        run()
    except SystemExit as end:
        assert not end.code, arguments
print(*sorted(sys.modules), file=sys.stderr)
"""


def test_help_imports_no_large_package():
    done = subprocess.run([sys.executable, "-c", HELPS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    imported = set(done.stderr.split())
    assert {"torch_nonlocal.cli.plan", "torch_nonlocal.cli.train"} <= imported
    packages = {name.split(".")[0] for name in imported}
    large = {"torchvision", "matplotlib", "accelerate", "timm", "av", "PIL", "sklearn", "torchmetrics", "tensorboard"}
    assert not packages & large
    assert not {name for name in imported if name.startswith(("torch_nonlocal.view", "torch_nonlocal.benchmark"))}
    assert "Where blocks can go in a network" in done.stdout


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "data"])
def test_the_overview_says_what_each_command_says_of_itself(name):
    pytest.importorskip("matplotlib", reason="pip install 'torch-nonlocal[view]'")
    attribute, sentence = COMMANDS[name]
    found = getattr(import_module(f"torch_nonlocal.cli.{name}"), attribute)
    text = inspect.getdoc(found([]) if name == "train" else found)
    assert " ".join(text.split("\n\n")[0].split()) == sentence


def test_the_overview_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        app_for(["--help"]).cli(args=["--help"], prog="nonlocal")
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"• {name} " in printed for name in COMMANDS)


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        app_for(["trian"]).cli(args=["trian"], prog="nonlocal")
    assert end.value.code == 2
    assert "train" in capsys.readouterr().err
