"""Frames come in the order of decoding, whatever the times of packets say; edit lists and orientation are applied."""

import struct
from fractions import Fraction
from pathlib import Path

import pytest
import torch

av = pytest.importorskip("av", reason="PyAV decodes and encodes: pip install 'torch-nonlocal[video]'")
np = pytest.importorskip("numpy", reason="frames become arrays: pip install 'torch-nonlocal[video]'")

from torch_nonlocal.media import (  # noqa: E402 (after the skips)
    decode,
    frame_order,
    probe,
    read_clip,
    read_sampled,
    torchcodec_frames,
)
from torch_nonlocal.media.h264_headers import may_hold_fields  # noqa: E402
from torch_nonlocal.media.inspect import inspect_video  # noqa: E402

FRAMES = 30
X264 = {"g": "12", "bf": "3", "preset": "veryfast"}


def write(path: Path, codec: str = "libx264", options: dict[str, str] = X264, matrix: list[int] | None = None) -> Path:
    """A bright column moves to the right by 2 pixels a frame, so its place is the number of the frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for number in range(FRAMES):
            picture = np.full((48, 64, 3), 40, dtype=np.uint8)
            picture[:36, 2 * number : 2 * number + 4] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def copy(source: Path, target: Path, change=lambda packet: None, bitstream_filter: str | None = None) -> Path:
    """Copy the packets of a film, changed in place, to another container."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream)
        filtered = av.BitStreamFilterContext(bitstream_filter, stream) if bitstream_filter else None
        for packet in reading.demux(stream):
            if packet.size:
                change(packet)
            for one in filtered.filter(packet) if filtered else [packet] if packet.size else []:
                one.stream = copied
                writing.mux(one)
    return target


def numbers(clip: torch.Tensor) -> list[int]:
    """The numbers of the frames, from the column."""
    profile = clip.float().mean(dim=(1, 3))
    return [int(((row > 120).nonzero().float().mean() - 1.5) / 2 + 0.5) for row in profile]


def decoding_times(packet) -> None:
    packet.dts += 2 * packet.duration  # from 0 on: an edit list would hide frames before
    packet.pts = packet.dts


