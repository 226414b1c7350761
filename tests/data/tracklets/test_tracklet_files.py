"""Frames of tracklets in files: order, size, orientation, boxes, and files that cannot be read."""

from pathlib import Path

import pytest
import torch
from miniatures import color, mars, picture
from PIL import Image

from torch_nonlocal.data.tracklets.files import FileTracklets
from torch_nonlocal.data.tracklets.find import find_tracklets
from torch_nonlocal.data.tracklets.tracklet import Box, Tracklet
from torch_nonlocal.media import write_mp4
from torch_nonlocal.media.broken import BrokenVideoError


def stills(folder: Path, count: int = 4, suffix: str = ".png", **options) -> Tracklet:
    files = tuple(picture(folder / f"f{frame}{suffix}", 5, frame, **options).name for frame in range(count))
    return Tracklet("t1", "5", "1", count, folder, files)


def test_frames_come_in_the_order_that_is_asked_for(tmp_path: Path):
    source = FileTracklets([stills(tmp_path)], (16, 8))
    clip = source.read(0, [2, 0, 2])
    assert (clip.shape, clip.dtype) == ((3, 3, 16, 8), torch.uint8)
    assert clip[0, :, 0, 0].tolist() == [2, 0, 2]
    assert clip[:, 0, 5, 5].tolist() == list(color(5))


def test_frames_of_several_sizes_are_resized_to_one(tmp_path: Path):
    picture(tmp_path / "f0.png", 1, size=(40, 10))
    picture(tmp_path / "f1.png", 1, size=(6, 30))
    one = Tracklet("t1", "1", "1", 2, tmp_path, ("f0.png", "f1.png"))
    clip = FileTracklets([one], (12, 9)).read(0, [0, 1])
    assert clip.shape == (3, 2, 12, 9)
    assert clip[:, :, 11, 8].T.tolist() == [list(color(1))] * 2


def test_resizing_averages_the_pixels_of_a_larger_picture(tmp_path: Path):
    checkered = Image.new("L", (8, 8))
    checkered.putdata([200 * ((row + column) % 2) for row in range(8) for column in range(8)])
    checkered.save(tmp_path / "f0.png")
    clip = FileTracklets([Tracklet("t", "1", "1", 1, tmp_path, ("f0.png",))], (2, 2)).read(0, [0])
    assert clip.float().sub(100).abs().max() <= 12  # without antialiasing: 0 or 200


def test_the_orientation_of_phones_is_applied(tmp_path: Path):
    tall = Image.new("RGB", (4, 2), (255, 0, 0))
    exif = Image.Exif()
    exif[274] = 6  # to be turned right
    tall.putpixel((0, 0), (0, 0, 255))
    tall.save(tmp_path / "f0.png", exif=exif)
    clip = FileTracklets([Tracklet("t", "1", "1", 1, tmp_path, ("f0.png",))], (4, 2)).read(0, [0])
    assert clip[:, 0, 0, 1].tolist() == [0, 0, 255]


def test_boxes_are_cut_out_of_each_frame_and_clipped(tmp_path: Path):
    film = torch.zeros(6, 64, 64, 3, dtype=torch.uint8)
    for frame in range(6):
        film[frame, 8 * frame : 8 * frame + 16, 8 * frame : 8 * frame + 16] = 250
    write_mp4(tmp_path / "v.mp4", film, 25)
    boxes = tuple(Box(frame, 8 * frame, 8 * frame, 16, 16) for frame in (1, 2, 4))
    clipped = (Box(0, -16, -16, 32, 32), Box(5, 40, 40, 99, 99))
    one = Tracklet("t", "1", "1", 3, tmp_path / "v.mp4", boxes=boxes)
    other = Tracklet("u", "1", "1", 2, tmp_path / "v.mp4", boxes=clipped)
    source = FileTracklets([one, other], (8, 8))
    clip = source.read(0, [2, 0, 1, 0])
    assert clip.shape == (3, 4, 8, 8)
    assert clip[:, :, 2:6, 2:6].float().mean((0, 2, 3)).min() > 240
    edges = source.read(1, [0, 1])[:, :, 1:5, 1:5].float().mean((0, 2, 3))
    assert edges.min() > 240


def test_boxes_in_a_folder_of_frames_and_whole_videos(tmp_path: Path):
    for frame in range(3):
        picture(tmp_path / "film" / f"{frame:03d}.png", 3, frame)
    boxes = (Box(0, 0, 0, 1, 1), Box(2, 0, 0, 1, 1))
    write_mp4(tmp_path / "v.mp4", (40 * torch.arange(5)).view(5, 1, 1, 1).expand(5, 32, 32, 3).to(torch.uint8), 25)
    cut = Tracklet("t", "1", "1", 2, tmp_path / "film", boxes=boxes)
    source = FileTracklets([cut, Tracklet("u", "1", "1", 5, tmp_path / "v.mp4")], (2, 2))
    assert source.read(0, [1, 0])[0, :, 0, 0].tolist() == [2, 0]
    levels = source.read(1, [4, 1])[0, :, 0, 0]
    assert (levels - torch.tensor([160, 40])).abs().max() <= 3


@pytest.mark.parametrize(
    ("box", "message"),
    [(Box(0, 64, 0, 9, 9), "frame 0 .*is outside of the frame of 64 x 64"), (Box(9, 0, 0, 9, 9), "'t'.*has 2 frames")],
)
def test_boxes_outside_are_refused(tmp_path: Path, box: Box, message: str):
    write_mp4(tmp_path / "v.mp4", torch.zeros(2, 64, 64, 3, dtype=torch.uint8), 25)
    one = Tracklet("t", "1", "1", 1, tmp_path / "v.mp4", boxes=(box,))
    with pytest.raises(BrokenVideoError, match=message):
        FileTracklets([one], (8, 8)).read(0, [0])


def test_a_broken_picture_is_named(tmp_path: Path):
    one = stills(tmp_path, suffix=".jpg")
    (tmp_path / "f2.jpg").write_bytes((tmp_path / "f2.jpg").read_bytes()[:60])
    source = FileTracklets([one], (8, 8))
    assert source.read(0, [0, 1, 3]).shape == (3, 3, 8, 8)
    with pytest.raises(BrokenVideoError, match=r"f2\.jpg"):
        source.read(0, [0, 2])


@pytest.mark.parametrize("frames", [[], [4], [-1]])
def test_frames_that_do_not_exist_are_refused(tmp_path: Path, frames: list[int]):
    with pytest.raises(ValueError, match=r"'t1' has 4 frames \(0 to 3\); got"):
        FileTracklets([stills(tmp_path)], (8, 8)).read(0, frames)


@pytest.mark.parametrize("size", [(0, 8), (8,), (8.0, 8), (8, 8, 3)])
def test_sizes_are_checked(size: tuple):
    with pytest.raises(ValueError, match="expected \\(height, width\\)"):
        FileTracklets([], size)


def test_tracklets_in_memory_are_refused():
    with pytest.raises(ValueError, match="'t' has no files"):
        FileTracklets([Tracklet("t", "1", "1", 3)], (8, 8))


def test_a_whole_set_is_read(tmp_path: Path):
    data = find_tracklets(mars(tmp_path))
    source = FileTracklets(data.gallery, (16, 8))
    for index, one in enumerate(data.gallery):
        clip = source.read(index, range(one.length))
        expected = torch.tensor(color(max(int(one.identity.replace("00-1", "0")), 0)))
        assert (clip[:, :, 8, 4].T - expected).abs().max() <= 4  # JPEG
