"""Crops, resizing and flips of decoded frames."""

import pytest
import torch

functional = pytest.importorskip("torchvision.transforms.v2.functional", reason="crops and resizes")

from torch_nonlocal.media import EvalTransform, TrainTransform  # noqa: E402 (after the skip)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(frames: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (frames, height, width, 3), generator=seeded(), dtype=torch.uint8)


def gradient(height: int, width: int) -> torch.Tensor:
    """One frame whose red value is the column and whose green value is the row."""
    frame = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    frame[..., 0] = torch.arange(width)
    frame[..., 1] = torch.arange(height)[:, None]
    return frame


def test_all_frames_of_a_clip_get_the_same_crop_and_flip():
    still = noise(1, 40, 60).expand(5, -1, -1, -1)
    for seed in range(6):
        clip = TrainTransform(16)(still, seeded(seed))
        assert clip.shape == (3, 5, 16, 16)
        assert clip.dtype == torch.uint8
        assert clip.is_contiguous()
        assert torch.equal(clip, clip[:, :1].expand_as(clip))


def test_the_crop_equals_resizing_first():
    """Reference: the whole frame resized, then cut; in a smooth image half a pixel is a small difference."""
    frame = gradient(120, 200)
    transform = TrainTransform(56, flip=False)
    for seed in range(10):
        view = transform.view(120, 200, seeded(seed))
        (top, left, side, _), scale = view.boxes[0], 56 / view.boxes[0][2]
        whole = functional.resize(frame[0].permute(2, 0, 1), [round(120 * scale), round(200 * scale)], antialias=True)
        place = (round(top * scale), round(left * scale))
        expected = whole[:, place[0] : place[0] + 56, place[1] : place[1] + 56].float()
        got = transform(frame, seeded(seed))[:, 0].float()
        assert (got - expected)[:, 1:-1, 1:-1].abs().max() <= 3, (side, place)


def test_short_sides_and_crop_positions_cover_their_ranges():
    transform = TrainTransform(224)
    assert transform.sides == (256, 320)
    views = [transform.view(256, 400, seeded(seed)) for seed in range(300)]
    sides = [view.boxes[0][2] for view in views]
    assert (min(sides), max(sides)) == (179, 224)  # 224 of 320, and of 256, in pixels of the frame
    for top, left, height, width in (view.boxes[0] for view in views):
        assert 0 <= top <= 256 - height
        assert 0 <= left <= 400 - width
    assert min(view.boxes[0][1] for view in views) < 5
    assert max(view.boxes[0][1] + view.boxes[0][3] for view in views) > 395
    assert 100 < sum(view.flip for view in views) < 200


def test_flip_mirrors_and_can_be_disabled():
    frames = noise(2, 32, 32)
    turned, straight = TrainTransform(24), TrainTransform(24, flip=False)
    seeds = [seed for seed in range(20) if turned.view(32, 32, seeded(seed)).flip]
    assert seeds
    assert not any(straight.view(32, 32, seeded(seed)).flip for seed in range(20))
    assert torch.equal(turned(frames, seeded(seeds[0])), straight(frames, seeded(seeds[0])).flip(-1))


def test_randomness_comes_only_from_the_generator():
    frames, before = noise(2, 40, 40), torch.get_rng_state()
    one, again, other = (TrainTransform(16)(frames, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("height", "width", "boxes"),
    [
        (64, 100, [(0, 0, 64, 64), (0, 18, 64, 64), (0, 36, 64, 64)]),
        (100, 64, [(0, 0, 64, 64), (18, 0, 64, 64), (36, 0, 64, 64)]),
        (64, 64, [(0, 0, 64, 64)] * 3),
    ],
)
def test_three_crops_lie_along_the_longer_side(height, width, boxes):
    transform = EvalTransform(56, crops=3)
    assert transform.view(height, width).boxes == tuple(boxes)
    assert transform(noise(2, height, width)).shape == (3, 3, 2, 64, 64)


def test_one_crop_is_central_and_full_keeps_the_whole_frame():
    frame = gradient(64, 96)
    middle = EvalTransform(32, short_side=64)(frame)[0, :, 0]
    assert torch.equal(middle[0, 0], torch.arange(32, 64, dtype=torch.uint8))
    assert torch.equal(middle[1, :, 0], torch.arange(16, 48, dtype=torch.uint8))
    assert EvalTransform(224, crops="full").view(240, 320).size == (256, 341)
    assert EvalTransform(28, crops="full")(noise(2, 16, 24)).shape == (1, 3, 2, 32, 48)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (7, 3)])
def test_frames_smaller_than_the_crop_are_enlarged(height, width):
    frames = noise(2, height, width)
    assert TrainTransform(16)(frames, seeded()).shape == (3, 2, 16, 16)
    assert EvalTransform(16)(frames).shape == (1, 3, 2, 16, 16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainTransform(0), "crop: got 0"),
        (lambda: TrainTransform(64, short_side=(60, 80)), r"got \(60, 80\), expected crop = 64 <= smallest"),
        (lambda: TrainTransform(64, short_side=(90, 80)), r"got \(90, 80\)"),
        (lambda: EvalTransform(64, crops=2), r"crops: got 2, expected 1, 3 or 'full'"),
        (lambda: EvalTransform(64, short_side=60), "at least crop = 64"),
        (lambda: EvalTransform(8)(torch.zeros(2, 3, 8, 8)), r"\(2, 3, 8, 8\) torch.float32, expected \(T, H, W, 3\)"),
    ],
)
def test_bad_arguments_raise_with_the_expected_ones(make, message):
    with pytest.raises(ValueError, match=message):
        make()
