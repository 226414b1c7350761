"""The sampler that draws each class with a given share."""

import math
from collections import Counter

import pytest

from torch_nonlocal.training.class_sampler import ClassBatches

LABELS = [0] * 20 + [1] * 2 + [2] * 5  # 27 items, 6 batches of 4 per epoch: 24 draws
SHARES = [1.0, 1.0, 2.0]  # 6, 6 and 12 draws


def epoch(sampler, number):
    steps = range(number * sampler.steps_per_epoch, (number + 1) * sampler.steps_per_epoch)
    return [item for step in steps for item in sampler.batch(step)]


def test_classes_have_exactly_their_shares_and_items_of_a_class_are_drawn_equally_often():
    sampler = ClassBatches(LABELS, SHARES, 4, seed=0)
    assert (sampler.items, sampler.steps_per_epoch) == (27, 6)
    for number in range(5):
        drawn = Counter(item.index for item in epoch(sampler, number))
        assert Counter(LABELS[index] for index in drawn.elements()) == {0: 6, 1: 6, 2: 12}
        assert [drawn[20], drawn[21]] == [3, 3]
        assert sorted(drawn[index] for index in range(22, 27)) == [2, 2, 2, 3, 3]
        assert max(drawn[index] for index in range(20)) == 1


def test_fractions_are_rounded_up_or_down_with_the_exact_mean():
    sampler = ClassBatches([0, 0, 0, 1, 2], [0.5, 0.3, 0.2], 5, seed=1)  # 2.5, 1.5 and 1 draws
    epochs = 400
    counts = [Counter([0, 0, 0, 1, 2][item.index] for item in epoch(sampler, number)) for number in range(epochs)]
    for label, expected in enumerate((2.5, 1.5, 1.0)):
        found = [one[label] for one in counts]
        assert set(found) <= {math.floor(expected), math.ceil(expected)}
        assert sum(found) / epochs == pytest.approx(expected, abs=0.1)


def test_repeated_items_have_random_draws_of_their_own():
    sampler = ClassBatches(LABELS, SHARES, 4, seed=0)
    items = epoch(sampler, 3)
    of_one = sorted(item.epoch for item in items if item.index == 20)
    assert of_one == [3, 3 + 2**20, 3 + 2**21]
    assert len({(item.epoch, item.index) for item in items}) == len({item.seed for item in items}) == 24


def test_batches_follow_from_the_step_in_any_order_of_calls():
    forward = ClassBatches(LABELS, SHARES, 4, seed=5)
    expected = [forward.batch(step) for step in range(18)]
    for step in (17, 3, 0, 11):
        assert ClassBatches(LABELS, SHARES, 4, seed=5).batch(step) == expected[step]
    assert ClassBatches(LABELS, SHARES, 4, seed=6).batch(0) != expected[0]
    assert expected[0] != expected[6]


def test_a_class_without_items_needs_the_share_0():
    assert {item.index for item in epoch(ClassBatches([0, 2], [0.5, 0.0, 0.5], 2, seed=0), 0)} == {0, 1}
    assert {item.index for item in epoch(ClassBatches([0, 1], [0.5, 0.5, 0.0], 2, seed=0), 0)} == {0, 1}
    with pytest.raises(ValueError, match=r"class 1 has no items, expected the share 0, got 0\.5"):
        ClassBatches([0, 2], [0.5, 0.5, 0.5], 2, seed=0)
    with pytest.raises(ValueError, match="2 items, fewer than one batch"):
        ClassBatches([0, 1], [0.5, 0.5], 4, seed=0)
