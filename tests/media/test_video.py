"""Reading frames by index and writing clips."""

import os
from pathlib import Path

import pytest
import torch

av = pytest.importorskip("av", reason="PyAV decodes and encodes: pip install 'torch-nonlocal[video]'")
np = pytest.importorskip("numpy", reason="frames become arrays on their way: pip install 'torch-nonlocal[video]'")
Image = pytest.importorskip("PIL.Image", reason="Pillow writes GIF: pip install 'torch-nonlocal[video]'")

from torch_nonlocal.media import decode, probe, read_clip, seeking, write_gif, write_mp4  # noqa: E402 (after the skips)


def moving_square(frames: int = 40, height: int = 48, width: int = 64) -> torch.Tensor:
    """A bright square crosses a gradient; all frames differ."""
    clip = torch.zeros(frames, height, width, 3, dtype=torch.uint8)
    clip[..., 2] = torch.linspace(0, 120, width).to(torch.uint8)
    for t in range(frames):
        clip[t, 8:24, t : t + 16] = torch.tensor([250, 200 - 4 * t, 40], dtype=torch.uint8)
    return clip


def write_film(path: Path, clip: torch.Tensor, codec: str, rotation: int | None = None, **options: str) -> None:
    """Write with B-frames and short groups of pictures, which make seeking hard."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = clip.shape[1], clip.shape[2], "yuv420p"
        if rotation is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV cannot write a rotation")
            stream.set_display_rotation(rotation)
        for frame in clip.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def decode_plainly(path: Path) -> list:
    """All frames, with the colors of FFmpeg's command line, which takes interlaced frames for progressive ones."""
    with av.open(str(path)) as container:
        graph = av.filter.Graph()
        source = graph.add_buffer(template=container.streams.video[0])
        graph.link_nodes(source, graph.add("setfield", "prog"), graph.add("buffersink")).configure()
        pictures = []
        for frame in container.decode(video=0):
            graph.push(frame)
            pictures.append(graph.pull().to_ndarray(format="rgb24"))
        return pictures


