"""torchcodec returns the bytes of PyAV or refuses the file."""

import multiprocessing
import os
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch

av = pytest.importorskip("av", reason="PyAV decodes and encodes: pip install 'torch-nonlocal[video]'")
np = pytest.importorskip("numpy", reason="frames become arrays on their way: pip install 'torch-nonlocal[video]'")

from torch_nonlocal.media import decode, read_clip  # noqa: E402 (after the skips)
from torch_nonlocal.media.broken import BrokenVideoError, Deadline  # noqa: E402
from torch_nonlocal.media.torchcodec_frames import NotTheSameError, frames, loads  # noqa: E402

FRAMES = 24


@pytest.fixture
def torchcodec():
    if not loads():
        if os.environ.get("CI") == "true":
            pytest.fail("torchcodec does not load: CI installs it and FFmpeg")
        pytest.skip("torchcodec does not load: pip install torchcodec, and FFmpeg's libraries")


def coloured_noise(height: int, width: int) -> np.ndarray:
    """Saturated, moving colors with sharp edges, which reveal interpolated chroma."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (1 + height // 5, 1 + width // 5, 3), dtype=np.uint8)
    world = blocks.repeat(5, axis=0).repeat(5, axis=1)[:height, :width]
    return np.stack([np.roll(world, (t, 2 * t), axis=(0, 1)) for t in range(FRAMES)])


def write_film(
    path, codec, height, width, *, pix_fmt="yuv420p", rotation=None, times=None, field_order=None, **options
):
    """Write `FRAMES` frames; `times` are in units of 1/25 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        if field_order is not None:
            stream.codec_context.field_order = field_order
        if rotation is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV cannot write a rotation")
            stream.set_display_rotation(rotation)
        for t, picture in enumerate(coloured_noise(height, width)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[t], Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def by_torchcodec(path: Path, indices: list[int], seconds: float | None = None) -> list[torch.Tensor]:
    """The result of `frames`, with the timestamps that PyAV lists."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pts = sorted(packet.pts for packet in container.demux(stream) if packet.size)
        found = list(frames(path, stream, pts, indices, Deadline(path, seconds)))
    assert [index for index, _ in found] == indices
    return [frame for _, frame in found]


X264 = {"g": "7", "bf": "3", "preset": "veryfast"}
X265 = {"x265-params": "keyint=9:log-level=none", "preset": "ultrafast"}
VP9 = {"g": "8", "deadline": "realtime", "cpu-used": "8", "b": "400000"}
SVT = {"g": "8", "preset": "12"}
UNEVEN = [t + t // 3 * 4 for t in range(FRAMES)]

# 64 x 48 and 66 x 50: torchcodec converts widths that 32 divides by another function than the rest.
SAME = {
    "B-frames": ("film.mp4", "libx264", 48, 64, X264),
    "another width": ("film.mp4", "libx264", 50, 66, X264),
    "Matroska": ("film.mkv", "libx264", 48, 64, X264),
    "one key frame": ("film.mp4", "libx264", 48, 64, X264 | {"g": "250"}),
    "variable rate": ("film.mp4", "libx264", 48, 64, X264 | {"times": UNEVEN}),
    "starts late": ("film.mp4", "libx264", 48, 64, X264 | {"times": [100 + t for t in range(FRAMES)]}),
    "BT.709": ("film.mp4", "libx264", 48, 64, X264 | {"colorspace": "bt709", "color_range": "tv"}),
    "BT.709, another width": ("film.mp4", "libx264", 50, 66, X264 | {"colorspace": "bt709", "color_range": "tv"}),
    "BT.601": ("film.mp4", "libx264", 50, 66, X264 | {"colorspace": "smpte170m"}),
    "full range": ("film.mp4", "libx264", 48, 64, X264 | {"pix_fmt": "yuvj420p"}),
    "full range, another width": ("film.mp4", "libx264", 50, 66, X264 | {"pix_fmt": "yuvj420p", "colorspace": "bt709"}),
    "turned": ("film.mp4", "libx264", 48, 64, X264 | {"rotation": 90}),
    "upside down": ("film.mp4", "libx264", 50, 66, X264 | {"rotation": 180}),
    "HEVC that says it is progressive": ("film.mp4", "libx265", 50, 66, X265 | {"field_order": 1}),
    "VP9": ("film.webm", "libvpx-vp9", 50, 66, VP9),
    "AV1": ("film.mp4", "libsvtav1", 64, 80, SVT),
}


@pytest.mark.usefixtures("torchcodec")
@pytest.mark.parametrize(("name", "codec", "height", "width", "options"), SAME.values(), ids=SAME)
def test_frames_equal_those_of_pyav_byte_for_byte(tmp_path, name, codec, height, width, options):
    path = write_film(tmp_path / name, codec, height, width, **options)
    expected = read_clip(path)
    assert len(expected) == FRAMES
    for indices in (list(range(FRAMES)), [5], [22], [0, 13, 14, 23]):
        np.testing.assert_array_equal(torch.stack(by_torchcodec(path, indices)), expected[indices])


REFUSED = {
    "10 bits": ("film.mp4", "libx264", 48, 64, X264 | {"pix_fmt": "yuv420p10le"}),
    "full colour resolution": ("film.mp4", "libx264", 48, 64, X264 | {"pix_fmt": "yuv444p"}),
    "interlaced": ("film.mp4", "libx264", 48, 64, X264 | {"x264-params": "interlaced=1"}),
    "HEVC that does not say": ("film.mp4", "libx265", 50, 66, X265),
    "odd size": ("film.webm", "libvpx-vp9", 33, 47, VP9),
    "MPEG-4, which is not exact": ("film.avi", "mpeg4", 48, 64, {"g": "6"}),
}


@pytest.mark.parametrize(("name", "codec", "height", "width", "options"), REFUSED.values(), ids=REFUSED)
def test_files_that_may_decode_differently_are_refused_before_the_first_frame(
    tmp_path, name, codec, height, width, options
):
    path = write_film(tmp_path / name, codec, height, width, **options)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        with pytest.raises(NotTheSameError, match=r"pixel format|interlaced|width"):
            next(frames(path, stream, list(range(FRAMES)), [0], Deadline(path, None)))


HARD_TO_SEEK = {  # with the least number of frames that torchcodec reaches
    "MPEG-TS": ("film.ts", X264, 0),
    "no key frames": ("film.mp4", X264 | {"g": "10", "x264-params": "intra-refresh=1"}, 1),
    "open groups": ("film.mp4", X264 | {"g": "9", "x264-params": "open-gop=1"}, 12),
}


@pytest.mark.usefixtures("torchcodec")
@pytest.mark.parametrize(("name", "options", "least"), HARD_TO_SEEK.values(), ids=HARD_TO_SEEK)
def test_each_frame_of_a_file_that_is_hard_to_seek_is_correct_or_refused(tmp_path, name, options, least):
    path = write_film(tmp_path / name, "libx264", 48, 64, **options)
    expected = read_clip(path)
    right = 0
    for index in range(FRAMES):
        try:
            (found,) = by_torchcodec(path, [index])
        except NotTheSameError:
            continue
        np.testing.assert_array_equal(found, expected[index])
        right += 1
    assert right >= least


@pytest.mark.usefixtures("torchcodec")
def test_different_counts_timestamps_and_failures_are_refused(tmp_path):
    path = write_film(tmp_path / "film.mp4", "libx264", 48, 64, **X264)
    (tmp_path / "notes.mp4").write_text("words, not pictures\n" * 20)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pts = sorted(packet.pts for packet in container.demux(stream) if packet.size)
        for source, times, message in [
            (path, pts[:-1], "counts 24 frames, PyAV 23"),
            (path, [moment + 1 for moment in pts], "frame 3 of torchcodec has timestamp"),
            (tmp_path / "notes.mp4", pts, "torchcodec fails"),
            (tmp_path / "nowhere.mp4", pts, "torchcodec fails"),
        ]:
            with pytest.raises(NotTheSameError, match=message):
                list(frames(source, stream, times, [3], Deadline(source, None)))


@pytest.mark.usefixtures("torchcodec")
def test_reading_stops_at_the_deadline(tmp_path):
    path = write_film(tmp_path / "film.mp4", "libx264", 48, 64, **X264)
    with pytest.raises(BrokenVideoError, match="longer than the limit") as caught:
        by_torchcodec(path, [0, 1], seconds=-1.0)
    assert caught.value.kind == "time limit"


def _same_in_child(path: Path, expected: torch.Tensor, answers) -> None:
    torch.set_num_threads(1)
    answers.put(torch.equal(by_torchcodec(path, [3])[0], expected))


@pytest.mark.usefixtures("torchcodec")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_process_forked_after_use_reads_the_same(tmp_path):
    path = write_film(tmp_path / "film.mp4", "libx264", 48, 64, **X264)
    (expected,) = by_torchcodec(path, [3])
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_same_in_child, args=(path, expected, answers))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert answers.get()


def test_a_missing_torchcodec_does_not_load_and_prints_nothing(monkeypatch):
    loads.cache_clear()
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    assert not loads()
    monkeypatch.undo()
    loads.cache_clear()


def test_torchcodec_decodes_when_requested_and_gives_the_same_bytes(tmp_path, monkeypatch, torchcodec):
    path = write_film(tmp_path / "film.mp4", "libx264", 48, 64, field_order=1)
    by_pyav = read_clip(path, frames=[20, 3, 3, 11])

    def never(*given):
        assert given[3] == [], "PyAV decodes"
        yield from ()

    monkeypatch.setenv("NONLOCAL_DECODER", "torchcodec")
    monkeypatch.setattr(decode, "by_seeking", never)
    assert torch.equal(read_clip(path, frames=[20, 3, 3, 11]), by_pyav)


def test_a_video_that_torchcodec_may_decode_differently_is_read_by_pyav(tmp_path, monkeypatch, torchcodec):
    path = write_film(tmp_path / "fields.mp4", "libx264", 48, 64, flags="+ilme+ildct")
    by_pyav = read_clip(path)
    monkeypatch.setenv("NONLOCAL_DECODER", "torchcodec")
    assert torch.equal(read_clip(path), by_pyav)


def test_an_unknown_decoder_and_one_that_does_not_load_raise(tmp_path, monkeypatch):
    path = write_film(tmp_path / "film.mp4", "libx264", 48, 64)
    monkeypatch.setenv("NONLOCAL_DECODER", "decord")
    with pytest.raises(ValueError, match="NONLOCAL_DECODER='decord': expected pyav or torchcodec"):
        read_clip(path)
    monkeypatch.setenv("NONLOCAL_DECODER", "torchcodec")
    monkeypatch.setattr(decode.torchcodec_frames, "loads", lambda: False)
    with pytest.raises(ImportError, match="torchcodec does not load"):
        read_clip(path)
