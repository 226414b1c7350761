"""Moving digits: pixels, labels, and independence of the label from everything but the motion."""

import sys

import pytest
import torch

from torch_nonlocal.data import RELATIONS, MovingDigits, MovingDigitsDataset
from torch_nonlocal.data.moving_digits import DIGIT_SIZE, Motions

pytest.importorskip("sklearn")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def train() -> MovingDigits:
    return MovingDigits("train")


def true_steps(corners_BOT2: torch.Tensor, size: int) -> torch.Tensor:
    """Motion per frame from positions, (B, 2, T - 1, 2), in (-size / 2, size / 2]: the short way around."""
    step = corners_BOT2.diff(dim=2) % size
    return torch.where(step > size // 2, step - size, step)


def test_train_and_test_share_no_digit_image():
    train, test = MovingDigits("train").digits, MovingDigits("test").digits
    assert len(train) + len(test) == 1797
    assert len(test) == 359
    assert torch.cdist(train, test).min() > 0  # not even two equal drawings


def test_shapes_types_and_range(train):
    drawn = train.batch(5, seeded())
    assert drawn.clips.shape == (5, 1, 8, 32, 32)
    assert drawn.clips.dtype == torch.float32
    assert drawn.labels.shape == (5,)
    assert drawn.labels.dtype == torch.int64
    assert drawn.corners.shape == (5, 2, 8, 2)
    assert drawn.masks().shape == (5, 2, 8, 32, 32)
    assert drawn.clips.min() >= 0
    assert drawn.clips.max() <= 1
    assert drawn.corners.min() >= 0
    assert drawn.corners.max() < 32


@pytest.mark.parametrize(("frames", "size", "speeds"), [(2, 16, (1, 1)), (8, 32, (1, 3)), (12, 41, (2, 7))])
def test_labels_match_the_true_motion(frames, size, speeds):
    drawn = MovingDigits("test", frames=frames, size=size, speeds=speeds).batch(600, seeded(1))
    assert drawn.clips.shape == (600, 1, frames, size, size)
    step_BOT2 = true_steps(drawn.corners, size)
    assert (step_BOT2 == step_BOT2[:, :, :1]).all(), "speed and direction are constant"
    step_BO2 = step_BOT2[:, :, 0]
    speed_BO = step_BO2.abs().sum(-1)
    assert (step_BO2 == 0).any(-1).all(), "motion is along an axis"
    assert set(speed_BO.unique().tolist()) == set(range(speeds[0], speeds[1] + 1))
    cosine_B = (step_BO2[:, 0] * step_BO2[:, 1]).sum(-1) / speed_BO.prod(-1)
    expected_B = torch.tensor([{1: 0, -1: 1, 0: 2}[int(cosine)] for cosine in cosine_B])
    assert torch.equal(drawn.labels, expected_B)


def test_pixels_are_the_two_digits_at_their_corners_wrapped_around(train):
    drawn = train.batch(40, seeded(2))
    assert (drawn.corners > 32 - DIGIT_SIZE).any(), "the sample must contain digits across the border"
    expected = torch.zeros_like(drawn.clips)
    for b in range(40):
        for o in range(2):
            digit = torch.zeros(32, 32)
            digit[:DIGIT_SIZE, :DIGIT_SIZE] = train.digits[drawn.images[b, o]].view(DIGIT_SIZE, DIGIT_SIZE)
            for t in range(8):
                y, x = drawn.corners[b, o, t].tolist()
                expected[b, 0, t] = expected[b, 0, t].maximum(digit.roll((y, x), dims=(0, 1)))
    assert torch.equal(drawn.clips, expected)


def test_masks_cover_all_bright_pixels_and_have_the_size_of_a_digit(train):
    drawn = train.batch(64, seeded(3))
    masks = drawn.masks()
    assert (masks.sum((-1, -2)) == DIGIT_SIZE**2).all()
    assert (drawn.clips[:, 0][~masks.any(1)] == 0).all()
    assert masks.any(1).float().mean() < 0.15  # digits cover little of the clip


def test_one_digit_or_one_frame_is_independent_of_the_label(train):
    """Classes are balanced given either digit's direction, speed, image and position, or the digits' distance."""
    n = 30_000
    drawn = _without_pixels(train, n, seed=4)
    step_BO2 = true_steps(drawn.corners, 32)[:, :, 0]
    direction_BO = torch.atan2(step_BO2[..., 0].float(), step_BO2[..., 1].float())
    offset_B2 = (drawn.corners[:, 0, 3] - drawn.corners[:, 1, 3]) % 32
    seen_apart = {
        "nothing": torch.zeros(n),
        "direction of the first": direction_BO[:, 0],
        "direction of the second": direction_BO[:, 1],
        "speed of the first": step_BO2[:, 0].abs().sum(-1),
        "row of the first": drawn.corners[:, 0, 0, 0] // 8,
        "offset of rows in a frame": offset_B2[:, 0] // 8,
        "offset of columns in a frame": offset_B2[:, 1] // 8,
    }
    for name, value in seen_apart.items():
        for one in value.unique():
            share = torch.bincount(drawn.labels[value == one], minlength=3) / (value == one).sum()
            assert (share - 1 / 3).abs().max() < 0.03, f"{name} = {one}: class shares {share.tolist()}"


def _without_pixels(source: MovingDigits, n: int, seed: int):
    """Labels and corners of n clips; the pixels are discarded in parts to save memory."""
    generator = seeded(seed)
    parts = [source.batch(1000, generator) for _ in range(n // 1000)]
    return parts[0]._replace(
        labels=torch.cat([part.labels for part in parts]), corners=torch.cat([part.corners for part in parts])
    )


def test_same_seed_same_clips(train):
    one, again, other = train.batch(8, seeded(5)), train.batch(8, seeded(5)), train.batch(8, seeded(6))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one.clips, other.clips)


def test_only_the_given_generator_advances(train):
    generator, before = seeded(7), torch.get_rng_state()
    first, second = train.batch(4, generator), train.batch(4, generator)
    assert not torch.equal(first.clips, second.clips)
    assert torch.equal(torch.get_rng_state(), before)


def test_dataset_items_depend_only_on_seed_and_index(train):
    dataset, again = train.dataset(10, seed=3), MovingDigitsDataset(train, 10, seed=3)
    assert len(dataset) == 10
    clip, label = dataset[7]
    assert clip.shape == (1, 8, 32, 32)
    assert label in range(len(RELATIONS))
    _ = again[0]
    assert torch.equal(again[7][0], clip)
    assert again[7][1] == label
    assert torch.equal(dataset[-3][0], clip)
    assert not torch.equal(dataset[6][0], clip)
    assert not torch.equal(train.dataset(10, seed=4)[6][0], clip)  # neighbouring seeds share no clips
    with pytest.raises(IndexError, match="got 10"):
        dataset[10]


def test_dataset_works_with_a_data_loader(train):
    loader = torch.utils.data.DataLoader(train.dataset(6), batch_size=4)
    clips, labels = next(iter(loader))
    assert clips.shape == (4, 1, 8, 32, 32)
    assert labels.shape == (4,)
    assert torch.equal(clips[2], train.dataset(6)[2][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "validation"}, "got 'validation', expected 'train' or 'test'"),
        ({"frames": 1}, "got 1, expected at least 2"),
        ({"size": 15}, "got 15, expected at least 16"),
        ({"speeds": (0, 3)}, r"got \(0, 3\), expected .*1 <= slowest"),
        ({"speeds": (3, 1)}, r"got \(3, 1\), expected .*slowest <= fastest"),
        ({"speeds": (1, 16)}, r"got \(1, 16\), expected .*size / 2 = 16"),
        ({"speeds": (1, 2, 3)}, r"got \(1, 2, 3\), expected \(slowest, fastest\)"),
    ],
)
def test_bad_arguments_raise_with_the_expected_ones(options, message):
    with pytest.raises(ValueError, match=message):
        MovingDigits(**options)


def test_zero_clips_raise(train):
    with pytest.raises(ValueError, match="got 0, expected at least 1"):
        train.batch(0, seeded())
    with pytest.raises(ValueError, match="got 0, expected at least 1"):
        train.dataset(0)


def test_missing_scikit_learn_raises_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'torch-nonlocal\[demo\]'"):
        MovingDigits()


def test_clips_rendered_one_by_one_equal_those_of_the_batch(train):
    batch, motions = train.batch(6, seeded(8)), train.draw(6, seeded(8))
    for i in range(6):
        one = train.render(Motions(*(part[i : i + 1] for part in motions)))
        assert all(torch.equal(part, whole[i : i + 1]) for part, whole in zip(one, batch, strict=True))
