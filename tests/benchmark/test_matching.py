"""The matching script: properties of the controls, resumed runs, and agreement of the page with the runs."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]


@pytest.fixture
def matching(scripts):
    return scripts("matching")


def touched(net: nn.Module, cell: tuple[int, int, int]) -> torch.Tensor:
    """The pixels (2, H, W), bool, that the features of one cell before the head depend on."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv3d):
                module.weight.abs_()  # no ReLU is inactive, so every connected input has a gradient
    clip = torch.ones(1, 1, 2, 20, 20, requires_grad=True)
    features = []
    hook = net.context.register_forward_hook(lambda _module, _input, output: features.append(output))
    net.eval()(clip)
    hook.remove()
    features[0][(0, slice(None), *cell)].sum().backward()
    assert clip.grad is not None
    return clip.grad[0, 0] != 0


@pytest.mark.parametrize("name", ["narrow", "dilated", "large", "average"])
@pytest.mark.parametrize("corner", [(0, 0, 0), (1, 4, 4)])
def test_controls_depend_on_the_whole_clip_at_a_corner(matching, name, corner):
    assert touched(matching.build(**matching.ROWS[name].configuration), corner).all()


def test_without_a_context_a_position_sees_its_cell(matching):
    seen = touched(matching.build(), (1, 2, 3))
    assert seen[1, 8:12, 12:16].all()
    assert seen.sum() == 16


def test_costs_of_the_controls(matching, study):
    def built(name):
        return matching.build(**matching.ROWS[name].configuration)

    def flops(name):
        return study.flops(built(name), matching.ONE_CLIP)

    block = built("embedded_gaussian")
    assert study.parameters(built("wide")) == pytest.approx(study.parameters(block), rel=0.005)
    for name in ("narrow", "average"):
        assert flops(name) == pytest.approx(flops("embedded_gaussian"), rel=0.05)
    for name in ("dilated", "large"):
        assert flops(name) > 2 * flops("embedded_gaussian")
        assert study.parameters(built(name)) > 2 * study.parameters(block)


def test_groups_hold_every_network(matching):
    assert {name for names in matching.GROUPS.values() for name in names} == set(matching.ROWS)


def test_runs_are_recorded_reused_and_tabulated(matching, tmp_path, monkeypatch, capsys):
    out, page = tmp_path / "new" / "runs.jsonl", tmp_path / "page.md"
    command = ["--seeds", "3", "--steps", "2", "--clips", "4", "--out", str(out), "--markdown", str(page)]
    matching.main([*command, "--only", "none", "gcnet"])
    none, gcnet = (json.loads(line) for line in out.read_text().splitlines())
    assert (none["name"], gcnet["name"]) == ("none", "gcnet")
    assert f"| no block | {none['accuracy']:.3f} |" in page.read_text()
    assert "| SE: channel gates from the average | not run yet |" in page.read_text()

    kept = out.read_text()
    monkeypatch.setattr(matching, "run", lambda *_: pytest.fail("a finished run was repeated"))
    matching.main([*command, "--only", "none", "gcnet"])
    assert out.read_text() == kept
    assert "none, seed 3: already finished" in capsys.readouterr().out
    assert matching.STUDY.finished([none], "none", [3], 2, 5) == []


def test_the_page_agrees_with_the_recorded_runs(matching, study):
    records = study.read(ROOT / "docs" / "matching.jsonl")
    page = (ROOT / "docs" / "matching.md").read_text()
    shown = page.split("<!-- table: begin -->")[1].split("<!-- table: end -->")[0].strip()
    assert shown == matching.STUDY.table(records, [0, 1, 2], matching.STEPS, 2000)
