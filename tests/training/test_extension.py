"""Raising the epochs of a run: the learning rate of an extension, resuming inside one, and what is refused."""

import json

import pytest
from tiny_training import TinyClips, last, plain_config, same_state, train

from torch_nonlocal.training import RunLengthError
from torch_nonlocal.training.optimizer import learning_rate_factor, schedule_factor

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")


class CrashError(Exception):
    pass


def crash_after(reads):
    left = iter(range(reads))

    def read(index, clip):
        if next(left, None) is None:
            raise CrashError
        return clip

    return TinyClips(on_read=read)


def rates(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["lr"] for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize("schedule", ["step", "cosine", "one-cycle"])
def test_each_extension_is_constant_then_decays(schedule):
    config = plain_config(schedule=schedule)
    factors = [learning_rate_factor(config, step, (4, 10, 15)) for step in range(15)]
    assert factors[:4] == [schedule_factor(config, step, 4) for step in range(4)]
    assert factors[4:10] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.2 / 3, 0.1 / 3])
    assert factors[10:] == pytest.approx([0.1, 0.1, 0.1, 0.2 / 3, 0.1 / 3])


def test_finished_run_is_extended(tmp_path):
    assert train(tmp_path)[0].step == 6
    messages = []
    config = plain_config(epochs=4, extend=True)
    result, _ = train(tmp_path, config, log=messages.append)
    assert (result.status, result.step, result.steps) == ("finished", 12, 12)
    assert "extended after 6 steps: lr 0.005 for half of the new steps, then linearly to 0" in messages
    assert rates(tmp_path)[5:] == pytest.approx([0.0005, 0.005, 0.005, 0.005, 0.005, 0.01 / 3, 0.005 / 3])
    assert train(tmp_path, plain_config(epochs=4))[0].status == "finished before"
    assert train(tmp_path, plain_config(epochs=5, extend=True))[0].step == 15
    assert json.loads((tmp_path / "config.json").read_text())["former_ends"] == [6, 12]


@pytest.mark.parametrize("reads", [2, 13], ids=["at its first step", "inside"])
def test_interrupted_extension_ends_with_identical_weights(tmp_path, reads):
    for name in ("whole", "broken"):
        train(tmp_path / name)
    longer = plain_config(epochs=4, extend=True, checkpoint_minutes=0.0)
    train(tmp_path / "whole", longer)
    with pytest.raises(CrashError):
        train(tmp_path / "broken", longer, data=crash_after(reads))
    assert last(tmp_path / "broken")["progress"]["step"] < 12
    train(tmp_path / "broken", plain_config(epochs=4))
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "broken"))


def test_run_that_is_not_finished_keeps_its_schedule_up_to_its_former_end(tmp_path):
    train(tmp_path / "finished")
    train(tmp_path / "finished", plain_config(epochs=3, extend=True))
    with pytest.raises(CrashError):
        train(tmp_path / "early", plain_config(checkpoint_minutes=0.0), data=crash_after(13))
    train(tmp_path / "early", plain_config(epochs=3, extend=True))
    assert same_state(last(tmp_path / "finished"), last(tmp_path / "early"))


@pytest.mark.parametrize(
    ("changes", "message", "can_extend"),
    [
        (
            {"epochs": 3},
            r"a run of 2 epochs, given: 3 epochs\. .* Set `extend` .*, or start a new run .*best\.pt",
            True,
        ),
        ({"steps": 7}, r"a run of 2 epochs, given: 7 steps", True),
        ({"epochs": 1}, r"a run of 2 epochs, given: 1 epoch\. A run cannot be shortened: .*best\.pt has its", False),
        ({"epochs": 1, "extend": True}, "cannot be shortened", False),
    ],
)
def test_other_lengths_are_refused_with_the_way_forward(tmp_path, changes, message, can_extend):
    train(tmp_path)
    before = last(tmp_path)
    with pytest.raises(RunLengthError, match=message) as raised:
        train(tmp_path, plain_config(**changes))
    assert raised.value.can_extend is can_extend
    assert same_state(before, last(tmp_path))


def test_same_length_in_steps_resumes(tmp_path):
    train(tmp_path)
    assert train(tmp_path, plain_config(steps=6))[0].status == "finished before"
