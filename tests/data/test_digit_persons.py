"""Handwritten persons: who is in which set, the same pixels everywhere, and what makes the tracklets hard."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest
import torch

from torch_nonlocal.data.digit_persons import SIZE, DigitPersons, _digits, write_examples
from torch_nonlocal.data.person_scenes import CAMERAS, HEIGHT, LENGTH, WIDTH, Scene, Stage, _enlarged
from torch_nonlocal.data.tracklets.files import FileTracklets
from torch_nonlocal.data.tracklets.find import find_tracklets
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


def test_every_query_has_one_match_in_the_other_camera_and_every_fourth_a_junk_tracklet(tested: DigitPersons) -> None:
    gallery = [tested.tracklets[index] for index in tested.gallery]
    assert len(tested.query) == 20
    assert not set(tested.query) & set(tested.gallery)
    for query in (tested.tracklets[index] for index in tested.query):
        assert query.camera == "camera1"
        seen = sorted(one.camera for one in gallery if one.identity == query.identity)
        assert seen == (["camera1", "camera2"] if int(query.identity[-4:]) % 4 == 0 else ["camera2"])
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
    assert hashlib.sha256(pixels).hexdigest() == "dc7b71f722e62b3876a462573f0031e2a7c6237d4f41492e7f2a80d31cb45091"


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
        seen=torch.tensor([[True]]),
        x=still + WIDTH * 128,
        y=still + HEIGHT * 128,
        stride=still,
        size=torch.tensor([[16 * 256, 32 * 256]]),
        lean=0,
        corner=torch.tensor([[0, 0]]),
        post=torch.tensor([[40, 44]]),
        tram=torch.tensor([False]),
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


def test_a_tram_hides_the_person_for_some_frames_and_shows_a_passenger() -> None:
    stage = Stage(_digits("validation"), seed=1)
    scenes = [stage.draw(5, camera, torch.arange(LENGTH), seed) for camera in (0, 1) for seed in range(50)]
    for scene in scenes:
        person, passer, passenger = scene.persons.tolist()
        assert person == 5
        assert 5 not in (passer, passenger)
        assert torch.equal(scene.seen[0], ~scene.tram)
        assert torch.equal(scene.seen[2], scene.tram)
        assert not (scene.tram & (scene.post[:, 1] > 0)).any()
    counts = torch.stack([scene.tram.sum() for scene in scenes])
    assert counts.min() >= 1
    assert counts.max() == 9
    assert {camera.direction for camera in CAMERAS} == {1, -1}


def test_the_band_of_a_tram_is_the_only_difference_between_a_passenger_and_a_person() -> None:
    stage = Stage(_digits("validation"), seed=1)
    scene = stage.draw(5, 0, torch.tensor([3]), 0)
    on_tram = torch.tensor([True])
    other = scene._replace(persons=scene.persons[[0, 1, 0]], post=scene.post * 0)
    other = other._replace(**{name: getattr(scene, name)[[0, 1, 0]] for name in ("x", "y", "stride", "size")})
    nobody = torch.tensor([[False], [False], [True]])
    walking = stage.render(other._replace(tram=~on_tram, seen=nobody.flip(0)))
    riding = stage.render(other._replace(tram=on_tram, seen=nobody))
    assert torch.equal(walking[..., :43, :], riding[..., :43, :])
    red, green, blue = riding[:, 0, 43:].float().mean((1, 2))
    assert min(red, green) > blue + 80  # yellow


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


def test_examples_on_disk_are_found_as_tracklets_with_the_same_frames(tmp_path: Path) -> None:
    root = write_examples(tmp_path, identities=2)
    found = find_tracklets(root)
    assert (len(found.train), len(found.query), len(found.gallery), found.problems) == (8, 2, 3, ())
    source = FileTracklets(found.query, SIZE)
    assert torch.equal(source.read(1, [4]), DigitPersons("test", identities=2).read(1, [4]))
    with pytest.raises(ValueError, match="already exists"):
        write_examples(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        write_examples(tmp_path / "missing")
