"""The script of re-identification: costs and fields of the controls, and agreement of the page with the runs."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]


@pytest.fixture
def persons(scripts):
    pytest.importorskip("pytorch_metric_learning")
    pytest.importorskip("sklearn")
    return scripts("reid_persons")


def built(persons, name):
    return persons.build(5, persons.ROWS[name].configuration)


def test_costs_of_the_controls(persons, study):
    costs = {
        name: (study.parameters(built(persons, name)), study.flops(built(persons, name), persons.ONE_CLIP))
        for name in ("none", "embedded_gaussian", "pointwise", "dilated")
    }
    block = costs["embedded_gaussian"]
    assert costs["pointwise"][0] == pytest.approx(block[0], rel=0.005)
    assert costs["dilated"][1] == pytest.approx(block[1], rel=0.03)
    assert costs["none"] < min(costs["pointwise"], block)


def test_all_networks_start_as_the_network_without_a_block(persons):
    clips = torch.rand(2, 3, 3, 48, 24)

    def embedded(name):
        torch.manual_seed(0)
        return built(persons, name).eval()(clips)

    expected = embedded("none")
    for name in set(persons.ROWS) - {"none", "histogram"}:
        assert torch.equal(embedded(name), expected), name


def test_the_dilated_control_sees_the_foot_of_the_frame_from_its_top(persons):
    net = built(persons, "dilated").eval().backbone
    net.light = nn.Identity()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv3d):
                module.weight.abs_()
            if isinstance(module, nn.BatchNorm3d):
                module.weight.fill_(1)
    clips = torch.ones(1, 3, 2, 48, 24, requires_grad=True)
    net(clips)[0, :, 0, 3, 3].sum().backward()
    assert clips.grad is not None
    seen = clips.grad[0].abs().sum(0) > 0
    assert seen[0, -5:].any()
    assert not seen[1].any()


def test_groups_hold_every_network(persons):
    assert {name for names in persons.GROUPS.values() for name in names} == set(persons.ROWS)


def test_runs_are_recorded_and_tabulated(persons, tmp_path, monkeypatch):
    monkeypatch.setattr(persons, "training_data", few_persons(persons))
    out, page = tmp_path / "runs.jsonl", tmp_path / "page.md"
    command = ["--seeds", "3", "--steps", "1", "--clips", "4", "--out", str(out), "--markdown", str(page)]
    persons.main([*command, "--only", "histogram", "embedded_gaussian"])
    histogram, block = (json.loads(line) for line in out.read_text().splitlines())
    assert (histogram["name"], block["name"]) == ("histogram", "embedded_gaussian")
    assert block["clips"] == 4
    assert f"| one block within the frame: embedded gaussian | {block['accuracy']:.3f} |" in page.read_text()


def few_persons(persons):
    from torch_nonlocal.tasks.reid.data import Training

    source = persons.DigitPersons("train", identities=16)
    labels = tuple(int(one.identity[-4:]) for one in source.tracklets)
    cameras = tuple(int(one.camera[-1]) for one in source.tracklets)
    return lambda data, settings, split: Training(source, labels, cameras, 16, None, split=0, summary="16 persons")


def test_the_page_agrees_with_the_recorded_runs(persons, study):
    records = study.read(ROOT / "docs" / "reid-evidence.jsonl")
    page = (ROOT / "docs" / "reid-evidence.md").read_text()
    shown = page.split("<!-- table: begin -->")[1].split("<!-- table: end -->")[0].strip()
    assert shown == persons.STUDY.table(records, [0, 1, 2], persons.STEPS, persons.IDENTITIES)
