"""The order of the items and their random draws follow from seed, epoch and item alone."""

import random

import numpy as np
import pytest
import torch
from tiny_training import TinyClips
from torch.utils.data import default_collate

from torch_nonlocal._common.seeds import mix_seed, seeded
from torch_nonlocal.training.sampler import Item, RankBatchSampler, SeededItems, ShuffledBatches, make_loader


def indices(sampler, step):
    return [item.index for item in sampler.batch(step)]


def test_epoch_takes_each_item_at_most_once():
    sampler = ShuffledBatches(11, 4, seed=0)
    assert sampler.steps_per_epoch == 2
    for epoch in range(3):
        seen = indices(sampler, 2 * epoch) + indices(sampler, 2 * epoch + 1)
        assert len(set(seen)) == 8
        assert set(seen) <= set(range(11))
    assert indices(sampler, 0) != indices(sampler, 2), "each epoch has its own order"
    assert len({index for step in range(40) for index in indices(sampler, step)}) == 11, "no item is always dropped"


def test_batches_are_the_same_in_any_order_of_calls():
    forward = ShuffledBatches(20, 3, seed=5)
    expected = [forward.batch(step) for step in range(18)]
    for step in (17, 3, 0, 11):
        assert ShuffledBatches(20, 3, seed=5).batch(step) == expected[step]
    assert ShuffledBatches(20, 3, seed=6).batch(0) != expected[0]


def test_item_seeds_differ_between_epochs():
    sampler = ShuffledBatches(4, 4, seed=0)
    seeds = {epoch: {item.index: item.seed for item in sampler.batch(epoch)} for epoch in range(2)}
    assert all(seeds[0][index] != seeds[1][index] for index in range(4))


@pytest.mark.parametrize(("accumulate", "processes"), [(1, 1), (2, 1), (1, 2), (2, 2), (1, 4)])
def test_parts_add_up_to_the_global_batch(accumulate, processes):
    sampler = ShuffledBatches(10, 8, seed=1)
    runs = []
    for process in range(processes):
        parts = RankBatchSampler(sampler, accumulate, processes, process)
        parts.stop = 1
        runs.append(list(parts))
    assert all(len(part) == 8 // (accumulate * processes) for run in runs for part in run)
    assert [item for part in range(accumulate) for run in runs for item in run[part]] == sampler.batch(0)


def test_wrong_batch_sizes_raise():
    with pytest.raises(ValueError, match="3 items, fewer than one batch; expected batch_size=3 or less"):
        ShuffledBatches(3, 4, seed=0)
    with pytest.raises(ValueError, match="multiple of accumulate x processes = 2 x 3"):
        RankBatchSampler(ShuffledBatches(9, 8, seed=0), 2, 3, 0)


def read(workers, start=0, stop=9):
    parts = RankBatchSampler(ShuffledBatches(10, 3, seed=1), 1, 1, 0)
    parts.start, parts.stop = start, stop
    loader = make_loader(TinyClips(10), parts, workers=workers, collate=default_collate, pin_memory=False)
    return [(torch.tensor(indices), *batch) for indices, batch in loader]


def test_batches_do_not_depend_on_workers_or_first_step():
    expected = read(0)
    for got in (read(1), read(2), read(0, 4), read(2, 5)):
        for one, other in zip(got, expected[-len(got) :], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_reading_restores_random_states():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    read(0)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_seeded_draws_are_reproducible():
    def draw():
        with seeded(5):
            return random.random(), np.random.random(), torch.randn(3).tolist()

    assert draw() == draw()


def test_mix_seed_gives_distinct_seeds():
    seeds = {mix_seed(seed, epoch, index) for seed in range(5) for epoch in range(10) for index in range(100)}
    assert len(seeds) == 5000
    assert mix_seed(1, 2) != mix_seed(2, 1)
    assert mix_seed(0) != mix_seed(0, 0)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_set_epoch_is_called_when_the_epoch_changes():
    data = TinyClips(4)
    items = SeededItems(data)
    items[Item(3, 0, 0)]
    assert data.epoch == 3


def test_items_are_read_with_their_index():
    assert SeededItems(["a", "b"])[Item(0, 1, 0)] == (1, "b")


def test_error_in_the_data_names_the_item():
    def fail(index, clip):
        raise OSError("broken")

    with pytest.raises(OSError, match="broken") as caught:
        SeededItems(TinyClips(on_read=fail))[Item(0, 4, 0)]
    assert "item 4" in caught.value.__notes__[0]
