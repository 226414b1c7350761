"""Evaluations read the training data, for attention, batch norm statistics or the metric, and leave training alone."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_training import TinyClips, TinyTask, accuracy, last, network, plain_config, same_state

from torch_nonlocal.training import fit
from torch_nonlocal.training.sampler import Item, SeededItems

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")

STEPS = 8  # three steps per epoch


class CrashError(Exception):
    """Stands for anything that ends a process."""


class ReadsTrainingData(TinyTask):
    """Evaluates on training items of another epoch, and crashes in its `crash`-th step if asked."""

    def __init__(self, crash=0):
        super().__init__(network(), TinyClips())
        self.crash = crash

    def loss(self, model, batch):
        self.crash -= 1
        if not self.crash:
            raise CrashError
        return super().loss(model, batch)

    def evaluate(self, model):
        self.data.set_epoch(7)
        clips = torch.stack([self.data[index][0] for index in range(3)])
        return {"output": float(model(clips).abs().sum()), **accuracy(model)}


def trained(folder, config, crashes=()):
    """The last state of a run that crashes in these of its steps, counted anew from each start."""
    for crash in crashes:
        task = ReadsTrainingData(crash)
        try:
            fit(task, config, folder, log=lambda text: None)
        except CrashError:
            continue
        break
    fit(ReadsTrainingData(), config, folder, log=lambda text: None)
    return last(folder)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.fixed_dictionaries(
        {
            "eval_every": st.integers(0, 5),
            "attention_items": st.sampled_from((0, 2)),
            "precise_bn": st.sampled_from((0, 1)),
            "checkpoint_minutes": st.sampled_from((0.0, 60.0)),
        }
    ),
    st.sampled_from((0, 0, 2)),
    st.lists(st.integers(1, 6), max_size=3),
)
@example({"eval_every": 5, "attention_items": 2}, 0, [])
@example({"eval_every": 4, "attention_items": 2, "checkpoint_minutes": 0.0}, 0, [5])
@example({"eval_every": 2, "attention_items": 2, "checkpoint_minutes": 0.0}, 2, [4])
def test_any_mix_of_evaluations_and_interruptions_trains_the_same_weights(changes, workers, crashes):
    with tempfile.TemporaryDirectory() as folder:
        plain = plain_config(steps=STEPS, ema=0.9, eval_every=STEPS)
        expected = trained(Path(folder, "plain"), plain)
        config = plain_config(steps=STEPS, ema=0.9, workers=workers, **changes)
        state = trained(Path(folder, "mixed"), config, crashes)
        for part in ("model", "ema", "optimizer"):
            assert same_state(state[part], expected[part])
        assert same_state(trained(Path(folder, "whole"), config), state)


def test_items_are_read_at_their_epoch_whatever_others_read():
    data = TinyClips()
    one, other = SeededItems(data), SeededItems(data)
    expected = [SeededItems(TinyClips())[Item(3, index, index)][1][0] for index in range(2)]
    assert torch.equal(one[Item(3, 0, 0)][1][0], expected[0])
    other[Item(0, 0, 0)]
    assert torch.equal(one[Item(3, 1, 1)][1][0], expected[1])


def test_watching_does_not_set_the_epoch_of_the_training_data(tmp_path):
    epochs = []

    class Recorded(TinyClips):
        def set_epoch(self, epoch):
            if self is data:
                epochs.append(epoch)
            super().set_epoch(epoch)

    data = Recorded()
    fit(TinyTask(network(), data), plain_config(eval_every=5, attention_items=3), tmp_path, log=lambda text: None)
    assert epochs == [0] * 12 + [1] * 12
