"""Help: complete, readable in 80 columns, and printed without importing torch."""

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
pytest.importorskip("rich", reason="pip install 'torch-nonlocal[cli]'")

from torch_nonlocal.cli.app import COMMANDS
from torch_nonlocal.cli.entry import main
from torch_nonlocal.tasks.base import task_names

PROBE = """
import sys
from torch_nonlocal.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
LARGE = {
    "torch", "torchvision", "numpy", "timm", "av", "PIL", "matplotlib", "sklearn", "accelerate", "torchmetrics",
    "tensorboard", "safetensors",
}  # fmt: skip
COMMAND_LINES = [
    [],
    *[[name] for name in COMMANDS],
    ["data", "check"],
    *[["gallery", command] for command in ("build", "add", "delete", "search", "calibrate")],
    *[[command, task] for command in ("train", "test") for task in task_names()],
]


def help_of(*words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", COMMAND_LINES, ids=lambda words: " ".join(words) or "nonlocal")
def test_help_imports_no_large_package(words):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words, "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 0, done.stderr
    assert not LARGE & {name.partition(".")[0] for name in done.stderr.split()}
    assert done.stdout.startswith(f"usage: {' '.join(['nonlocal', *words])} ")
    too_long = [line for line in done.stdout.splitlines() if len(line) > 80 and not line.startswith("Example: ")]
    assert not too_long


def test_the_overview_lists_every_command_with_one_sentence(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(capsys=capsys)
    assert all(f"• {name} " in text for name in COMMANDS)
    assert "Example" not in text
    assert "nonlocal --version" in text


@pytest.mark.parametrize(
    "words", [words for words in COMMAND_LINES if words and words[-1] not in ("train", "test", "data", "gallery")]
)
def test_every_command_has_an_example_that_starts_with_its_name(words, capsys):
    assert f"Example: nonlocal {' '.join(words)} " in help_of(*words, capsys=capsys)


def test_the_help_of_convert_lists_every_source(capsys):
    from torch_nonlocal.weights import SOURCES

    text = " ".join(help_of("convert", capsys=capsys).split())
    listed = re.search(r"do not identify it: (.+?) or (\w+)\.", text)
    assert listed
    assert [*listed[1].split(", "), listed[2]] == sorted(SOURCES)


def test_the_demo_trains_as_long_as_its_task(capsys):
    from torch_nonlocal.tasks.digits.task import STEPS

    assert f"with a batch size of 64. (default: {STEPS})" in " ".join(help_of("demo", capsys=capsys).split())


def test_the_version_is_that_of_the_package(capsys):
    import torch_nonlocal

    main(["--version"])
    assert capsys.readouterr().out == f"torch-nonlocal {torch_nonlocal.__version__}\n"
