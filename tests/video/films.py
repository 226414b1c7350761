"""Recipes of small video files: container, codec, times, edit list, orientation, fields, rate, pixel format."""

import os
import shlex
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

SOURCE = "-f lavfi -i testsrc2=s=96x64:r=25:d=1.2"  # 30 frames, all different
X264 = "-c:v libx264 -preset veryfast -pix_fmt yuv420p -g 12 -bf 3"
X265 = "-c:v libx265 -preset ultrafast -pix_fmt yuv420p -x265-params keyint=12:bframes=3:b-adapt=0:log-level=none"
VP8 = "-c:v libvpx -deadline realtime -cpu-used 8 -g 12 -b:v 300k"
VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 12 -b:v 300k"
AV1 = "-c:v libsvtav1 -preset 12 -g 12 -pix_fmt yuv420p"
MPEG4 = "-c:v mpeg4 -g 12 -bf 2 -q:v 4"
MPEG2 = "-c:v mpeg2video -g 12 -bf 2 -q:v 4"

# a, b, c, d of the matrix by which (p, q) is displayed at (a p + c q, b p + d q).
MATRICES = {
    "as-stored": (1, 0, 0, 1),
    "flip-columns": (-1, 0, 0, 1),
    "flip-rows": (1, 0, 0, -1),
    "half-turn": (-1, 0, 0, -1),
    "transpose": (0, 1, 1, 0),
    "quarter-turn": (0, 1, -1, 0),
    "three-quarter-turn": (0, -1, 1, 0),
    "transpose-other-diagonal": (0, -1, -1, 0),
}


@dataclass(frozen=True)
class Film:
    """How a file is made.

    Attributes:
        name: of the file; its suffix selects the container.
        encode: FFmpeg's options to encode the source.
        copies: (options, suffix) of copies that are made one from another; the last one is the film.
        source: FFmpeg's options for the input.
        change: applied to the bytes of the last file.
        passes: of the encoder; libvpx hides frames with two.
    """

    name: str
    encode: str
    copies: tuple[tuple[str, str], ...] = ()
    source: str = SOURCE
    change: Callable[[bytes], bytes] | None = None
    passes: int = 1


def unavailable(reason: str) -> NoReturn:
    """Skip the test; in CI, which has FFmpeg, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def make(film: Film, folder: Path) -> Path:
    """Write a film with FFmpeg's command line."""
    suffixes = [Path(film.name).suffix, *(suffix for _, suffix in film.copies)]
    path = folder / f"0{suffixes[0]}"
    if film.passes == 2:
        log = f"-passlogfile {shlex.quote(str(folder / 'passes'))}"
        _ffmpeg(f"{film.source} {film.encode} {log} -pass 1 -f null", Path("-"))
        _ffmpeg(f"{film.source} {film.encode} {log} -pass 2", path)
    else:
        _ffmpeg(f"{film.source} {film.encode}", path)
    for number, (options, suffix) in enumerate(film.copies, 1):
        before, _, after = options.rpartition("-i ")
        copy = folder / f"{number}{suffix}"
        _ffmpeg(f"{before} -i {shlex.quote(str(path))} {after} -c copy", copy)
        path = copy
    if film.change is not None:
        path.write_bytes(film.change(path.read_bytes()))
    return path


def _ffmpeg(options: str, path: Path) -> None:
    command = ["ffmpeg", "-v", "error", "-y", "-threads", "1", *shlex.split(options), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        unavailable(f"FFmpeg cannot write this file: {done.stderr.strip()[-300:]}")


def by_command_line(path: Path) -> bytes:
    """All frames of a file by FFmpeg's command line, RGB."""
    command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", str(path), "-fps_mode", "passthrough"]
    return subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True).stdout


