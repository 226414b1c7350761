"""Which files of a folder are clips: known suffixes, content of unknown ones, and names of what is left out."""

import os

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV encodes: pip install 'torch-nonlocal[video]'")
pytest.importorskip("PIL", reason="reads folders of frames")

from clip_files import film, folder_of_frames, sound, touch  # noqa: E402 (after the skips)

from torch_nonlocal.data import BrokenClips, Clip, ClipDataset, check_clips, find_clips  # noqa: E402
from torch_nonlocal.data.suffixes import VIDEOS, starts_like_video  # noqa: E402
from torch_nonlocal.media import BrokenVideoError, TrainTransform  # noqa: E402
from torch_nonlocal.media.inspect import inspect_video  # noqa: E402

FRAMES = 10
KINDS = {  # suffix: format, codec
    ".divx": ("avi", "mpeg4"),
    ".3g2": ("3g2", "mpeg4"),
    ".dv": ("dv", "dvvideo"),
    ".m2v": ("mpeg2video", "mpeg2video"),
    ".f4v": ("f4v", "libx264"),
    ".mjpeg": ("mjpeg", "mjpeg"),
    ".h264": ("h264", "libx264"),
    ".hevc": ("hevc", "libx265"),
    ".qt": ("mov", "mpeg4"),
    ".mpe": ("mpeg", "mpeg1video"),
    ".mp4v": ("m4v", "mpeg4"),
    ".apng": ("apng", "apng"),
}
CONTENTS = {**KINDS, ".mp4": ("mp4", "mpeg4"), ".mkv": ("matroska", "mpeg4"), ".ts": ("mpegts", "mpeg2video")}
CONTENTS |= {".avi": ("avi", "mpeg4"), ".flv": ("flv", "flv"), ".wmv": ("asf", "wmv2"), ".gif": ("gif", "gif")}
CONTENTS |= {".y4m": ("yuv4mpegpipe", "wrapped_avframe"), ".ivf": ("ivf", "libvpx"), ".mxf": ("mxf", "mpeg2video")}
CONTENTS |= {".wtv": ("wtv", "mpeg2video"), ".nut": ("nut", "mpeg4"), ".ogv": ("ogg", "libtheora")}


