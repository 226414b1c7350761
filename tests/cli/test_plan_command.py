"""`nonlocal plan` from its arguments to its table."""

import json
import textwrap

import pytest

pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
pytest.importorskip("rich", reason="pip install 'torch-nonlocal[cli]'")

from torch_nonlocal.cli.plan import plan


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "mine.py"
    source = """
        from torch import nn

        class Unit(nn.Sequential):
            def __init__(self, channels, width):
                super().__init__(nn.Conv2d(channels, width, 3, padding=1, stride=2), nn.ReLU())

        def small():
            return nn.Sequential(Unit(3, 8), Unit(8, 8))
    """
    path.write_text(textwrap.dedent(source))
    return f"{path}:small"


def test_the_table_lists_every_place_and_marks_the_chosen(network, tmp_path, capsys):
    figures = tmp_path / "plan.json"
    plan(network, input="3x16x16", at=("1",), batch=2, json=figures)
    printed = capsys.readouterr().out
    assert "0.1" in printed
    assert "1 block together" in printed
    content = json.loads(figures.read_text())
    assert content["input"] == [2, 3, 16, 16]
    assert [(place["name"], place["chosen"]) for place in content["places"]] == [("0.1", False), ("1.1", True)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": "3,16,16"}, "--input 3,16,16: expected sizes such as 3x224x224"),
        ({"input": "3x16x16", "batch": 0}, "--batch 0"),
        ({"input": "3x4x16x16"}, "does not run on an input of 1x3x4x16x16"),
        ({"input": "3x16x16", "at": ("2",)}, "no module matches '2'"),
        ({"input": "3x16x16", "pairwise": "cosine"}, "pairwise='cosine'"),
    ],
)
def test_mistakes_raise_with_one_line(network, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        plan(network, **arguments)
    assert "\n" not in str(error.value)


def test_a_relative_has_its_own_cost(network, tmp_path, capsys):
    figures = tmp_path / "plan.json"
    plan(network, input="3x16x16", at=("1",), block="gcnet", json=figures)
    assert "Blocks: gcnet, batch size 1." in capsys.readouterr().out
    chosen = json.loads(figures.read_text())["places"][-1]
    assert (chosen["queries"], chosen["keys"]) == (1, 16)
    with pytest.raises(ValueError, match="--attend space: applies to --block non_local, not to gcnet"):
        plan(network, input="3x16x16", block="gcnet", attend="space")