FILMS = [
    ("film.mp4", "libx264", {"g": "7", "bf": "3"}),
    ("film.mkv", "libx264", {"g": "250", "bf": "2"}),
    ("open.mp4", "libx264", {"g": "9", "bf": "3", "x264-params": "open-gop=1"}),
    ("keys.mp4", "libx264", {"g": "1"}),
    ("refresh.mp4", "libx264", {"g": "10", "x264-params": "intra-refresh=1"}),
    ("pyramid.mp4", "libx264", {"g": "30", "bf": "5", "x264-params": "b-pyramid=normal:ref=5"}),
    ("interlaced.mp4", "libx264", {"g": "12", "bf": "3", "flags": "+ilme+ildct"}),
    ("hevc.mp4", "libx265", {"g": "12", "bf": "3", "x265-params": "log-level=none"}),
    ("film.ts", "libx264", {"g": "7", "bf": "3"}),
    ("film.webm", "libvpx", {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    ("film.avi", "mpeg4", {"g": "6"}),
]


@pytest.mark.parametrize(("name", "codec", "options"), FILMS, ids=[film[0] for film in FILMS])
def test_frames_by_index_equal_plain_decoding_pixel_by_pixel(tmp_path, name, codec, options):
    path = tmp_path / name
    write_film(path, moving_square(), codec, **options)
    plain = decode_plainly(path)
    assert probe(path).frames == len(plain) == 40

    everything = read_clip(path)
    assert everything.dtype == torch.uint8
    np.testing.assert_array_equal(everything.numpy(), np.stack(plain))
    wanted = [39, 0, 13, 14, 6, 7, 8, 27, 13]
    np.testing.assert_array_equal(read_clip(path, frames=wanted).numpy(), np.stack([plain[i] for i in wanted]))
    for index in range(0, 40, 3):
        np.testing.assert_array_equal(read_clip(path, frames=[index])[0].numpy(), plain[index])
    ranged = read_clip(path, start=5, stride=4, count=6)
    np.testing.assert_array_equal(ranged.numpy(), np.stack(plain[5:26:4]))


def test_one_frame_is_read_by_seeking(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    write_film(path, moving_square(), "libx264", g="7", bf="3")

    def never(path):
        raise AssertionError("decoded from the start")

    monkeypatch.setattr(decode, "from_the_start", never)
    assert read_clip(path, frames=[33]).shape == (1, 48, 64, 3)


def test_unneeded_b_frames_that_no_frame_refers_to_are_skipped(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    write_film(path, moving_square(), "libx264", g="40", bf="3")
    yielded = []
    decoded = seeking._without_unneeded

    def counting(*given):
        for frame in decoded(*given):
            yielded.append(frame.pts)
            yield frame

    monkeypatch.setattr(seeking, "_without_unneeded", counting)
    wanted = read_clip(path, frames=[20, 25])
    assert len(yielded) < 20, "plain decoding gives 26 frames to get there"
    np.testing.assert_array_equal(wanted.numpy(), np.stack(decode_plainly(path))[[20, 25]])


@pytest.mark.parametrize(("rotation", "quarter_turns"), [(90, 1), (-90, 3), (180, 2)])
def test_the_rotation_stored_in_the_file_is_applied(tmp_path, rotation, quarter_turns):
    path = tmp_path / "phone.mp4"
    write_film(path, moving_square(6), "libx264", rotation=rotation)
    turned = np.rot90(np.stack(decode_plainly(path)), quarter_turns, axes=(1, 2))
    np.testing.assert_array_equal(read_clip(path).numpy(), turned)
    assert (probe(path).height, probe(path).width) == turned.shape[1:3]


def test_an_image_is_a_clip_of_one_frame(tmp_path):
    picture = moving_square(1)
    Image.fromarray(picture[0].numpy()).save(tmp_path / "picture.png")
    assert torch.equal(read_clip(tmp_path / "picture.png"), picture)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": [3, 40]}, r"40 frames \(0 to 39\); got frame 40"),
        ({"frames": [-1]}, r"\(0 to 39\); got frame -1"),
        ({"frames": []}, "no frames"),
        ({"start": 40}, r"\(0 to 39\); got frame 40"),
        ({"start": 30, "stride": 2, "count": 6}, r"\(0 to 39\); got frame 40"),
        ({"start": -1}, "start must be 0 or more"),
        ({"stride": 0}, "stride must be 1 or more"),
        ({"count": 0}, "count must be 1 or more"),
        ({"frames": [1], "stride": 2}, "not both"),
    ],
)
def test_indices_outside_the_clip_raise_with_the_valid_range(tmp_path, arguments, message):
    write_mp4(tmp_path / "film.mp4", moving_square(), 25)
    with pytest.raises(ValueError, match=message):
        read_clip(tmp_path / "film.mp4", **arguments)


def test_files_that_are_not_videos_raise_with_their_name(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*nowhere\.mp4"):
        read_clip(tmp_path / "nowhere.mp4")
    with pytest.raises(ValueError, match="is a folder"):
        read_clip(tmp_path)
    for name in ("notes.txt", "notes.mp4"):
        (tmp_path / name).write_text("words, not pictures\n" * 20)
        with pytest.raises(ValueError, match=f"{name}.*not a video"):
            read_clip(tmp_path / name)
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.mp4.*not a video"):
        read_clip(tmp_path / "empty.mp4")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(ValueError, match=r"sound\.wav.*not a video"):
        probe(tmp_path / "sound.wav")


def test_a_truncated_video_gives_its_frames_or_raises_but_never_gives_wrong_frames(tmp_path):
    write_film(tmp_path / "film.mkv", moving_square(), "libx264", g="7", bf="0")
    whole = (tmp_path / "film.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    first = read_clip(tmp_path / "cut.mkv", frames=[0, 5])
    assert torch.equal(first, read_clip(tmp_path / "film.mkv", frames=[0, 5]))
    with pytest.raises(ValueError, match=r"cut\.mkv"):
        read_clip(tmp_path / "cut.mkv", frames=[39])


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 47)])
def test_mp4_round_trip_keeps_count_rate_and_content(tmp_path, height, width):
    clip = moving_square(12, height, width)
    written = write_mp4(tmp_path / "film.mp4", clip, fps=12.5)
    info = probe(written)
    assert (info.frames, info.fps) == (12, 12.5)
    assert (info.height, info.width) == (height + height % 2, width + width % 2)
    back = read_clip(written)[:, :height, :width]
    assert (back.float() - clip.float()).abs().mean() < 6  # chroma is halved, so not exact
    with av.open(str(written)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


def test_gif_keeps_frames_and_duration(tmp_path):
    with Image.open(write_gif(tmp_path / "film.gif", moving_square(12), fps=30)) as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (12, (64, 48), 0)
        milliseconds = 0
        for index in range(12):
            gif.seek(index)
            milliseconds += gif.info["duration"]
    assert milliseconds == 400


@pytest.mark.parametrize("write", [write_mp4, write_gif])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, write):
    old = tmp_path / "film.mp4"
    old.write_bytes(b"old")

    def frames():
        yield from moving_square(2)
        yield torch.zeros(9, 9, 3, dtype=torch.uint8)

    with pytest.raises(ValueError, match=r"frame 2 is \(9, 9, 3\), expected \(48, 64, 3\)"):
        write(old, frames(), 25)
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("write", [write_mp4, write_gif])
@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (torch.zeros(0, 8, 8, 3, dtype=torch.uint8), 25, "no frames"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 25, r"\(3, 8, 8\) uint8"),
        (torch.zeros(2, 8, 8, 3), 25, "float32"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), 0, "fps must be finite and more than 0"),
    ],
)
def test_frames_that_cannot_be_written_raise(tmp_path, write, frames, fps, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "film", frames, fps)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_raises(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        write_mp4(tmp_path / "nowhere" / "film.mp4", moving_square(2), 25)


def test_a_missing_package_raises_with_the_extra(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'torch-nonlocal\[video\]'"):
        read_clip(tmp_path / "film.mp4")
    with pytest.raises(ImportError, match=r"pip install 'torch-nonlocal\[video\]'"):
        write_mp4(tmp_path / "film.mp4", moving_square(2), 25)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the operating system has no affinity of processes")
def test_written_bytes_do_not_depend_on_the_number_of_cores(tmp_path):
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core")
    seeds = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (60, 30, 30, 3), generator=seeds).to(torch.uint8).repeat_interleave(8, 1)
    frames = frames.repeat_interleave(8, 2)
    several = write_mp4(tmp_path / "several.mp4", frames, 25)
    try:
        os.sched_setaffinity(0, {min(cores)})
        one = write_mp4(tmp_path / "one.mp4", frames, 25)
    finally:
        os.sched_setaffinity(0, cores)
    assert one.read_bytes() == several.read_bytes()
