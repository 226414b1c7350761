"""What `nonlocal view` shows: frames with numbers and times, images of a folder, and points in pixels of the file."""

import pytest
import torch

pytest.importorskip("av", reason="pip install 'torch-nonlocal[video]'")
Image = pytest.importorskip("PIL.Image", reason="pip install 'torch-nonlocal[video]'")

from torch_nonlocal.media import read_clip, write_mp4  # noqa: E402 (after the skips)
from torch_nonlocal.tasks.footage import evenly, read_footage  # noqa: E402


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "walk.mp4"
    shades = torch.linspace(0, 250, 20).byte()
    return write_mp4(path, (shade.expand(40, 60, 3).numpy() for shade in shades), 10)


def test_frames_keep_their_numbers_and_times(video):
    footage = read_footage([video], evenly(4), size=20)
    assert footage.clip.shape == (4, 20, 30, 3)
    assert footage.numbers == (0, 5, 10, 15)
    assert footage.labels == ("frame 0, 0.00 s", "frame 5, 0.50 s", "frame 10, 1.00 s", "frame 15, 1.50 s")
    assert (footage.file, footage.size, footage.total) == ("walk.mp4", (40, 60), 20)
    assert read_footage([video], evenly(3, start=2, stride=4)).numbers == (2, 6, 10)
    assert torch.equal(read_footage([video], evenly(2)).clip, read_clip(video, frames=[0, 10]))


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("0,0,0", (0, 0, 0)),
        ("11,39,59", (2, 19, 29)),  # frame 10 of the video is the third that is shown
        ("100%,100%,100%", (3, 19, 29)),
        ("10, 20.5 ,50%", (2, 10, 14.5)),
    ],
)
def test_points_are_pixels_of_the_file_or_percent(video, text, point):
    footage = read_footage([video], evenly(4), size=20)
    assert footage.point(text) == pytest.approx(point, abs=0.26)


def test_a_point_is_described_as_it_was_given(video):
    footage = read_footage([video], evenly(4), size=20)
    assert footage.describe(footage.point("10,21,33")) == "frame 10, 1.00 s, y 21, x 33"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2", "expected frame,y,x such as"),
        ("a,2,3", "frame is 'a', expected a number such as 120, or 50%"),
        ("0,40,3", "y is 40, expected 0 to 39"),
        ("20,0,3", "frame is 20, expected 0 to 19"),
        ("0,0,101%", "x is 101%, expected 0 to 100%"),
        ("0,nan,1", "y is nan, expected 0 to 39"),
    ],
)
def test_invalid_points_raise_with_the_range(video, text, message):
    with pytest.raises(ValueError, match=message):
        read_footage([video], evenly(4), size=20).point(text)


@pytest.fixture
def folder(tmp_path):
    for number in (1, 2, 10):
        Image.new("RGB", (60, 40), (20 * number, 0, 0)).save(tmp_path / f"beach {number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_of_images_is_read_in_the_order_of_their_numbers(folder):
    footage = read_footage([folder], evenly(8))
    assert footage.labels == ("beach 1.png", "beach 2.png", "beach 10.png")
    assert footage.clip[:, 0, 0, 0].tolist() == [20, 40, 200]
    assert (footage.file, footage.size) == (folder.name, (40, 60))
    assert read_footage([folder], evenly(2)).labels == ("beach 1.png", "beach 2.png")
    empty = folder / "none"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"no images in .*none: expected \.bmp, \.jfif"):
        read_footage([empty], evenly(8))


def test_a_photograph_needs_no_frame_number(tmp_path):
    path = tmp_path / "photo 1.jpg"
    Image.effect_noise((600, 400), 60).convert("RGB").save(path)  # larger than FFmpeg's first read
    footage = read_footage([path], evenly(8), size=200)
    assert footage.clip.shape == (1, 200, 300, 3)
    assert footage.labels == ("photo 1.jpg",)
    assert footage.point("399,599") == footage.point("0,399,599") == footage.point("100%,100%") == (0, 199, 299)
    repeated = footage.repeated(4)
    assert repeated.clip.shape == (4, 200, 300, 3)
    assert repeated.labels == ("photo 1.jpg",) * 4
    assert repeated.point("5,5") == footage.point("5,5")
