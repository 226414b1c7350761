"""The log: metrics.jsonl, TensorBoard curves, messages and attention statistics."""

import json
import sys
import threading

import pytest
import torch
from tiny_training import TinyClips, network, plain_config, train

import torch_nonlocal as nl
from torch_nonlocal._common import heartbeat
from torch_nonlocal.training.callbacks import log as log_module
from torch_nonlocal.training.callbacks.attention import attention_scalars
from torch_nonlocal.training.callbacks.log import Log

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")


def test_tensorboard_holds_the_same_values_as_metrics_jsonl(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install 'torch-nonlocal[train]'"
    )
    messages = []
    train(tmp_path, plain_config(attention_items=2), log=messages.append)
    board = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tags = set(board.Tags()["scalars"])
    expected = {"train/loss", "train/lr", "train/accuracy", "train/items_per_second", "validation/accuracy"}
    assert expected | {"attention/0/entropy", "attention/0/reach_pixels", "attention/0/reach_frames"} <= tags
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for tag in ("train/loss", "validation/accuracy"):
        kind, name = tag.split("/")
        logged = [(line["step"], line[name]) for line in found if line["kind"] == kind]
        assert [(event.step, event.value) for event in board.Scalars(tag)] == [
            (step, pytest.approx(value, rel=1e-6)) for step, value in logged
        ]
    assert [line["step"] for line in found if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in found if line["kind"] == "validation"] == [3, 6]
    assert any("6/6" in line and "loss" in line and "left" in line for line in messages)
    assert any(line.startswith("validation after 3 steps: accuracy") for line in messages)


def test_without_tensorboard_a_run_writes_no_curves(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard" or "utils.tensorboard" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    messages = []
    result, _ = train(tmp_path, log=messages.append)
    assert result.status == "finished"
    assert messages[0] == "no TensorBoard curves; missing package tensorboard: pip install 'torch-nonlocal[train]'"
    assert not (tmp_path / "tensorboard").exists()
    assert (tmp_path / "metrics.jsonl").read_text().count('"kind": "train"') == 6


def test_log_lines_are_means_since_the_last_line(tmp_path):
    lines = {}
    for every in (1, 3):
        train(tmp_path / str(every), plain_config(steps=6, log_every=every))
        text = (tmp_path / str(every) / "metrics.jsonl").read_text()
        found = [json.loads(line) for line in text.splitlines()]
        lines[every] = [line["loss"] for line in found if line["kind"] == "train"]
    assert lines[3] == pytest.approx([sum(lines[1][:3]) / 3, sum(lines[1][3:]) / 3])


def test_attention_scalars_are_means_of_the_statistics():
    net = network().eval()
    torch.nn.init.ones_(net[0].non_local.norm.weight)
    clips = torch.randn(2, 1, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    scalars = attention_scalars(net, clips, 2)
    with nl.watch(net) as seen:
        net(clips)
    measured = [seen["0"].statistics(batch=i) for i in range(2)]
    assert scalars["attention/0/entropy"] == pytest.approx(sum(one.entropy for one in measured) / 2)
    assert scalars["attention/0/reach_pixels"] == pytest.approx(sum(one.reach_pixels for one in measured) / 2)
    assert attention_scalars(nl.remove(net), clips, 2) == {}


class TestLinesWithoutABar:
    """The log of a run of 20 steps of 4 items, with a clock that the test sets."""

    @pytest.fixture
    def clock(self, monkeypatch):
        now = [1000.0]
        monkeypatch.setattr(log_module.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(heartbeat, "_LOOK", 3600.0)  # the thread does not look; the test calls `beat`
        return now

    @pytest.fixture
    def lines(self):
        return []

    @pytest.fixture
    def log(self, tmp_path, clock, lines):
        sizes = {"steps": 20, "step": 0, "evaluated": -1, "batch_size": 4}
        with Log(tmp_path / "metrics.jsonl", tmp_path, **sizes, print_line=lines.append, silent=False) as log:
            lines.clear()
            yield log

    def test_waiting_for_the_first_batch_is_told_after_eight_seconds(self, log, clock, lines):
        log.doing("waiting for data")
        for _ in range(40):
            clock[0] += 1
            log._heartbeat.beat()
        assert lines == ["0/20  waiting for data for 8 s", "0/20  waiting for data for 38 s"]

    def test_a_slow_first_step_is_told_and_its_end_as_well(self, log, clock, lines):
        log.doing("computing")
        clock[0] += 9
        log._heartbeat.beat()
        clock[0] += 1
        log.stepped(1, 2.5, 10.0)
        assert lines == ["0/20  computing for 9 s", "1/20  loss 2.5  items_per_second 0.4  0:03:10 left"]

    def test_steps_of_two_seconds_are_told_in_time_whatever_log_every_is(self, log, clock, lines):
        for step in range(1, 20):
            log.doing("computing")
            clock[0] += 2
            log.stepped(step, 1.0, 2.0)
            log._heartbeat.beat()
        assert lines == [
            "3/20  loss 1  items_per_second 2  0:00:34 left",
            "18/20  loss 1  items_per_second 2  0:00:04 left",
        ]

    def test_a_long_validation_is_told(self, log, clock, lines):
        clock[0] += 6
        log.stepped(1, 1.0, 6.0)
        log.doing("validation")
        clock[0] += 30
        log._heartbeat.beat()
        assert lines[1:] == ["1/20  loss 1  items_per_second 0.6667  0:11:24 left  validation for 30 s"]


def test_slow_data_are_told_while_the_run_waits_for_them(tmp_path, monkeypatch):
    for module, name in ((heartbeat, "FIRST"), (heartbeat, "EVERY"), (log_module, "FIRST")):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(heartbeat, "_LOOK", 0.001)
    told = threading.Event()

    def wait(index, clip):
        assert told.wait(10)
        return clip

    def log(text):
        if "waiting for data" in text:
            told.set()

    train(tmp_path, plain_config(steps=1), data=TinyClips(on_read=wait), log=log)
    assert told.is_set()
