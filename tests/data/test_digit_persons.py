"""Handwritten persons: who is in which set, the same pixels everywhere, and what makes the tracklets hard."""

import hashlib
from collections import Counter

import pytest
import torch

from torch_nonlocal.data.digit_persons import SIZE, DigitPersons, _digits
from torch_nonlocal.data.person_scenes import CAMERAS, HEIGHT, LENGTH, WIDTH, Scene, Stage, _enlarged
from torch_nonlocal.data.tracklets.tracklet import TrackletSource

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def tested() -> DigitPersons:
    return DigitPersons("test", identities=20)


def test_no_image_of_a_digit_is_in_two_splits() -> None:
    splits = [{tuple(image) for image in _digits(split).tolist()} for split in ("train", "validation", "test")]
    assert [len(images) for images in splits] == [1151, 287, 359]
    assert not splits[0] & splits[1]
    assert not splits[0] & splits[2]
    assert not splits[1] & splits[2]


def test_training_has_every_identity_in_both_cameras() -> None:
    source: TrackletSource = DigitPersons("train", identities=3, tracklets_per_camera=2)
    seen = Counter((one.identity, one.camera) for one in source.tracklets)
    assert set(seen.values()) == {2}
    assert len(seen) == 6
    assert len({one.name for one in source.tracklets}) == 12
    assert {one.length for one in source.tracklets} == {LENGTH}


def test_every_query_has_one_match_in_the_other_camera_and_one_junk_tracklet(tested: DigitPersons) -> None:
    gallery = [tested.tracklets[index] for index in tested.gallery]
    assert len(tested.query) == 20
    assert not set(tested.query) & set(tested.gallery)
    for query in (tested.tracklets[index] for index in tested.query):
        assert query.camera == "camera1"
        assert sorted(one.camera for one in gallery if one.identity == query.identity) == ["camera1", "camera2"]
    distractors = [one for one in gallery if one.role == "distractor"]
    assert len(distractors) == 359 - 20
    assert {one.camera for one in distractors} == {"camera1", "camera2"}
    assert not {one.identity for one in distractors} & {tested.tracklets[index].identity for index in tested.query}


def test_pixels_depend_on_the_index_the_frame_and_the_seed_only(tested: DigitPersons) -> None:
    clip = tested.read(3, range(LENGTH))
    assert clip.dtype == torch.uint8
    assert clip.shape == (3, LENGTH, *SIZE)
    torch.manual_seed(5)
    assert torch.equal(DigitPersons("test", identities=20).read(3, [7, 2, 7]), clip[:, [7, 2, 7]])
    assert not torch.equal(DigitPersons("test", identities=20, seed=1).read(3, [7]), clip[:, [7]])
    assert not torch.equal(tested.read(4, [7]), clip[:, [7]])


def test_pixels_are_the_same_on_every_machine(tested: DigitPersons) -> None:
    pixels = b"".join(bytes(tested.read(index, [0, 9]).flatten().tolist()) for index in (0, 21, 45))
    assert hashlib.sha256(pixels).hexdigest() == "c59d08c48061eb192f180b0a7dd24a0f5223d0037a988dc8c88595e10339f1c5"


def test_a_digit_is_enlarged_bilinearly() -> None:
    digits = _digits("test")[:2]
    ours = _enlarged(digits, 4)
    exact = torch.nn.functional.interpolate(
        digits.view(-1, 1, 8, 8).double(), scale_factor=4, mode="bilinear", align_corners=False
    )
    assert (ours - exact[:, 0] * 255 / 16).abs().max() <= 1  # rounded down


def test_a_person_alone_is_the_picture_at_its_place() -> None:
    """Upright and as large as the picture's cells allow: each pixel is the pixel of the picture that covers it."""
    stage = Stage(_digits("test")[:4], seed=1)
    still = torch.zeros(1, 1, dtype=torch.int64)
    scene = Scene(
        persons=torch.tensor([2]),
        x=still + WIDTH * 128,
        y=still + HEIGHT * 128,
        stride=still,
        size=torch.tensor([[16 * 256, 32 * 256]]),
        lean=0,
        corner=torch.tensor([[0, 0]]),
        post=torch.tensor([[40, 44]]),
        table=torch.arange(256).expand(3, -1),
        noise=0,
        noise_at=torch.tensor([0]),
    )
    frame = stage.render(scene)[:, 0].long()
    packed = frame[0] * 65536 + frame[1] * 256 + frame[2]
    expected = stage.background[:HEIGHT, :WIDTH].long().clone()
    picture = stage.pictures[2].view(64, 32)[1::2, 1::2].long()
    expected[8:40, 4:20] = torch.where(picture >= 0, picture, expected[8:40, 4:20])
    expected[40:44] = 70 * 65536 + 70 * 256 + 75
    assert torch.equal(packed, expected)


def test_others_pass_and_posts_hide_in_some_frames_only() -> None:
    stage = Stage(_digits("validation"), seed=1)
    scenes = [stage.draw(5, camera, torch.arange(LENGTH), seed) for camera in (0, 1) for seed in range(50)]
    assert all(scene.persons[0] == 5 and 5 not in scene.persons[1:] for scene in scenes)
    hidden = torch.stack([scene.post[:, 1] > scene.post[:, 0] for scene in scenes]).float().mean()
    assert 0.1 < hidden < 0.5
    assert {camera.direction for camera in CAMERAS} == {1, -1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tests"}, "split: got 'tests', expected train, validation, test; did you mean 'test'"),
        ({"split": "test", "identities": 360}, "identities: got 360, expected 2 to 359 in test"),
        ({"identities": 1}, "identities: got 1, expected 2 to 1151 in train"),
        ({"tracklets_per_camera": 0}, "tracklets_per_camera: got 0, expected at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitPersons(**arguments)


def test_wrong_frames_are_refused(tested: DigitPersons) -> None:
    with pytest.raises(ValueError, match=r"frames: got \[16\], expected numbers of frames in \[0, 16\)"):
        tested.read(0, [16])
    with pytest.raises(ValueError, match=r"frames: got \[\]"):
        tested.read(0, [])
    with pytest.raises(IndexError, match="index: got -1, expected 0 <= index"):
        tested.read(-1, [0])
