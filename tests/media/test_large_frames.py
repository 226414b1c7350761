"""Large frames take the memory of the size that is needed, and frames above the limit are refused before decoding."""

import pytest
import torch
from torch.nn import functional as F

av = pytest.importorskip("av", reason="PyAV decodes and encodes: pip install 'torch-nonlocal[video]'")
Image = pytest.importorskip("PIL.Image", reason="Pillow reads images: pip install 'torch-nonlocal[video]'")

from hostile import cost, huge_png  # noqa: E402 (after the skips)

from torch_nonlocal.media import BrokenVideoError, read_clip, write_mp4  # noqa: E402
from torch_nonlocal.media.frame_folders import read_picture  # noqa: E402
from torch_nonlocal.media.limits import MOST_PIXELS, reduced  # noqa: E402

VIEW = "tuple(read_frames([path], frames=8).shape)"


@pytest.fixture(scope="module")
def film_4k(tmp_path_factory):
    """Eight frames of 3840 x 2160; 8 bytes per pixel of one frame are 63 MiB."""
    path = tmp_path_factory.mktemp("films") / "4k.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "40"})
        stream.height, stream.width, stream.pix_fmt = 2160, 3840, "yuv420p"
        row = torch.linspace(0, 255, 3840).to(torch.uint8)
        picture = row.view(1, -1, 1).expand(2160, -1, 3).contiguous().numpy()
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_4k_clip_takes_the_memory_of_a_few_frames(film_4k):
    results, mebibytes, _ = cost(film_4k, VIEW, "inspect_video(path, time_limit=60).frames")
    assert results == ["(8, 272, 484, 3)", "8"]
    assert mebibytes < 200, "whole frames took 1071 MiB, frames scaled as they are decoded take 74"


@pytest.mark.parametrize("size", [(13000, 13000), (30000, 30000)])
def test_a_picture_above_the_limit_is_refused_before_it_is_decoded(tmp_path, size):
    path = huge_png(tmp_path / "clip" / "frame_1.png", *size)
    results, mebibytes, seconds = cost(path, VIEW, "read_clip(path)", "inspect_video(path.parent, time_limit=60)")
    assert len(results) == 3
    for result in results:
        assert result.startswith("BrokenVideoError: ")
        assert "frame_1.png'" in result
        assert result.endswith(f"expected at most {MOST_PIXELS:,} pixels")
    assert mebibytes < 100
    assert seconds < 5


def test_a_picture_within_the_limit_takes_two_copies_of_its_pixels(tmp_path):
    huge_png(tmp_path / "clip" / "frame_1.png", 5000, 5000)
    results, mebibytes, _ = cost(tmp_path / "clip", "inspect_video(path, time_limit=60)[:3]")
    assert results == ["(1, 5000, 5000)"]
    assert mebibytes < 300, "four copies of 4 bytes per pixel would take 380 MiB or more"


def test_reduced_frames_are_the_averages_of_the_pixels_they_cover(tmp_path):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(40, 216, (6, 3, 9, 12), generator=generator).float()
    clip = F.interpolate(coarse, (144, 192), mode="bilinear").round().byte().permute(0, 2, 3, 1)
    path = write_mp4(tmp_path / "film.mp4", clip, 25)
    found = read_clip(path, short_side=36)
    assert found.shape == (6, 36, 48, 3)
    whole = read_clip(path).permute(0, 3, 1, 2).float()
    averaged = F.interpolate(whole, (36, 48), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
    assert (found.float() - averaged).abs().mean() < 2, "with half the colors in a row it is 4.5"
    assert torch.equal(read_clip(path, short_side=144), read_clip(path))
    assert torch.equal(read_clip(path, frames=[4, 1], short_side=36), found[[4, 1]])
    with pytest.raises(ValueError, match="short_side must be 1 or more, or None to keep the size, got 0"):
        read_clip(path, short_side=0)


@pytest.mark.parametrize(
    ("height", "width", "short_side", "size"),
    [
        (2160, 3840, 272, (272, 484)),
        (3840, 2160, 272, (484, 272)),
        (271, 272, 272, (271, 272)),
        (9, 9, None, (9, 9)),
        (4, 9000, 1, (1, 2250)),
    ],
)
def test_sizes_scale_to_the_short_side(height, width, short_side, size):
    assert reduced(height, width, short_side) == size


def test_the_orientation_and_mode_of_pictures_are_applied(tmp_path):
    pixels = torch.arange(2 * 3, dtype=torch.uint8).view(2, 3) * 40
    turned = Image.fromarray(pixels.numpy())
    exif = turned.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees clockwise for display
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = torch.rot90(pixels, -1).unsqueeze(2).expand(-1, -1, 3)
    assert torch.equal(read_picture(tmp_path / "turned.png"), expected)


def test_a_picture_that_names_a_program_is_not_run(tmp_path):
    (tmp_path / "img_1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with pytest.raises(BrokenVideoError, match=r"img_1\.png' cannot be read: cannot identify image file"):
        read_picture(tmp_path / "img_1.png")
