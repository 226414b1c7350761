"""Folders of frames: their order, from the names, and images of more than 8 bits."""

import random

import numpy as np
import pytest
import torch

Image = pytest.importorskip("PIL.Image", reason="reads folders of frames: pip install 'torch-nonlocal[video]'")

from torch_nonlocal.media import BrokenVideoError  # noqa: E402 (after the skip)
from torch_nonlocal.media.frame_folders import frame_files, read_picture  # noqa: E402
from torch_nonlocal.media.frame_names import in_order  # noqa: E402


@pytest.mark.parametrize(
    "names",
    [
        "img_1.png img_9.png img_10.png",
        "0.jpg 1.jpg 2.jpg 10.jpg",
        "frame_1_of_300.jpg frame_2_of_300.jpg frame_10_of_300.jpg",
        "clip_0001_jpg.rf.ff09.jpg clip_0002_jpg.rf.0a1b.jpg clip_0010_jpg.rf.99ee.jpg",
        "walk2_cam1_0009.png walk2_cam1_0010.png",
        "0.0.jpg 0.04.jpg 0.2.jpg 0.96.jpg 1.0.jpg 1.04.jpg 10.0.jpg",
        "t_0.0.jpg t_0.04.jpg t_0.2.jpg t_0.96.jpg",
        "0.25.jpg 0.5.jpg",
        "part1.8.jpg part1.9.jpg part1.10.jpg",
        "walk.0001.jpg walk.0002.jpg walk.0010.jpg",
        "IMG_0001.JPG img_0002.jpg IMG_0003.jpeg",
        "2026-01-02_23-59-59.png 2026-01-03_00-00-00.png 2026-01-03_00-00-01.png",
        "00-00-59.9.jpg 00-01-00.1.jpg",
        "vlcsnap-2026-01-02-10h00m09s250.png vlcsnap-2026-01-02-10h00m10s004.png",
        "1.pgm 2.ppm 3.jfif 10.jpe",
        "only_7.png",
    ],
)
def test_the_number_after_the_common_prefix_orders_frames(names):
    expected = names.split()
    shuffled = random.Random(0).sample(expected, len(expected))
    assert in_order(shuffled) == expected


def test_frames_whose_names_have_blanks_and_files_that_are_no_frames():
    assert in_order(["f (10).jpg", "f (9).jpg", "._f (9).jpg", "cover.jpg", "times_1.txt"]) == [
        "f (9).jpg",
        "f (10).jpg",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["img_00001.jpg", "flow_x_00001.jpg", "flow_y_00001.jpg"],
            "several streams: 'flow_x_00001.jpg', 'flow_y_00001",
        ),
        (["cam1_rgb_1.png", "cam1_depth_1.png"], "several streams: 'cam1_depth_1.png', 'cam1_rgb_1.png'"),
        (["1_rgb.png", "1_depth.png", "2_rgb.png", "2_depth.png"], "same number: '1_depth.png' and '1_rgb.png'"),
        (["00001.jpg", "00002.jpg", "00002 (1).jpg"], r"same number: '00002 \(1\).jpg' and '00002.jpg'"),
        (["00001.jpg", "00001.png", "00002.jpg", "00002.png"], "same number: '00001.jpg' and '00001.png'"),
        (["cam1_1.jpg", "cam2_1.jpg", "cam1_2.jpg", "cam2_2.jpg"], "same number: 'cam1_1.jpg' and 'cam1_2.jpg'"),
        (["3fa9.jpg", "81bc.jpg"], "unclear which number orders its images: '3fa9.jpg', '81bc.jpg'"),
        (["a0.5.jpg", "a0.25.jpg"], "unclear whether its images are numbered or named by time"),
    ],
)
def test_several_streams_and_undecidable_orders_raise_with_the_names(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        in_order(names)
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(BrokenVideoError, match=message):
        frame_files(tmp_path)


def test_gray_images_of_16_bits_are_divided_by_257(tmp_path):
    values = np.array([[0, 128, 129, 257], [1000, 32768, 65407, 65535]], dtype=np.uint16)
    expected = torch.tensor([[0, 0, 1, 1], [4, 128, 255, 255]], dtype=torch.uint8)
    for name in ("depth.png", "depth.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert torch.equal(read_picture(tmp_path / name), expected.unsqueeze(-1).expand(-1, -1, 3))


def test_floating_point_images_are_scaled_from_0_to_1_and_others_raise(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "unit.tif")
    assert read_picture(tmp_path / "unit.tif")[0, :, 0].tolist() == [0, 128, 255]
    for values in ([0, 1.5], [-0.1, 1], [0, float("nan")], [0, 4000]):
        Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "other.tif")
        with pytest.raises(BrokenVideoError, match=r"other.tif' has floating-point values from .*, expected 0 to 1"):
            read_picture(tmp_path / "other.tif")
    Image.fromarray(np.array([[0, 70_000]], dtype=np.int32)).save(tmp_path / "other.tif")
    with pytest.raises(BrokenVideoError, match=r"has 32-bit values from 0 to 70000, expected 0 to 65,535"):
        read_picture(tmp_path / "other.tif")
