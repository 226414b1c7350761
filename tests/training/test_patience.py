"""Early stopping by patience: the exact step, the reason, resuming, and what it refuses."""

import json

import pytest
import torch
from tiny_training import TinyClips, last, network, plain_config, same_state, train

from torch_nonlocal.training import load_weights_file

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")


class CrashError(Exception):
    pass


def scripted(values):
    """An evaluation after step s, of steps of batch size 4 with three steps per epoch, has the value values[s - 1]."""

    def evaluate(model):
        return {"accuracy": values[int(model.steps_seen) - 1]}

    return evaluate


def counting():
    """A network that counts its forward passes in training, as part of its state."""
    model = network()
    model.register_buffer("steps_seen", torch.tensor(0))

    def count(module, _):
        module.steps_seen.add_(int(module.training))

    model.register_forward_pre_hook(count)
    return model


def run(folder, values, patience, *, data=None, steps=10, log=lambda text: None):
    config = plain_config(steps=steps, eval_every=1, patience=patience, checkpoint_minutes=0.0)
    return train(folder, config, model=counting(), data=data, evaluate=scripted(values), log=log)[0]


RISING_TWICE = [0.1, 0.3, 0.2, 0.3, 0.4, 0.4, 0.1, 0.2, 0.9, 0.9]


@pytest.mark.parametrize(("patience", "step", "best"), [(1, 3, 2), (2, 4, 2), (3, 8, 5), (4, 10, 9), (0, 10, 9)])
def test_run_stops_after_so_many_evaluations_without_a_better_metric(tmp_path, patience, step, best):
    result = run(tmp_path, RISING_TWICE, patience)
    assert (result.status, result.step, result.steps) == ("finished", step, 10)
    assert result.best == {"step": best, "metric": "accuracy", "value": RISING_TWICE[best - 1]}
    assert load_weights_file(result.weights)["step"] == best
    assert last(tmp_path)["progress"]["finished"]
    lines = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(lines) == step


def test_not_a_number_is_not_better(tmp_path):
    assert run(tmp_path, [0.5, float("nan"), float("nan"), 0.9], 2, steps=4).step == 3


def test_the_reason_is_told_when_the_run_stops_and_when_it_is_started_again(tmp_path):
    lines = []
    run(tmp_path, RISING_TWICE, 3, log=lines.append)
    reason = "stopped early after 8 of 10 steps: accuracy not better in 3 evaluations; best: 0.4 after 5 steps"
    assert reason in lines
    lines.clear()
    assert run(tmp_path, RISING_TWICE, 3, log=lines.append).status == "finished before"
    assert lines == [f"{tmp_path}: the run is finished ({reason}); nothing to do"]


@pytest.mark.parametrize("reads", [6, 18, 30])
def test_interrupted_run_stops_at_the_same_step_with_the_same_bits(tmp_path, reads):
    left = iter(range(reads))

    def read(index, clip):
        if next(left, None) is None:
            raise CrashError
        return clip

    run(tmp_path / "whole", RISING_TWICE, 3)
    with pytest.raises(CrashError):
        run(tmp_path / "broken", RISING_TWICE, 3, data=TinyClips(on_read=read))
    assert run(tmp_path / "broken", RISING_TWICE, 3).step == 8
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "broken"))


def test_more_patience_trains_on_as_if_the_run_had_not_stopped(tmp_path):
    run(tmp_path / "whole", RISING_TWICE, 0)
    run(tmp_path / "stopped", RISING_TWICE, 2)
    assert run(tmp_path / "stopped", RISING_TWICE, 4).step == 10
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "stopped"))


def test_state_of_a_version_without_patience_resumes(tmp_path):
    run(tmp_path, RISING_TWICE, 0, steps=10)
    state = last(tmp_path)
    state["progress"] |= {"step": 9, "epoch": 3, "batch": 0, "evaluated": 9, "finished": False}
    state["model"]["steps_seen"].fill_(9)
    del state["progress"]["not_better"]
    torch.save(state, tmp_path / "checkpoints" / "last.pt")
    assert run(tmp_path, RISING_TWICE, 5).status == "finished"


def test_patience_needs_a_metric(tmp_path):
    with pytest.raises(ValueError, match=r"patience=2: the task has no metric, expected patience=0"):
        train(tmp_path, plain_config(patience=2), evaluate=None)
    assert not (tmp_path / "config.json").exists()
    with pytest.raises(ValueError, match="patience=-1: expected at least 0"):
        plain_config(patience=-1)
