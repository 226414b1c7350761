"""The trial of memory formats changes nothing but the format, which a run keeps; denormal numbers are flushed."""

import json
import random

import numpy as np
import pytest
import torch
from tiny_training import TinyClips, TinyTask, last, network, plain_config, same_state, train
from torch import nn

from torch_nonlocal.training import memory_format, step
from torch_nonlocal.training.ema import state_tensors

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")
LAST_3D = torch.channels_last_3d


def wide(kernel: int = 3) -> nn.Module:
    """A network in which the formats differ: several channels into a convolution."""
    torch.manual_seed(0)
    layers = nn.Conv3d(1, 4, 1), nn.BatchNorm3d(4), nn.Dropout(0.2), nn.Conv3d(4, 4, kernel, padding=kernel // 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(200, 3))


def crash_after(count: int) -> TinyClips:
    """Data that raises after so many reads."""
    reads: list[int] = []

    def read(index, clip):
        reads.append(index)
        return clip if len(reads) <= count else 1 / 0

    return TinyClips(on_read=read)


@pytest.fixture
def slow(monkeypatch):
    """Let a format take a second of CPU time, and record the trials: slow["format"] = True for channels-last."""
    trials = {"format": None, "count": 0}
    clock, real = {"now": 0.0}, step.add_gradient

    def add_gradient(job, loaded, *, channels_last, last=True):
        if job.state.channels_last is None:
            trials["count"] += 1
            clock["now"] += 1.0 if channels_last is trials["format"] else 0.2
        return real(job, loaded, channels_last=channels_last, last=last)

    monkeypatch.setattr(step, "add_gradient", add_gradient)
    monkeypatch.setattr(memory_format.time, "process_time", lambda: clock["now"])
    return trials


@pytest.mark.parametrize("slower", [True, False])
def test_the_trial_chooses_the_faster_format_and_the_run_equals_one_that_is_told_so(tmp_path, slow, slower):
    slow["format"] = slower
    lines: list[str] = []
    settings = {"freeze_bn": False, "ema": 0.9, "optimizer": "adamw"}
    _, chosen = train(tmp_path / "auto", plain_config(channels_last="auto", **settings), model=wide(), log=lines.append)
    assert slow["count"] == 4, "two rounds of two formats"
    _, told = train(tmp_path / "told", plain_config(channels_last=not slower, **settings), model=wide())
    assert same_state(last(tmp_path / "auto"), last(tmp_path / "told"))
    assert last(tmp_path / "auto")["channels_last"] is not slower
    assert chosen[3].weight.is_contiguous(memory_format=LAST_3D) is not slower
    assert chosen[3].weight.stride() == told[3].weight.stride()
    names = ("contiguous", "channels last") if slower else ("channels last", "contiguous")
    shown = f"memory format: {names[0]}, 0.20 CPU seconds a step in a trial; {names[1]}: 1.00"
    assert lines.count(shown) == 1


@pytest.mark.parametrize("slower", [True, False])
def test_a_resumed_run_keeps_the_format_without_another_trial(tmp_path, slow, slower):
    config = plain_config(channels_last="auto", checkpoint_minutes=0.0)
    slow["format"] = slower
    train(tmp_path / "whole", config, model=wide())
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "broken", config, model=wide(), data=crash_after(9))
    assert last(tmp_path / "broken")["progress"]["step"] == 2
    slow["format"], slow["count"] = not slower, 0
    train(tmp_path / "broken", config, model=wide())
    assert slow["count"] == 0
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "broken"))


def test_a_run_that_was_told_its_format_resumes_with_auto(tmp_path):
    train(tmp_path / "whole", plain_config(channels_last=True), model=wide())
    config = plain_config(channels_last=True, checkpoint_minutes=0.0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", config, model=wide(), data=crash_after(9))
    former = last(tmp_path / "run")
    del former["channels_last"]  # as older versions saved it
    torch.save(former, tmp_path / "run" / "checkpoints" / "last.pt")
    _, model = train(tmp_path / "run", plain_config(channels_last="auto"), model=wide())
    assert model[3].weight.is_contiguous(memory_format=LAST_3D)
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["channels_last"] is True


def test_another_format_than_the_one_of_the_trial_is_refused(tmp_path):
    config = plain_config(channels_last="auto", steps=1)
    train(tmp_path, config, model=wide())
    with pytest.raises(ValueError, match=r"channels_last \(saved: 'auto', given: False\)"):
        train(tmp_path, plain_config(steps=1), model=wide())


def test_the_trial_changes_no_weight_no_statistic_no_gradient_and_no_random_state():
    model, task = wide(), TinyTask(network(), TinyClips())
    parts = iter([([0, 1], task.collate([task.data[0], task.data[1]])), "the next part"])
    before = {name: one.clone() for name, one in state_tensors(model).items()}
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()

    def compute(part, channels_last):
        torch.rand(3), random.random(), np.random.random()
        clips, labels = part[1]
        clips = clips.contiguous(memory_format=LAST_3D) if channels_last else clips
        task.loss(model, (clips.mul_(2), labels))["loss"].backward()

    _, line, after = memory_format.try_formats(model.train(), parts, compute, seed=0)
    assert line.startswith("memory format: ")
    assert all(torch.equal(one, before[name]) for name, one in state_tensors(model).items())
    assert all(one.grad is None for one in model.parameters())
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    (indices, (clips, _)), other = after
    assert (indices, other) == ([0, 1], "the next part")
    assert clips.abs().max() < 20, "the part itself was not changed in place"


@pytest.mark.parametrize("options", [{"compile": True}, {"precision": "bf16"}])
def test_no_trial_where_it_would_not_do(tmp_path, monkeypatch, options):
    monkeypatch.setattr(nn.Module, "compile", lambda self: None)
    lines: list[str] = []
    config = plain_config(channels_last="auto", steps=1, **options)
    _, model = train(tmp_path, config, model=wide(), log=lines.append)
    assert model[3].weight.is_contiguous(memory_format=LAST_3D) is ("compile" in options)
    assert not any("trial" in line for line in lines)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_denormal_numbers_are_flushed_while_training_only(tmp_path, before, fails):
    def flushed():
        return (torch.tensor(torch.finfo(torch.float32).tiny) / 2).item() == 0

    seen: list[bool] = []

    def evaluate(model):
        seen.append(flushed())
        if fails:
            raise ZeroDivisionError
        return {"accuracy": 1.0}

    torch.set_flush_denormal(before)
    try:
        if fails:
            with pytest.raises(ZeroDivisionError):
                train(tmp_path, evaluate=evaluate)
        else:
            train(tmp_path, evaluate=evaluate)
        assert seen
        assert all(seen)
        assert flushed() is before
    finally:
        torch.set_flush_denormal(False)
