"""The evidence script: properties of the controls, resumed runs, and agreement of the page with the runs."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")

ROOT = Path(__file__).parents[2]
STEPS = 450


@pytest.fixture
def evidence(scripts):
    return scripts("evidence")


def without_dead_paths(net):
    """Make every weight positive: no ReLU is inactive, so every connected input has a gradient."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv3d):
                module.weight.abs_()
    return net.eval()


def touched(net, clip_size, position):
    """The pixels (T, H, W), bool, that one position of the last convolution's map depends on."""
    clip = torch.ones(1, 1, *clip_size, requires_grad=True)
    features = net.conv3(net.conv2(net.stem(clip)))
    features[(0, slice(None), *position)].sum().backward()
    return clip.grad[0, 0] != 0


@pytest.mark.parametrize("name", ["none", "wide", "mixed_after_average", "dilated", "large"])
def test_receptive_field_equals_the_extent_of_gradients(evidence, name):
    net = without_dead_paths(evidence.build(**evidence.ROWS[name].configuration))
    reached = touched(net, (24, 72, 72), (6, 9, 9)).nonzero()
    assert tuple((reached.amax(0) - reached.amin(0) + 1).tolist()) == evidence.receptive_field(net)


@pytest.mark.parametrize("name", ["dilated", "large"])
@pytest.mark.parametrize("corner", [(0, 0, 0), (3, 7, 7)])
def test_controls_depend_on_the_whole_clip_at_a_corner(evidence, name, corner):
    assert touched(without_dead_paths(evidence.build(**evidence.ROWS[name].configuration)), (8, 32, 32), corner).all()


@pytest.mark.parametrize("name", ["wide", "mixed_after_average"])
def test_controls_have_the_parameter_count_of_the_network_with_one_block(evidence, study, name):
    count, wanted = (
        study.parameters(evidence.build(**evidence.ROWS[one].configuration)) for one in (name, "embedded_gaussian")
    )
    assert count == pytest.approx(wanted, rel=0.01)


def test_groups_hold_every_network(evidence):
    assert {name for names in evidence.GROUPS.values() for name in names} == set(evidence.ROWS)


def test_runs_are_recorded_reused_and_tabulated(evidence, study, tmp_path, monkeypatch, capsys):
    out, page = tmp_path / "new" / "runs.jsonl", tmp_path / "page.md"
    page.write_text(f"Before.\n{study.START}\nold\n{study.END}\nAfter.\n")
    command = ["--seeds", "3", "--steps", "2", "--clips", "20", "--out", str(out), "--markdown", str(page)]
    evidence.main([*command, "--only", "none", "embedded_gaussian"])
    none, block = (json.loads(line) for line in out.read_text().splitlines())
    assert (none["name"], block["name"]) == ("none", "embedded_gaussian")
    assert none["threads"] == 1
    assert none["cpu_seconds"] > 0
    before, text, after = page.read_text().partition(evidence.STUDY.table([none, block], [3], 2, 20))
    assert (before, after) == (f"Before.\n{study.START}\n", f"\n{study.END}\nAfter.\n")
    assert f"| no block | {none['accuracy']:.3f} |" in text
    assert "sees" in text
    assert f"{block['parameters']:,}" in text

    kept = out.read_text()
    monkeypatch.setattr(evidence, "run", lambda *_: pytest.fail("a finished run was repeated"))
    evidence.main([*command, "--only", "none", "embedded_gaussian"])
    assert out.read_text() == kept
    assert "none, seed 3: already finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"steps": 3}, {"clips": 21}, {"configuration": {"hidden": 12}}],
    ids=lambda change: next(iter(change)),
)
def test_a_run_with_another_configuration_is_not_reused(evidence, change):
    record = {"configuration": {}, "seed": 3, "steps": 2, "clips": 20}
    assert evidence.STUDY.finished([record], "none", [3], 2, 20) == [record]
    assert evidence.STUDY.finished([record | change], "none", [3], 2, 20) == []


def test_broken_files_raise(evidence, study, tmp_path):
    broken = tmp_path / "runs.jsonl"
    broken.write_text('{}\n{"name": "no')
    with pytest.raises(ValueError, match="line 2: not JSON"):
        study.read(broken)
    page = tmp_path / "page.md"
    page.write_text("no marks\n")
    with pytest.raises(ValueError, match="expected the lines"):
        study.write_table(page, "text")
    assert page.read_text() == "no marks\n"


def test_the_page_agrees_with_the_recorded_runs(evidence, study):
    records = study.read(ROOT / "docs" / "evidence.jsonl")
    for name in evidence.ROWS:
        assert len(evidence.STUDY.finished(records, name, [0, 1, 2], STEPS, 2000)) == 3, name
    page = (ROOT / "docs" / "evidence.md").read_text()
    shown = page.split(study.START)[1].split(study.END)[0].strip()
    assert shown == evidence.STUDY.table(records, [0, 1, 2], STEPS, 2000)
