"""Files that end early are named, complete ones are not; frames of a changing size are scaled to that of the first."""

import io
from fractions import Fraction
from pathlib import Path

import pytest
import torch

av = pytest.importorskip("av", reason="PyAV decodes and encodes: pip install 'torch-nonlocal[video]'")
np = pytest.importorskip("numpy", reason="frames become arrays: pip install 'torch-nonlocal[video]'")
Image = pytest.importorskip("PIL.Image", reason="Pillow writes GIF: pip install 'torch-nonlocal[video]'")

from torch_nonlocal.media import BrokenVideoError, probe, read_clip, read_sampled, write_gif  # noqa: E402
from torch_nonlocal.media.inspect import inspect_video  # noqa: E402

FRAMES = 40
CLIP = torch.randint(0, 255, (FRAMES, 6, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CLIP = CLIP.repeat_interleave(8, 1).repeat_interleave(8, 2)


def pictures(scale: int = 1) -> list:
    return [
        av.VideoFrame.from_ndarray(np.ascontiguousarray(one), format="rgb24")
        for one in CLIP.numpy()[:, ::scale, ::scale]
    ]


def write(
    path: Path, codec: str, pixels: str = "yuv420p", container_options: dict[str, str] | None = None, **options: str
) -> Path:
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
        for picture in pictures():
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def with_sound(path: Path, seconds: float) -> Path:
    """Sound that is longer than the picture."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000)
        sound.layout = "mono"
        samples = np.zeros((1, int(8000 * seconds)), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        for picture in pictures():
            container.mux(video.encode(picture))
        container.mux(video.encode())
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
X264 = {"g": "5", "bf": "2", "preset": "veryfast"}
MAKERS = {
    "film.mp4": lambda path: write(path, "libx264", container_options={"movflags": "faststart"}, **X264),
    "fragments.mp4": lambda path: write(path, "libx264", container_options=FRAGMENTS, **X264),
    "film.mkv": lambda path: write(path, "libx264", **X264),
    "film.webm": lambda path: write(path, "libvpx", deadline="realtime", **{"cpu-used": "8"}),
    "film.flv": lambda path: write(path, "libx264", **X264),
    "film.avi": lambda path: write(path, "mpeg4"),
    "film.asf": lambda path: write(path, "mpeg4"),
    "film.gif": lambda path: write_gif(path, CLIP, 25),
    "film.apng": lambda path: write(path, "apng", "rgb24"),
    "film.mxf": lambda path: write(path, "mpeg2video"),
    "sound.mkv": lambda path: with_sound(path, 4.0),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_a_file_that_is_cut_short_is_named(tmp_path, name):
    whole = MAKERS[name](tmp_path / name)
    assert inspect_video(whole).frames == FRAMES
    assert len(read_sampled(whole, range, lambda frame: frame)) == FRAMES
    data = whole.read_bytes()
    for number, part in enumerate((0.4, 0.6, 0.85)):
        cut = tmp_path / f"cut{number}_{name}"
        cut.write_bytes(data[: int(len(data) * part)])
        for read in (inspect_video, lambda path: read_sampled(path, range, lambda frame: frame)):
            with pytest.raises(BrokenVideoError, match=rf"cut{number}_{name}'") as caught:
                read(cut)
            assert caught.value.kind == "damaged"


def test_the_message_has_the_bytes_or_seconds(tmp_path):
    data = MAKERS["film.mkv"](tmp_path / "film.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        BrokenVideoError, match=rf"cut short: it has {len(data) // 2:,} bytes of the {len(data):,} that"
    ):
        inspect_video(tmp_path / "cut.mkv")
    data = MAKERS["film.flv"](tmp_path / "film.flv").read_bytes()
    place = 13
    while place < len(data) // 2:  # to the end of a tag
        place += 11 + int.from_bytes(data[place + 1 : place + 4]) + 4
    (tmp_path / "cut.flv").write_bytes(data[:place])
    message = r"cut short: it ends after 0\.\d\d of the 1\.\d\d s that its header declares"
    with pytest.raises(BrokenVideoError, match=message):
        inspect_video(tmp_path / "cut.flv")
    assert FRAMES // 4 < len(read_clip(tmp_path / "cut.flv")) < FRAMES * 3 // 4


def test_a_recording_of_unknown_length_is_complete(tmp_path):
    """As a browser writes it: neither the size of the segment nor a duration."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm", container_options={"live": "1"}) as container:
        stream = container.add_stream("libvpx", rate=25, options={"deadline": "realtime"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for picture in pictures():
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    (tmp_path / "live.webm").write_bytes(buffer.getvalue())
    assert inspect_video(tmp_path / "live.webm").frames == FRAMES


def test_a_piped_avi_file_has_no_declared_size(tmp_path):
    data = bytearray(MAKERS["film.avi"](tmp_path / "film.avi").read_bytes())
    data[4:8] = b"\xff\xff\xff\xff"  # FFmpeg writes it first and replaces it at the end
    (tmp_path / "piped.avi").write_bytes(data)
    assert inspect_video(tmp_path / "piped.avi").frames == FRAMES


def test_slow_frames_of_asf_are_no_cut(tmp_path):
    """Its frames have no durations, so the last of four seconds seems to be missing."""
    with av.open(str(tmp_path / "slow.wmv"), "w", format="asf") as container:
        stream = container.add_stream("wmv2", rate=Fraction(1, 4))
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for picture in pictures()[:5]:
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    assert inspect_video(tmp_path / "slow.wmv").frames == 5


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_concatenated_transport_streams_are_whole(tmp_path, codec):
    one = write(tmp_path / "one.ts", codec, g="10", bf="2").read_bytes()
    cut = write(tmp_path / "two.ts", codec, g="5").read_bytes()
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one + cut + one)
    assert inspect_video(joined).frames == 3 * FRAMES
    clips = [read_clip(tmp_path / name) for name in ("one.ts", "two.ts", "one.ts")]
    assert torch.equal(read_clip(joined), torch.cat(clips))


@pytest.mark.parametrize("lost", [1, 5])
def test_transport_streams_that_lost_packets_are_damaged(tmp_path, lost):
    data = write(tmp_path / "film.ts", "libx265", g="10", **{"x265-params": "log-level=none"}).read_bytes()
    packets = [data[place : place + 188] for place in range(0, len(data), 188)]
    first = next(
        place
        for place in range(len(packets) // 2, len(packets))
        if all(packet[1] & 0x5F == 1 and packet[2] == 0 for packet in packets[place : place + lost + 1])
    )
    path = tmp_path / "lost.ts"
    path.write_bytes(b"".join(packets[:first] + packets[first + lost :]) + data)  # and a join
    with pytest.raises(BrokenVideoError, match=r"lost.ts' is damaged: \d of \d+ frames or packets are corrupt"):
        inspect_video(path)


def test_data_after_the_last_box_is_no_cut(tmp_path):
    """Some cameras append data of their own, which reads as a box of any size."""
    path = MAKERS["film.mp4"](tmp_path / "film.mp4")
    path.write_bytes(path.read_bytes() + b"\x7f\xff\xff\xffINST" + bytes(100))
    assert inspect_video(path).frames == FRAMES


@pytest.mark.parametrize(
    ("name", "codec"), [("film.webm", "libvpx"), ("film.webm", "libvpx-vp9"), ("film.mkv", "mjpeg")]
)
def test_frames_of_a_changing_size_are_scaled_to_the_first(tmp_path, name, codec):
    path, half = tmp_path / name, FRAMES // 2
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
        for picture in pictures()[:half]:
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        smaller = av.CodecContext.create(codec, "w")
        smaller.width, smaller.height, smaller.pix_fmt = 32, 24, pixels
        smaller.framerate, smaller.time_base = 25, stream.codec_context.time_base
        packets = [packet for picture in pictures(2)[half:] for packet in smaller.encode(picture)] + smaller.encode()
        for number, packet in enumerate(packets, half):
            packet.stream, packet.time_base = stream, stream.codec_context.time_base
            packet.pts = packet.dts = number
            container.mux(packet)
    info, clip = probe(path), read_clip(path)
    assert (info.frames, info.height, info.width) == inspect_video(path)[:3] == (FRAMES, 48, 64)
    assert clip.shape == (FRAMES, 48, 64, 3)
    error = (clip.float() - CLIP.float()).abs().mean(dim=(1, 2, 3))
    assert error.max() < 40, "the frames are those that were written, twice as large"
    for wanted in ([half - 1, half], [FRAMES - 1], [half], list(range(half, FRAMES, 3))):
        assert torch.equal(read_clip(path, frames=wanted), clip[wanted])
