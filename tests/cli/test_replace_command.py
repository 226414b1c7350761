"""`nonlocal replace` from its arguments to its table."""

import json
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
pytest.importorskip("rich", reason="pip install 'torch-nonlocal[cli]'")

from torch_nonlocal.cli.replace import replace

LAYOUT = Path(__file__).parents[1] / "replacing" / "layouts" / "alexhex7.py"


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "mine.py"
    build = """


def build():
    form = "embedded_gaussian"
    return nn.Sequential(nn.Conv2d(3, 8, 1), NONLocalBlock2D(8, form), NLBlockND(8, "dot_product", dims=2))
"""
    path.write_text(LAYOUT.read_text() + build)
    return f"{path}:build"


def test_the_table_lists_modules_positions_and_memory(network, tmp_path, capsys):
    figures = tmp_path / "replace.json"
    replace(network, input="3x32x32", batch=2, json=figures)
    printed = capsys.readouterr().out
    assert "2 modules would be replaced" in printed
    assert "1,024    256" in printed
    content = json.loads(figures.read_text())
    assert content["replaced"] == ["1", "2"]
    assert content["found"][1]["predicted"]["map_bytes"] == 2 * 4 * 1024 * 1024


def test_memory_of_a_training_step_is_larger_and_time_is_not_measured(network, tmp_path, capsys):
    figures = [tmp_path / "forward.json", tmp_path / "train.json"]
    for path, train in zip(figures, (False, True), strict=True):
        replace(network, input="3x32x32", only=("1",), train=train, json=path)
    forward, step = (json.loads(path.read_text())["found"][0]["predicted"] for path in figures)
    assert step["memory_before"] > forward["memory_before"]
    assert (forward["time"] is None, step["time"] is None) == (False, True)


def test_a_network_without_such_modules_names_what_was_looked_for():
    with pytest.raises(ValueError, match="VideoResNet has no attention module of a known project; looked for"):
        replace("torchvision:r3d_18", input="3x4x16x16")