def written(path, kind: tuple[str, str]):
    """A video of ten frames in a format and codec."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form, codec = kind
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    height, width = (576, 720) if codec == "dvvideo" else (96, 128)
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = height, width
        stream.pix_fmt = {"mjpeg": "yuvj420p", "apng": "rgb24", "gif": "rgb8"}.get(codec, "yuv420p")
        for number in range(FRAMES):
            pixels = np.full((height, width, 3), 20 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", KINDS)
def test_suffixes_that_ffmpeg_reads_are_clips(tmp_path, suffix):
    path = written(tmp_path / f"walk/1{suffix}", KINDS[suffix])
    assert suffix in VIDEOS
    assert [clip.path for clip in find_clips(tmp_path).clips] == [path]
    assert inspect_video(path).frames == FRAMES


@pytest.mark.parametrize("suffix", CONTENTS)
def test_content_tells_videos_of_unknown_suffixes(tmp_path, suffix):
    if suffix in (".mjpeg", ".apng"):
        pytest.skip("FFmpeg tells these from images by their suffix")
    paths = [written(tmp_path / f"walk/{name}", CONTENTS[suffix]) for name in ("1", "2.video", "3.part 1")]
    assert all(starts_like_video(path) for path in paths)
    assert [clip.path for clip in find_clips(tmp_path).clips] == paths
    assert inspect_video(paths[1]).frames == FRAMES
    with pytest.raises(ValueError, match="is a video: expected a folder of clips"):
        find_clips(paths[0])


def test_files_that_are_no_clips_are_named(tmp_path):
    film(tmp_path / "walk/1.mp4")
    for name in ("notes.md", "LICENSE", "2.wav", "3.rm", "still.webp", "4.webp", "cover.jpg", "5.jpg"):
        (tmp_path / "walk" / name).write_bytes(
            b"RIFF\0\0\0\0WEBPVP8X" + b"\2" * 20 if name == "4.webp" else b"some text"
        )
    sound(tmp_path / "walk/5.sound")
    (tmp_path / "walk/5.sound").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0")
    found = find_clips(tmp_path)
    assert len(found) == 1
    *lines, images = found.left_out
    named = {line.split("'")[1].rpartition("/")[2]: line for line in lines}
    assert set(named) == {"notes.md", "LICENSE", "2.wav", "3.rm", "4.webp", "still.webp", "5.sound", "cover.jpg"}
    assert named["2.wav"].endswith("is no clip: suffix .wav is not that of a video")
    assert named["3.rm"].endswith("its suffix is unknown, and its content does not start like a video")
    assert named["4.webp"].endswith("animated WebP, which FFmpeg does not read; convert it, for example to MP4")
    assert images.endswith("walk' holds 1 numbered images that are no clip: expected one folder of frames per clip")
    assert check_clips(found).left_out == found.left_out


def test_files_of_unknown_suffixes_that_are_no_regular_files_are_not_opened(tmp_path):
    film(tmp_path / "walk/1.mp4")
    if not hasattr(os, "mkfifo"):
        pytest.skip("no FIFOs")
    os.mkfifo(tmp_path / "walk/pipe")
    assert len(find_clips(tmp_path)) == 1


@pytest.mark.parametrize(
    "names",
    [
        ("rgb", "depth"),
        ("RGB", "flow_x", "flow_y"),
        ("flow", "img"),
        ("depth_frames", "images_rgb"),
        ("clip_rgb", "clip_depth"),
        ("rgb1", "depth1"),
    ],
)
def test_streams_of_one_clip_are_not_several_clips(tmp_path, names):
    film(tmp_path / "walk/1.mp4")
    for name in names:
        folder_of_frames(tmp_path / "walk/clip" / name)
    with pytest.raises(
        ValueError, match=r"walk/clip' holds several streams of one clip, '.*': expected the frames of one"
    ):
        find_clips(tmp_path)
    found = find_clips(tmp_path, on_error="skip")
    assert [clip.path.name for clip in found.clips] == ["1.mp4"]
    assert len(found.problems) == 1


def test_streams_of_several_clips_are_clips_of_one_recording(tmp_path):
    for name in ("1_rgb", "1_depth"):
        folder_of_frames(tmp_path / "walk" / name)
    found = find_clips(tmp_path)
    assert [clip.path.name for clip in found.clips] == ["1_depth", "1_rgb"]
    assert "1 recording has several streams, such as 'walk/1_depth', 'walk/1_rgb'" in found.notes[0]
    assert check_clips(found).notes == found.notes


def test_videos_and_frames_in_a_folder_of_frames_are_named(tmp_path):
    folder_of_frames(tmp_path / "walk/1")
    folder_of_frames(tmp_path / "walk/1/thumbnails")
    film(tmp_path / "walk/1/x/y/2.mp4")
    (tmp_path / "walk/1/x/notes.txt").write_text("text")
    found = find_clips(tmp_path)
    assert [clip.path.name for clip in found.clips] == ["1"]
    names = [line.replace(str(tmp_path), "") for line in found.left_out]
    assert names == [
        f"'/walk/1/{name}' is no clip: it is in the folder of frames '/walk/1'" for name in ("thumbnails", "x/y/2.mp4")
    ]


def test_frames_of_several_streams_in_one_folder_are_a_broken_clip(tmp_path):
    folder_of_frames(tmp_path / "walk/clip")
    (tmp_path / "walk/clip/flow_x_1.png").write_bytes((tmp_path / "walk/clip/img_1.png").read_bytes())
    (report,) = check_clips(find_clips(tmp_path)).clips
    assert (report.kind, "several streams: 'flow_x_1.png', 'img_1.png'" in report.reason) == ("unreadable", True)


def test_classes_without_readable_clips_are_named(tmp_path):
    film(tmp_path / "run/1.mp4")
    touch(tmp_path / "walk/1.mp4", tmp_path / "walk/2.mp4", tmp_path / "jump/1.mp4")
    film(tmp_path / "jump/2.mp4", 1)
    found = find_clips(tmp_path)
    assert check_clips(found).unreadable_classes == ("walk",)
    broken = BrokenClips(tmp_path / "broken.jsonl")
    for clip in found.clips:
        if clip.path.stat().st_size < 9:
            broken.add(clip.path, BrokenVideoError("it is broken", "damaged"))
    assert broken.unreadable_classes(found) == ("walk",)


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [(None, None, 0, 39), (0.4, 0.8, 10, 19), (0.4, None, 10, 39), (50.0, 51.0, 0, 39)],
)
def test_the_span_of_a_clip_is_what_is_read(tmp_path, start, end, first, last):
    path = film(tmp_path / "1.mp4", frames=40)
    whole = find_clips_of(path, Clip(path, 0), (40, 1))
    span = find_clips_of(path, Clip(path, 0, start, end), (last - first + 1, 1))
    assert np.array_equal(span, whole[:, first : last + 1])


def find_clips_of(path, clip: Clip, sample: tuple[int, int]):
    """The frames of one clip, (3, T, H, W)."""
    from torch_nonlocal.data import ClipList

    clips = ClipList(path.parent, ("a",), (clip,))
    return ClipDataset(clips, sample, TrainTransform(crop=32, flip=False), on_error="fail")[0][0].numpy()
