"""Batches of P identities with K items each."""

from collections import Counter

import pytest

from torch_nonlocal.training.identity_sampler import IdentityBatches

#            0  1  2  3  4  5  6  7  8  9
IDENTITIES = [0, 0, 0, 0, 1, 1, 2, 3, 3, 3]
CAMERAS = [0, 0, 0, 1, 0, 1, 0, 0, 1, 2]


def batches(**changes):
    options = {"per_identity": 2, "batch_size": 4, "seed": 0, **changes}
    return IdentityBatches(IDENTITIES, CAMERAS, **options)


def test_a_batch_has_p_identities_with_k_neighboring_items_and_an_epoch_each_identity_once():
    sampler = batches()
    assert (sampler.items, sampler.batch_size, sampler.steps_per_epoch) == (10, 4, 2)
    for epoch in range(20):
        chosen = [item for step in (2 * epoch, 2 * epoch + 1) for item in sampler.batch(step)]
        identities = [IDENTITIES[item.index] for item in chosen]
        assert identities[::2] == identities[1::2]
        assert sorted(identities[::2]) == [0, 1, 2, 3]
        assert {item.epoch for item in chosen} == {epoch}


def test_items_of_an_identity_come_from_as_many_cameras_as_possible():
    sampler = batches(per_identity=3, batch_size=12)
    for step in range(30):
        found = {}
        for item in sampler.batch(step):
            found.setdefault(IDENTITIES[item.index], []).append(item)
        assert {CAMERAS[item.index] for item in found[0]} == {0, 1}
        assert {CAMERAS[item.index] for item in found[3]} == {0, 1, 2}
        assert Counter(item.index for item in found[0]).most_common(1)[0][1] == 1  # no repeats where there are enough


def test_all_items_are_drawn_and_repeated_ones_have_other_random_draws():
    sampler = batches(per_identity=2, batch_size=8)
    drawn = [item for step in range(60) for item in sampler.batch(step)]
    assert {item.index for item in drawn} == set(range(10))
    single = [item for item in sampler.batch(0) if item.index == 6]
    assert len(single) == 2
    assert single[0].seed != single[1].seed
    assert len({item.seed for item in drawn}) == len(drawn)


def test_a_batch_follows_from_its_step_alone():
    one, other = batches(), batches()
    expected = [one.batch(step) for step in range(9)]
    assert [other.batch(step) for step in reversed(range(9))] == expected[::-1]
    assert batches(seed=1).batch(0) != expected[0]


def test_identities_that_do_not_fill_a_batch_differ_from_epoch_to_epoch():
    sampler = batches(batch_size=6)
    assert sampler.steps_per_epoch == 1
    left_out = {
        next(iter({0, 1, 2, 3} - {IDENTITIES[item.index] for item in sampler.batch(step)})) for step in range(30)
    }
    assert left_out == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_identity": 3}, "batch_size=4: expected a multiple of per_identity=3"),
        ({"per_identity": 0}, "per_identity=0"),
        ({"batch_size": 0}, "batch_size=0: expected a multiple of per_identity=2, both from 1"),
        ({"batch_size": -4}, "batch_size=-4: expected a multiple of per_identity=2, both from 1"),
        ({"batch_size": 10}, "a batch has 5 identities, the training data have 4; expected batch_size=8 or less"),
    ],
)
def test_batches_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        batches(**changes)
    with pytest.raises(ValueError, match="groups of 1 items, expected those of 2"):
        IdentityBatches([0, 1], [0], per_identity=1, batch_size=2, seed=0)