def with_matrix(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An MP4 or QuickTime file of one track with another display matrix."""
    a, b, c, d = matrix
    place = data.index(b"tkhd") + 4
    place += 52 if data[place] else 40
    return (
        data[:place] + struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30) + data[place + 36 :]
    )


def _films() -> list[Film]:
    films = [Film(f"{codec}{suffix}", options) for codec, options, suffixes in _CODECS for suffix in suffixes.split()]
    films += [Film(*row) for row in _TIMES]
    for codec in ("libvpx", "libvpx-vp9"):
        options = f"-c:v {codec} -deadline good -cpu-used 2 -auto-alt-ref 1 -lag-in-frames 25 -g 30 -b:v 100k"
        films += [Film(f"{codec}-hidden{suffix}", options, passes=2) for suffix in (".webm", ".ivf", ".avi", ".mkv")]
    split = (("-i -bsf:v vp9_superframe_split", ".nut"),)
    films += [Film("libvpx-vp9-split.webm", options, split, passes=2)]
    for suffix in (".mp4", ".mov"):
        for codec, options in (("h264", X264), ("mpeg4", MPEG4), ("hevc", X265)):
            films += [
                Film(f"{codec}-{name}{suffix}", options, change=lambda data, matrix=matrix: with_matrix(data, matrix))
                for name, matrix in MATRICES.items()
                if (codec, suffix) != ("hevc", ".mov")
            ]
    films += [
        Film(f"h264-rate-{number}{suffix}", f"{X264} -frames:v 20", source=f"-f lavfi -i testsrc2=s=64x48:r={rate}")
        for number, rate in enumerate(("1", "25/2", "24000/1001", "30000/1001", "60000/1001", "120", "1000/7"))
        for suffix in (".mp4", ".mkv", ".ts")
    ]
    return films


_CODECS = [
    ("h264", X264, ".mp4 .mov .m4v .mkv .avi .ts .m2ts .flv .nut .asf .3gp .f4v .3g2 .h264"),
    ("h264-ultrafast", "-c:v libx264 -preset ultrafast -pix_fmt yuv420p", ".mp4 .avi .ts .asf"),
    ("h264-pyramid", f"{X264} -bf 6 -x264-params b-pyramid=normal:ref=5", ".mp4 .avi .ts .mkv .asf"),
    ("h264-open", f"{X264} -x264-params open-gop=1", ".mp4 .avi .ts .mkv"),
    ("h264-refresh", f"{X264} -x264-params intra-refresh=1", ".mp4 .avi .ts"),
    ("h264-mbaff", f"{X264} -flags +ildct+ilme", ".mp4 .avi .ts .mkv .h264"),
    ("h264-10bit", f"{X264} -pix_fmt yuv420p10le", ".mp4 .mkv .avi"),
    ("h264-422", f"{X264} -pix_fmt yuv422p", ".mp4 .avi"),
    ("h264-444", f"{X264} -pix_fmt yuv444p", ".mp4"),
    ("h264-odd", f"{X264} -pix_fmt yuv444p -vf scale=65:47", ".mp4 .mkv"),
    ("h264-full-range", f"{X264} -pix_fmt yuvj420p -colorspace bt709", ".mp4"),
    ("h264-bt709", f"{X264} -colorspace bt709 -color_range tv", ".mp4"),
    ("h264-gray", f"{X264} -pix_fmt gray", ".mp4"),
    ("h264-pixel-aspect", f"{X264} -vf setsar=4/3", ".mp4"),
    ("hevc", X265, ".mp4 .mov .mkv .ts .hevc .nut"),
    ("hevc-10bit", f"{X265} -pix_fmt yuv420p10le", ".mp4"),
    ("hevc-open", X265.replace("keyint=12", "keyint=12:open-gop=1"), ".mp4 .ts .mkv"),
    ("vp8", VP8, ".webm .mkv .avi .ivf"),
    ("vp8-alpha", f"{VP8} -pix_fmt yuva420p -auto-alt-ref 0", ".webm"),
    ("vp9", VP9, ".webm .mkv .mp4 .ivf"),
    ("vp9-odd", f"{VP9} -vf scale=65:47", ".webm"),
    ("av1", AV1, ".mp4 .webm .mkv .ivf .obu"),
    ("mpeg1", "-c:v mpeg1video -g 12 -bf 2 -q:v 4", ".mpg .avi .mkv .ts"),
    ("mpeg2", MPEG2, ".mpg .ts .m2ts .vob .avi .mkv .mov .m2v"),
    ("mpeg2-interlaced", f"{MPEG2} -flags +ildct+ilme", ".mpg .ts .mov"),
    ("mpeg2-mxf", f"{MPEG2} -pix_fmt yuv422p -f mxf", ".mxf"),
    ("mpeg4", MPEG4, ".mp4 .mov .avi .mkv .3gp .m4v .ts .nut"),
    ("xvid", "-c:v libxvid -g 12 -bf 2 -q:v 4", ".avi"),
    ("msmpeg4", "-c:v msmpeg4 -q:v 4", ".avi .asf"),
    ("wmv2", "-c:v wmv2 -q:v 4", ".wmv .avi"),
    ("h263", "-c:v h263 -q:v 4 -vf scale=128:96", ".3gp .avi"),
    ("flv1", "-c:v flv -q:v 4", ".flv"),
    ("theora", "-c:v libtheora -q:v 5", ".ogv .mkv"),
    ("mjpeg", "-c:v mjpeg -pix_fmt yuvj420p -q:v 4", ".avi .mov .mkv .mp4 .mjpeg"),
    ("prores", "-c:v prores_ks -pix_fmt yuv422p10le", ".mov .mkv"),
    ("prores-alpha", "-c:v prores_ks -profile:v 4 -pix_fmt yuva444p10le", ".mov"),
    ("dv", "-c:v dvvideo -pix_fmt yuv420p -vf scale=720:576 -frames:v 5", ".dv .avi .mov"),
    ("ffv1", "-c:v ffv1", ".mkv .avi .nut"),
    ("huffyuv", "-c:v huffyuv -pix_fmt yuv422p", ".avi"),
    ("raw", "-c:v rawvideo -pix_fmt yuv420p", ".avi .nut .mkv"),
    ("yuv4mpeg", "-pix_fmt yuv420p", ".y4m"),
    ("raw-rgb", "-c:v rawvideo -pix_fmt bgr24", ".avi"),
    ("png", "-c:v png", ".mov .mkv"),
    ("qtrle-alpha", "-c:v qtrle -pix_fmt argb", ".mov"),
    ("cinepak", "-c:v cinepak -frames:v 10", ".mov .avi"),
    ("svq1", "-c:v svq1", ".mov"),
    ("snow", "-c:v snow -strict -2 -pix_fmt yuv420p", ".avi"),
    ("apng", "-plays 0 -f apng", ".apng"),
    ("gif", "-f gif", ".gif"),
]

_SHIFTED = "-bsf:v setts=pts=DTS"
_VARIABLE = "-vf select='not(mod(n\\,3))+not(mod(n\\,4))' -fps_mode passthrough"
_TIMES = [
    ("avi-to-mp4.avi", X264, (("-i ", ".mp4"),)),
    ("avi-to-mp4-to-mkv.avi", X264, (("-i ", ".mp4"), ("-i ", ".mkv"))),
    ("avi-to-mp4-to-ts.avi", X264, (("-i ", ".mp4"), ("-i ", ".ts"))),
    ("mp4-to-avi.mp4", X264, (("-i -bsf:v h264_mp4toannexb", ".avi"),)),
    ("mp4-to-avi-to-mov.mp4", X264, (("-i ", ".avi"), ("-i ", ".mov"))),
    ("mkv-to-avi.mkv", X264, (("-i -bsf:v h264_mp4toannexb", ".avi"),)),
    ("mp4-to-ts.mp4", X264, (("-i ", ".ts"),)),
    ("mp4-to-asf.mp4", X264, (("-i ", ".asf"),)),
    ("ts-to-mp4.ts", X264, (("-i ", ".mp4"),)),
    ("raw-to-mp4.h264", X264, (("-i ", ".mp4"),)),
    ("raw-to-mp4-to-mkv.h264", X264, (("-i ", ".mp4"), ("-i ", ".mkv"))),
    ("raw-to-mp4-to-ts.h264", X264, (("-i ", ".mp4"), ("-i ", ".ts"))),
    ("raw-hevc-to-mp4.hevc", X265, (("-i ", ".mp4"),)),
    ("decoding-times.mp4", X264, ((f"-i {_SHIFTED}", ".mp4"),)),
    ("decoding-times-ts.mp4", X264, ((f"-i {_SHIFTED}", ".ts"),)),
    ("decoding-times-mkv.mp4", X264, ((f"-i {_SHIFTED}", ".mkv"),)),
    ("decoding-times-flv.mp4", X264, ((f"-i {_SHIFTED}", ".flv"),)),
    ("decoding-times-hevc.mp4", X265, ((f"-i {_SHIFTED}", ".mp4"),)),
    ("decoding-times-hevc-ts.mp4", X265, ((f"-i {_SHIFTED}", ".ts"),)),
    ("decoding-times-open.mp4", f"{X264} -x264-params open-gop=1", ((f"-i {_SHIFTED}", ".mp4"),)),
    ("repeated-times.mp4", X264, (("-i -bsf:v setts=pts='floor(PTS/1024)*1024':dts=DTS-2048", ".mp4"),)),
    ("repeated-times-mkv.mp4", X264, (("-i -bsf:v setts=pts='floor(PTS/1024)*1024':dts=DTS-2048", ".mkv"),)),
    ("offset.mp4", X264, (("-itsoffset 2.5 -i ", ".mp4"),)),
    ("offset-mkv.mp4", X264, (("-itsoffset 2.5 -i ", ".mkv"),)),
    ("offset-ts.mp4", X264, (("-itsoffset 2.5 -i ", ".ts"),)),
    ("negative-offset.mp4", X264, (("-itsoffset -0.5 -i ", ".mp4"),)),
    ("negative-times.mp4", X264, (("-itsoffset -0.5 -i -avoid_negative_ts disabled", ".mp4"),)),
    ("negative-times-mov.mp4", X264, (("-itsoffset -0.2 -i -avoid_negative_ts disabled", ".mov"),)),
    ("negative-composition.mp4", f"{X264} -movflags negative_cts_offsets", ()),
    ("no-edit-list.mp4", f"{X264} -use_editlist 0", ()),
    ("trimmed.mp4", X264, (("-ss 0.33 -i ", ".mp4"),)),
    ("trimmed-both.mp4", X264, (("-ss 0.6 -i -t 0.4", ".mp4"),)),
    ("trimmed-end.mp4", X264, (("-i -t 0.5", ".mp4"),)),
    ("trimmed-mov.mp4", X264, (("-ss 0.33 -i ", ".mov"),)),
    ("trimmed-open.mp4", f"{X264} -x264-params open-gop=1", (("-ss 0.7 -i ", ".mp4"),)),
    ("trimmed-hevc.mp4", X265, (("-ss 0.33 -i ", ".mp4"),)),
    ("trimmed-hevc-open.mp4", X265.replace("keyint=12", "keyint=12:open-gop=1"), (("-ss 0.7 -i ", ".mp4"),)),
    ("trimmed-mpeg4.mp4", MPEG4, (("-ss 0.33 -i ", ".mp4"),)),
    ("trimmed-mkv.mp4", X264, (("-ss 0.33 -i ", ".mkv"),)),
    ("trimmed-ts.mp4", X264, (("-ss 0.33 -i ", ".ts"),)),
    ("trimmed-avi.mp4", X264, (("-ss 0.33 -i -bsf:v h264_mp4toannexb", ".avi"),)),
    ("trimmed-webm.webm", VP9, (("-ss 0.6 -i ", ".webm"),)),
    ("trimmed-twice.mp4", X264, (("-ss 0.2 -i ", ".mp4"), ("-ss 0.2 -i ", ".mp4"))),
    ("fragments.mp4", f"{X264} -movflags frag_keyframe+empty_moov", ()),
    ("fragments-default-base.mp4", f"{X264} -movflags frag_every_frame+default_base_moof+empty_moov", ()),
    ("index-first.mp4", f"{X264} -movflags faststart", ()),
    ("variable.mp4", f"{X264} {_VARIABLE}", ()),
    ("variable.mkv", f"{X264} {_VARIABLE}", ()),
    ("variable.ts", f"{X264} {_VARIABLE}", ()),
    ("variable.avi", f"{X264} {_VARIABLE}", ()),
    ("variable.webm", f"{VP9} {_VARIABLE}", ()),
    ("variable-mpeg4.avi", f"{MPEG4} {_VARIABLE}", ()),
    ("variable.gif", f"{_VARIABLE} -f gif", ()),
    ("slow.mp4", X264, (("-itsscale 8 -i ", ".mp4"),)),
    ("sound.mp4", f"{X264} -c:a aac", (), f"{SOURCE} -f lavfi -i sine=d=2"),
    ("sound.mkv", f"{X264} -c:a aac", (), f"{SOURCE} -f lavfi -i sine=d=2"),
    ("sound.flv", f"{X264} -c:a aac", (), f"{SOURCE} -f lavfi -i sine=d=2"),
    ("two-sizes.mp4", f"{X264} -map 0 -map 1", (), f"-f lavfi -i testsrc=s=64x48:r=25:d=1 {SOURCE}"),
]
FILMS = _films()
