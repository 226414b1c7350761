"""Films that declare more than they hold, name other files, or change: one line, and no more cost than the file."""

import struct

import pytest
import torch

av = pytest.importorskip("av", reason="PyAV decodes and encodes: pip install 'torch-nonlocal[video]'")
np = pytest.importorskip("numpy", reason="frames become arrays: pip install 'torch-nonlocal[video]'")

from hostile import cost  # noqa: E402 (after the skips)

from torch_nonlocal.media import BrokenVideoError, probe, read_clip, write_mp4  # noqa: E402
from torch_nonlocal.media.inspect import inspect_video  # noqa: E402
from torch_nonlocal.media.mp4_tables import check_tables  # noqa: E402

CLIP = torch.arange(12, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 48, 64, 3) * 20


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_mp4(tmp_path_factory.mktemp("films") / "film.mp4", CLIP, 25)


def with_tables(data: bytes, *, samples: int = 0, edits: int = 0, duration: int = 512) -> bytes:
    """An MP4 whose tables declare samples of one size, in one chunk, or many edits."""
    changed = bytearray(data)

    def write(kind: bytes, *numbers: int) -> None:
        place = data.index(kind) + 8
        changed[place : place + 4 * len(numbers)] = struct.pack(f">{len(numbers)}I", *numbers)

    if samples:
        write(b"stsz", 100, samples)
        write(b"stts", 1, samples, duration)
        write(b"stsc", 1, 1, samples, 1)
    if edits:
        write(b"elst", edits)
    return bytes(changed)


@pytest.mark.parametrize("change", [{"samples": 20_000_000}, {"samples": 20_000_000, "duration": 1}, {"edits": 10**8}])
def test_declared_samples_are_counted_before_ffmpeg_expands_them(film, tmp_path, change):
    path = tmp_path / "bomb.mp4"
    path.write_bytes(with_tables(film.read_bytes(), **change))
    results, mebibytes, seconds = cost(path, "inspect_video(path, time_limit=60)", "read_clip(path)")
    for result in results:
        assert "bomb.mp4' has" in result
        assert result.endswith("samples, expected at most 262,144")
    assert mebibytes < 100, "20 million samples took 2084 MiB"
    assert seconds < 5


def test_fragments_with_many_samples_are_counted(film, tmp_path):
    path = tmp_path / "fragments.mp4"
    trun = struct.pack(">I4sII", 16, b"trun", 0, 10**8)
    traf = struct.pack(">I4s", 8 + len(trun), b"traf") + trun
    path.write_bytes(film.read_bytes() + struct.pack(">I4s", 8 + len(traf), b"moof") + traf)
    with pytest.raises(BrokenVideoError, match=r"but declares 100,000,012 samples"):
        probe(path)


def test_files_with_as_many_samples_as_they_hold_pass(film, tmp_path):
    check_tables(film)
    with av.open(str(tmp_path / "sound.mov"), "w") as container:  # each value of PCM is a sample
        video = container.add_stream("mjpeg", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuvj420p"
        sound = container.add_stream("pcm_s16le", rate=48000)
        sound.layout = "mono"
        for _ in range(4):
            container.mux(video.encode(av.VideoFrame.from_ndarray(CLIP[3].numpy(), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 300_000), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 48000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert inspect_video(tmp_path / "sound.mov").frames == 4
    with av.open(str(tmp_path / "fragments.mp4"), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "4"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for picture in CLIP.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert inspect_video(tmp_path / "fragments.mp4").frames == 12


@pytest.mark.parametrize("cut", [7, 20, 40, 300, 900])
def test_tables_that_end_early_are_left_to_ffmpeg(film, tmp_path, cut):
    data = film.read_bytes()
    for number, part in enumerate((data[:cut], data[-cut:], data[: data.index(b"stsz") + 6])):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(part)
        check_tables(path)
        with pytest.raises(BrokenVideoError, match=r"\.mp4"):
            inspect_video(path)


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{name}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="1" mimeType="video/mp4"><BaseURL>{film}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", ["mp4", "ts", "m3u8"])
def test_a_playlist_reads_no_other_file(film, tmp_path, kind, suffix):
    other = tmp_path / "other.mp4"
    other.write_bytes(film.read_bytes())
    path = tmp_path / f"list.{suffix}"
    path.write_text(PLAYLISTS[kind].format(film=other, name=other.name))
    with pytest.raises(BrokenVideoError, match=r"list\.\w+' is not a video"):
        inspect_video(path)


@pytest.mark.parametrize("name", ["concat:a|b.mp4", "http:x.mp4", "pipe:0.mp4", "%d.mp4", "a?b#c.mp4"])
def test_a_name_is_that_of_a_file(film, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(film.read_bytes())
    assert probe(name).frames == 12
    assert torch.equal(read_clip(name), read_clip(film))


def test_frames_that_grow_above_the_limit_are_refused(tmp_path):
    """The first picture of a stream of JPEG is small; the second claims 65,500 x 65,500 pixels."""
    with av.open(str(tmp_path / "film.mjpeg"), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(CLIP[3].numpy(), format="rgb24")))
        container.mux(stream.encode())
    data = bytearray((tmp_path / "film.mjpeg").read_bytes())
    place = data.rindex(b"\xff\xc0")  # baseline frame header: length, precision, height, width
    data[place + 5 : place + 9] = struct.pack(">HH", 65500, 65500)
    path = tmp_path / "grows.mjpeg"
    path.write_bytes(bytes(data))
    (result,), mebibytes, seconds = cost(path, "inspect_video(path, time_limit=60)")
    assert result.startswith("BrokenVideoError: ")
    assert "grows.mjpeg'" in result
    assert mebibytes < 100
    assert seconds < 5
