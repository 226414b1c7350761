"""RandAugment for clips: the same change in all frames, draws from the generator alone."""

import pytest
import torch

functional = pytest.importorskip("torchvision.transforms.v2.functional", reason="changes of pictures")

from torch_nonlocal.media import TrainTransform  # noqa: E402 (after the skip)
from torch_nonlocal.media.rand_augment import _APPLY, Operation, apply_operations, draw_operations  # noqa: E402


def clip(frames=3, seed=0):
    shape = (frames, 3, 20, 24)
    return torch.randint(30, 200, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("name", _APPLY)
@pytest.mark.parametrize("strength", [0.5, -0.5])
def test_all_frames_are_changed_alike(name, strength):
    still = clip(1).expand(4, -1, -1, -1)
    changed = apply_operations((Operation(name, strength),), still)
    assert (changed.shape, changed.dtype) == (still.shape, torch.uint8)
    assert torch.equal(changed, changed[:1].expand_as(changed))
    assert torch.equal(changed, still) == (name == "identity")


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "contrast"])
def test_brightness_over_time_remains(name):
    fading = torch.stack([clip(1)[0] // 4 + 20 * number for number in range(8)])
    means = apply_operations((Operation(name, 0.5),), fading).float().mean((1, 2, 3))
    assert (means.diff() > 5).all()


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("translate-x", 0.5, lambda x: torch.roll(x, round(75 / 331 * 24), 3)[..., 5:]),
        ("brightness", -0.5, lambda x: functional.adjust_brightness(x, 0.55)),
        ("posterize", 0.5, lambda x: x & 0b11111100),
        ("solarize", -0.5, lambda x: torch.where(x >= 128, 255 - x, x)),
    ],
)
def test_strength_is_a_share_of_the_range(name, strength, expected):
    changed = apply_operations((Operation(name, strength),), clip())
    wanted = expected(clip())
    assert torch.equal(changed[..., -wanted.shape[3] :], wanted)


def test_draws_follow_from_the_generator():
    draws = [draw_operations(9, torch.Generator().manual_seed(seed)) for seed in range(300)]
    assert draws[7] == draw_operations(9, torch.Generator().manual_seed(7))
    assert all(len(one) == 2 for one in draws)
    every = [operation for one in draws for operation in one]
    assert {one.name for one in every} == set(_APPLY)
    assert {one.strength for one in every} == {0.3, -0.3}


def test_training_clips_are_changed_on_request_only():
    frames = clip(4, seed=1).permute(0, 2, 3, 1)
    plain, augmented = TrainTransform(16), TrainTransform(16, rand_augment=9)
    different = 0
    for seed in range(10):
        one, other = (torch.Generator().manual_seed(seed) for _ in range(2))
        view, changed = plain.view(20, 24, one), augmented.view(20, 24, other)
        assert (view.boxes, view.flip, view.operations) == (changed.boxes, changed.flip, ())
        again = torch.Generator().manual_seed(seed)
        result = augmented(frames, torch.Generator().manual_seed(seed))
        assert torch.equal(result, augmented(frames, again))
        base = plain(frames, torch.Generator().manual_seed(seed))
        assert result.shape == base.shape == (3, 4, 16, 16)
        assert result.is_contiguous()
        expected = apply_operations(changed.operations, base.transpose(0, 1)).transpose(0, 1)
        assert torch.equal(result, expected)
        different += not torch.equal(result, base)
    assert different >= 7
    with pytest.raises(ValueError, match=r"rand_augment: got 31, expected 0 \(none\) to 30"):
        TrainTransform(16, rand_augment=31)
