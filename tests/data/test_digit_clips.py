"""Moving digits as a dataset of clips: an item follows from seed, epoch and index."""

import pytest
import torch

pytest.importorskip("sklearn", reason="pip install 'torch-nonlocal[demo]'")

from torch_nonlocal.data import MovingDigits
from torch_nonlocal.data.dataset import item_generator
from torch_nonlocal.data.digit_clips import DigitClips


@pytest.fixture(scope="module")
def digits():
    return MovingDigits("test", frames=4, size=16)


def test_an_item_is_drawn_from_its_own_generator(digits):
    data = DigitClips(digits, 10, seed=3)
    data.set_epoch(2)
    clip, label, index = data[7]
    drawn = digits.batch(1, item_generator(3, 2, 7))
    assert (clip.shape, clip.dtype, label, index) == ((1, 4, 16, 16), torch.uint8, int(drawn.labels[0]), 7)
    torch.testing.assert_close(clip / 255, drawn.clips[0], rtol=0, atol=0.51 / 255)


def test_items_differ_by_seed_epoch_and_index_and_repeat(digits):
    def item(seed, epoch, index):
        data = DigitClips(digits, 10, seed=seed)
        data.set_epoch(epoch)
        return data[index][0]

    places = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)]
    assert len({item(*place).numpy().tobytes() for place in places}) == len(places)
    assert all(torch.equal(item(*place), item(*place)) for place in reversed(places))


def test_three_channels_are_equal(digits):
    grey, colour = DigitClips(digits, 3)[1], DigitClips(digits, 3, channels=3)[1]
    assert colour[0].shape == (3, 4, 16, 16)
    assert all(torch.equal(channel, grey[0][0]) for channel in colour[0])
    assert colour[1:] == grey[1:]


def test_the_list_has_names_and_labels(digits):
    data = DigitClips(digits, 5, seed=4)
    listed = data.clip_list()
    assert listed.classes == ("same", "opposite", "perpendicular")
    assert [listed.name(clip) for clip in listed.clips] == [f"test/{index}" for index in range(5)]
    assert [clip.label for clip in listed.clips] == [data[index][1] for index in range(5)]


@pytest.mark.parametrize(
    ("length", "options", "message"),
    [(0, {}, "length: got 0, expected at least 1"), (1, {"channels": 2}, "channels: got 2, expected 1 or 3")],
)
def test_bad_sizes_raise(digits, length, options, message):
    with pytest.raises(ValueError, match=message):
        DigitClips(digits, length, **options)


def test_an_index_beyond_the_end_raises(digits):
    assert len(DigitClips(digits, 3)) == 3
    with pytest.raises(IndexError, match="got 3, expected 0 <= index < 3"):
        DigitClips(digits, 3)[3]
