"""From training to use: the commands of the README's section "Use a trained network"."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest

for package in ("accelerate", "av", "matplotlib", "rich", "sklearn", "torchmetrics", "torchvision", "tyro"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[train]'")

from torch_nonlocal.cli import main  # noqa: E402 (after the skips)

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.split("## Use a trained network\n")[1].split("\n## ")[0]
COMMANDS = [line.strip() for line in SECTION.splitlines() if line.startswith("    nonlocal ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which a network was trained on moving digits for two steps, with a clip and a film of digits."""
    folder = tmp_path_factory.mktemp("user")
    run("nonlocal train action --steps 2 --batch-size 4 --eval-every 2 --out runs/action", folder)
    (write,) = re.findall(r'`python -c "(.*?)"`', SECTION)
    with contextlib.chdir(folder):
        exec(write, {})
    return folder


def run(command, folder):
    with contextlib.chdir(folder):
        main(shlex.split(command, comments=True)[1:])


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs_on_a_network_for_digits(command, folder):
    run(command, folder)
    for word in shlex.split(command, comments=True):
        if word.startswith("film.png"):
            assert (folder / word).stat().st_size > 1000


@pytest.mark.slow
def test_the_lines_of_the_readme_run_in_python(folder, monkeypatch):
    import torch_nonlocal as nl

    monkeypatch.chdir(folder)
    lines = SECTION.split("```python\n")[1].split("```")[0]
    names = {"nl": nl}
    exec(lines.replace(">>> ", ""), names)
    assert names["found"].label in names["model"].classes == ("same", "opposite", "perpendicular")
