"""The meter, the cells of the comparison and its reports."""

import json
import time

import pytest
import torch

from torch_nonlocal.benchmark import contenders, meter, report, table
from torch_nonlocal.benchmark.contenders import Cell


def allocate(megabytes):
    return lambda: torch.ones(megabytes * 2**18).sum()


def sleep(seconds):
    return lambda: time.sleep(seconds)


def fail():
    raise ValueError("no such work")


def test_meter_measures_memory_and_time():
    assert meter.measure(allocate, 200, repeats=0).extra_bytes == pytest.approx(200 * 2**20, rel=0.1)
    assert meter.measure(sleep, 0.05).seconds >= 0.05


def test_meter_raises_the_error_of_the_process():
    with pytest.raises(RuntimeError, match="ValueError: no such work"):
        meter.measure(fail)


@pytest.mark.parametrize("form", contenders.FORMS)
@pytest.mark.parametrize("backward", [False, True])
def test_this_library_runs_every_form(form, backward):
    for whole, name in ((False, "ours"), (False, "dense"), (True, "ours")):
        contenders.prepare(name, Cell(form, 196, 8, whole), backward)()


@pytest.mark.parametrize("form", contenders.FORMS)
@pytest.mark.parametrize("whole", [False, True])
def test_a_contender_that_cannot_run_has_a_note(form, whole):
    for row in table.run_cell(Cell(form, 196, 8, whole), repeats=1, seconds=0.001, memory=False):
        assert (row.training is None) == row.note.startswith("not run: ")
        assert row.contender not in ("ours", "dense") or row.training is not None


def test_our_block_equals_the_block_of_mmcv_with_the_same_weights():
    pytest.importorskip("mmcv", reason="pip install 'torch-nonlocal[bench]'")
    ours, x = contenders._module("ours", "embedded_gaussian", 16, (2, 4, 4))
    theirs, _ = contenders._module("mmcv", "embedded_gaussian", 16, (2, 4, 4))
    state = theirs.state_dict()
    names = {"theta": "theta.conv", "phi": "phi.conv", "g": "g.conv", "out": "conv_out.conv", "norm": "conv_out.bn"}
    weights = {
        ours_ + key.removeprefix(name): value
        for ours_, name in names.items()
        for key, value in state.items()
        if key.startswith(name + ".")
    }
    ours.load_state_dict({**weights, "out.bias": torch.zeros(16)})
    for norm in (ours.norm, theirs.conv_out.bn):
        torch.nn.init.ones_(norm.weight)
    for training in (True, False):
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x), rtol=1e-4, atol=1e-5)


def test_rows_ratios_and_reports(tmp_path):
    groups = [
        table.run_cell(Cell("embedded_gaussian", 196, 256), repeats=1, seconds=0.01, memory=False),
        table.run_cell(Cell("dot_product", 200704, 8), repeats=1, seconds=0.01, memory=False),
    ]
    by_name = {row.contender: row for row in groups[0]}
    assert by_name["ours"].training > 0
    assert by_name["ours"].forward > 0
    assert by_name["ours"].share > 0
    assert "would take about 600 GB" in next(row for row in groups[1] if row.contender == "dense").note
    assert set(table.ratios(groups[0])) == {"dense", "SDPA"}
    text = report.markdown(groups)
    assert text.count("\n|") == 2 + 6
    report.write_json(groups, tmp_path / "b.json")
    assert len(json.loads((tmp_path / "b.json").read_text())["rows"]) == 6
    pytest.importorskip("matplotlib", reason="pip install 'torch-nonlocal[view]'")
    report.plot(groups, tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_quick_has_fewer_cells_and_every_form():
    quick, full = table.cells(quick=True), table.cells(quick=False)
    assert len(quick) < len(full)
    assert {cell.form for cell in quick} == {cell.form for cell in full} == set(contenders.FORMS)