def check(path: Path, expected: list[int]) -> None:
    assert numbers(read_clip(path)) == expected
    assert probe(path).frames == inspect_video(path).frames == len(expected)
    last = len(expected) - 1
    for wanted in ([last], [0], [last // 2], [1, last // 3, last - 1], list(range(last // 2, last + 1, 2))):
        assert numbers(read_clip(path, frames=wanted)) == [expected[index] for index in wanted]
        chosen = read_sampled(path, lambda total, wanted=wanted: wanted, lambda frame: frame)
        assert numbers(chosen) == [expected[index] for index in wanted]


def test_b_frames_in_avi_have_invented_times(tmp_path):
    check(write(tmp_path / "film.avi"), list(range(FRAMES)))


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv", ".flv"])
@pytest.mark.parametrize("open_groups", [False, True])
def test_times_equal_to_decoding_times_are_not_believed(tmp_path, suffix, open_groups):
    options = X264 | {"x264-params": "open-gop=1"} if open_groups else X264
    source = write(tmp_path / "source.mp4", options=options)
    check(copy(source, tmp_path / f"film{suffix}", decoding_times), list(range(FRAMES)))


@pytest.mark.parametrize("suffix", [".avi", ".asf", ".h264", ".nut"])
def test_copies_to_containers_with_and_without_times(tmp_path, suffix):
    source = write(tmp_path / "source.mp4")
    check(copy(source, tmp_path / f"film{suffix}", bitstream_filter="h264_mp4toannexb"), list(range(FRAMES)))


def test_hevc_with_decoding_times(tmp_path):
    options = {"preset": "ultrafast", "x265-params": "keyint=12:bframes=3:b-adapt=0:log-level=none"}
    source = write(tmp_path / "source.mp4", "libx265", options)
    check(copy(source, tmp_path / "film.mp4", decoding_times), list(range(FRAMES)))


def test_repeated_times(tmp_path):
    def repeat(packet):
        packet.pts, packet.dts = packet.pts // 1024 * 1024, packet.dts - 1024

    check(copy(write(tmp_path / "source.mp4"), tmp_path / "film.mp4", repeat), list(range(FRAMES)))


@pytest.mark.parametrize(
    ("first", "last", "hidden"),
    [
        (0b10_00_0_0_1_0, 0, False),  # a shown key frame
        (0b10_00_0_1_0_0, 0, True),
        (0b10_00_1_000, 0, False),  # shows an earlier frame
        (0b10_11_0_0_1_0, 0, True),  # profile 3 has one more bit
        (0b10_11_0_0_1_1, 0, False),
        (0b10_00_0_1_0_0, 0b110_00001, False),  # a superframe
    ],
)
def test_hidden_packets_of_vp9_are_recognized(first, last, hidden):
    assert frame_order._is_hidden_vp9(av.Packet(bytes([first, 0, last]))) is hidden


def test_a_list_that_decoding_contradicts_is_dropped(tmp_path, monkeypatch):
    """Even if nothing in the packets shows that the times are invented."""
    path = copy(write(tmp_path / "source.mp4"), tmp_path / "film.mp4", decoding_times)
    listed = decode.list_frames
    monkeypatch.setattr(
        decode, "list_frames", lambda *given, **named: listed(*given, **named)._replace(is_reliable=True)
    )
    check(path, list(range(FRAMES)))


def test_files_are_counted_once_until_they_change(tmp_path, monkeypatch):
    path = write(tmp_path / "film.avi")
    assert probe(path).frames == FRAMES
    decoded = []
    from_the_start = frame_order.from_the_start

    def counting(*given):
        for index, frame in from_the_start(*given):
            decoded.append(index)
            yield index, frame

    monkeypatch.setattr(frame_order, "from_the_start", counting)
    assert probe(path).frames == FRAMES
    assert not decoded
    path.write_bytes(write(tmp_path / "other.avi", options={"g": "5", "bf": "1"}).read_bytes())
    assert probe(path).frames == FRAMES
    assert len(decoded) == FRAMES


def test_only_frames_in_one_packet_are_listed(tmp_path):
    for name, flags, expected in [("frames.mp4", "", False), ("fields.mp4", "+ildct+ilme", True)]:
        path = write(tmp_path / name, options=X264 | {"flags": flags} if flags else X264)
        with av.open(str(path)) as container:
            assert may_hold_fields(container.streams.video[0].codec_context.extradata) is expected
        check(path, list(range(FRAMES)))
    with av.open(str(write(tmp_path / "film.ts"))) as container:
        extradata = container.streams.video[0].codec_context.extradata
    assert extradata is not None
    assert not may_hold_fields(extradata)  # with start codes
    for damaged in (None, b"", b"\x01", extradata[:8], extradata[:5] + b"\0" * 40, b"\x01" + b"\xff" * 40):
        assert may_hold_fields(damaged)


@pytest.mark.parametrize("profile", ["high", "high10", "high422", "high444", "baseline", "main"])
def test_parameter_sets_of_all_profiles_are_read(tmp_path, profile):
    pixels = {"high10": "yuv420p10le", "high422": "yuv422p", "high444": "yuv444p"}.get(profile, "yuv420p")
    for interlaced in (False, True)[: 1 if profile == "baseline" else 2]:
        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = 64, 48, pixels, Fraction(25)
        encoder.time_base = Fraction(1, 25)
        encoder.options = {"profile": profile, "x264-params": f"interlaced={int(interlaced)}:cqm=jvt"}
        encoder.flags |= av.codec.context.Flags.global_header
        encoder.open()
        assert may_hold_fields(encoder.extradata) is interlaced


# Rows of the matrix by which (p, q) is displayed at (a p + c q, b p + d q), and the same for an array of rows.
ORIENTATIONS = {
    "as stored": ((1, 0, 0, 1), lambda x: x),
    "flipped columns": ((-1, 0, 0, 1), lambda x: x[:, :, ::-1]),
    "flipped rows": ((1, 0, 0, -1), lambda x: x[:, ::-1]),
    "half turn": ((-1, 0, 0, -1), lambda x: x[:, ::-1, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda x: x.swapaxes(1, 2)),
    "quarter turn clockwise": ((0, 1, -1, 0), lambda x: np.rot90(x, -1, axes=(1, 2))),
    "quarter turn counterclockwise": ((0, -1, 1, 0), lambda x: np.rot90(x, 1, axes=(1, 2))),
    "transposed along the other diagonal": ((0, -1, -1, 0), lambda x: x.swapaxes(1, 2)[:, ::-1, ::-1]),
}


@pytest.mark.parametrize(("matrix", "turn"), ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_all_eight_orientations_are_applied(tmp_path, suffix, matrix, turn):
    path = write(tmp_path / f"film{suffix}")
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = matrix
    data[place : place + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    expected = turn(read_clip(write(tmp_path / f"plain{suffix}")).numpy())
    found = read_clip(path)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert (probe(path).height, probe(path).width) == expected.shape[1:3]
    assert inspect_video(path)[1:3] == expected.shape[1:3]


def test_the_exif_orientation_of_photographs_and_motion_jpeg_is_applied(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow writes EXIF: pip install 'torch-nonlocal[video]'")
    pixels = np.kron(np.arange(0, 240, 10).reshape(4, 6), np.ones((8, 8))).astype(np.uint8)
    turns = [turn for _, turn in ORIENTATIONS.values()]
    names = list(ORIENTATIONS)
    order = (  # EXIF's orientations 1 to 8
        "as stored",
        "flipped columns",
        "half turn",
        "flipped rows",
        "transposed",
        "quarter turn clockwise",
        "transposed along the other diagonal",
        "quarter turn counterclockwise",
    )
    for number, name in enumerate(order, 1):
        turn = turns[names.index(name)]
        exif = image.Exif()
        exif[0x0112] = number
        photo, film = tmp_path / f"photo{number}.jpg", tmp_path / f"film{number}.mjpeg"
        image.fromarray(pixels).save(photo, exif=exif, quality=95)
        film.write_bytes(photo.read_bytes() * 3)
        expected = turn(np.repeat(pixels[None, :, :, None], 3, 3)).astype(int)
        found = read_clip(photo).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 2
        assert torch.equal(read_clip(film), read_clip(photo).repeat(3, 1, 1, 1))
        assert inspect_video(film)[:3] == (3, *expected.shape[1:3])


@pytest.mark.skipif(not torchcodec_frames.loads(), reason="torchcodec or FFmpeg's libraries are not installed")
@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (0, 1, 1, 0), (0, 1, -1, 0)])
def test_torchcodec_gives_the_same_orientation(tmp_path, monkeypatch, matrix):
    path = write(tmp_path / "film.mp4")
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", *(v << 16 for v in (*matrix[:2], 0, *matrix[2:], 0, 0, 0)), 1 << 30)
    path.write_bytes(data)
    expected = read_clip(path)
    monkeypatch.setenv("NONLOCAL_DECODER", "torchcodec")
    assert torch.equal(read_clip(path), expected)


def with_edit(data: bytes, *, duration: int, media_time: int, rate: int = 1 << 16) -> bytes:
    """An MP4 whose only edit has another duration (in 1/1000 s), start (in the unit of the track) and rate."""
    place = data.index(b"elst") + 12
    return data[:place] + struct.pack(">Iii", duration, media_time, rate) + data[place + 12 :]


@pytest.mark.parametrize(
    ("duration", "skipped", "rate", "expected"),
    [
        (1200, 0, 1 << 16, range(FRAMES)),
        (600, 15, 1 << 16, range(15, FRAMES)),
        (600, 8, 1 << 16, range(8, 23)),
        (1200, 0, 1 << 14, range(FRAMES)),  # a slow-motion film of a phone
    ],
)
def test_the_frames_that_an_edit_list_plays_are_the_film(tmp_path, duration, skipped, rate, expected):
    path = write(tmp_path / "film.mp4")
    path.write_bytes(with_edit(path.read_bytes(), duration=duration, media_time=1024 + 512 * skipped, rate=rate))
    check(path, list(expected))


def test_samples_of_field_coded_video():
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "video"
    if not folder.is_dir():
        pytest.skip("no encoder writes frames as two fields, and the samples are not on this machine")
    films = [folder / "field-coded.ts", folder / "field-coded.mp4"]
    assert [probe(film).frames for film in films] == [181, 181]
    assert [inspect_video(film).frames for film in films] == [181, 181]
    wanted = [0, 60, 61, 180]
    clips = [read_clip(film, frames=wanted) for film in films]
    assert torch.equal(*clips)
    assert torch.equal(clips[0], read_clip(films[0])[wanted])
