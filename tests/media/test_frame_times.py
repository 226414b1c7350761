"""Times of frames, and the frames of clips at another rate or of a part of a video."""

from fractions import Fraction

import pytest

av = pytest.importorskip("av", reason="pip install 'torch-nonlocal[video]'")

import numpy as np  # noqa: E402 (after the skip)

from torch_nonlocal.media import BrokenVideoError  # noqa: E402
from torch_nonlocal.media.frame_times import FrameTimes, frame_rate, frame_times, frames_between  # noqa: E402


def video(path, milliseconds, *, codec="mpeg4"):
    """A video whose frame i is shown at milliseconds[i]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time in milliseconds:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 60, np.uint8))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def constant(rate, frames):
    return FrameTimes(range(frames), 1 / Fraction(rate), 1 / Fraction(rate))


@pytest.mark.parametrize(
    ("rate", "frames", "fps", "expected"),
    [
        (30, 12, 10, [0, 3, 6, 9]),
        (30, 12, 15, [0, 2, 4, 6, 8, 10]),
        (25, 10, 10, [0, 2, 5, 7]),  # the instants 0.1 and 0.3 s are in the middle of two frames: the earlier one
        (10, 4, 20, [0, 0, 1, 1, 2, 2, 3, 3]),
        (24, 5, 24, [0, 1, 2, 3, 4]),
        (Fraction(30000, 1001), 60, 29.97002997002997, list(range(60))),
        (120, 24, 30, [0, 4, 8, 12, 16, 20]),
    ],
)
def test_samples_take_the_nearest_frame(rate, frames, fps, expected):
    assert list(frames_between("x", constant(rate, frames), fps=fps)) == expected


def test_variable_rate_is_resampled_by_the_times_of_frames():
    times = FrameTimes([500, 540, 580, 1000, 1040], Fraction(1, 1000), Fraction(115, 1000))
    # relative: 0, 0.04, 0.08, 0.5, 0.54 s, and the last frame ends at 0.655 s
    assert list(frames_between("x", times, fps=10)) == [0, 2, 2, 3, 3, 3, 4]
    assert list(frames_between("x", times, fps=25)) == [0, 1, *[2] * 6, *[3] * 6, *[4] * 3]


@pytest.mark.parametrize(
    ("start", "end", "fps", "expected"),
    [
        (1.0, 2.0, None, list(range(10, 20))),
        (None, 0.35, None, [0, 1, 2, 3]),
        (3.7, None, None, [37, 38, 39]),
        (1.0, 2.0, 5, [10, 12, 14, 16, 18]),
        (3.5, 99.0, 5, [35, 37, 39]),
    ],
)
def test_a_part_of_a_video_has_the_frames_that_begin_in_it(start, end, fps, expected):
    assert list(frames_between("x", constant(10, 40), fps=fps, start=start, end=end)) == expected


@pytest.mark.parametrize(("start", "end"), [(4.0, None), (5.0, 6.0), (2.0, 2.0), (3.0, 1.0)])
def test_a_part_without_frames_is_refused(start, end):
    with pytest.raises(BrokenVideoError, match=r"'x' lasts 4\.00 s and has no clip from \d s to"):
        frames_between("x", constant(10, 40), start=start, end=end)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_times_are_those_of_the_file(tmp_path, name):
    shown = [0, 40, 80, 500, 540, 1000]
    times = frame_times(video(tmp_path / name, shown), 6)
    assert [round((tick - times.ticks[0]) * times.tick * 1000) for tick in times.ticks] == shown


def test_times_of_reordered_frames_increase(tmp_path):
    shown = list(range(0, 1000, 40))
    times = frame_times(video(tmp_path / "a.mkv", shown, codec="libx264"), 25)
    assert [tick - times.ticks[0] for tick in times.ticks] == shown
    assert float(times.duration) == pytest.approx(1.0)


def test_other_numbers_of_frames_have_the_constant_rate_of_the_header(tmp_path):
    path = video(tmp_path / "a.avi", range(0, 400, 40))
    times = frame_times(path, 12)
    assert (list(times.ticks), float(1 / times.tick)) == (list(range(12)), pytest.approx(frame_rate(path)))


def test_folders_of_images_have_no_times(tmp_path):
    assert frame_rate(tmp_path) is None
    with pytest.raises(BrokenVideoError, match="is a folder of images, which has no frame rate"):
        frame_times(tmp_path, 3)
