"""Which files are clips: by suffix, and for other suffixes by the first bytes.

A suffix is that of a video, or that of something else, or unknown. Files of unknown suffixes, or without one, are clips
if their content starts like a container or stream that FFmpeg reads; at most 1 KiB of each is read.
"""

from __future__ import annotations

import os
import stat

_VIDEOS = (
    ".264 .265 .266 .3g2 .3gp .apng .asf .avi .av1 .divx .dv .f4v .flv .gif .h264 .h265 .h266 .hevc .ivf .m1v "
    ".m2p .m2t .m2ts .m2v .m4v .mjpeg .mjpg .mkv .mod .mov .mp4 .mp4v .mpe .mpeg .mpg .mpv .mts .mxf .nut .obu "
    ".ogm .ogv .qt .swf .tod .trp .ts .vc1 .vob .vvc .webm .wmv .wtv .xvid .y4m"
)
VIDEOS = frozenset(_VIDEOS.split())
"""Suffixes of video files; the content is checked when a file is read."""

LISTS = frozenset((".csv", ".json", ".jsonl", ".ndjson", ".tsv", ".txt"))
"""Suffixes of lists of clips."""

_OTHERS = (
    ".ai .arw .avif .bmp .cr2 .dng .eps .exr .heic .heif .ico .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .psd .svg "
    ".tga .tif .tiff .xcf .aac .ac3 .aif .aiff .amr .flac .m4a .mid .mp2 .mp3 .oga .opus .wav .wma .7z .bz2 .gz .jar "
    ".rar .tar .tgz .xz .zip .zst .bak .bat .bin .c .cfg .ckpt .conf .cpp .css .db .dll .doc .docx .eaf .exe .h .h5 "
    ".hdf5 .htm .html .ini .ipynb .java .js .key .lock .log .lua .m .m3u .m3u8 .mat .md .mpd .npy .npz .onnx .parquet "
    ".part .pdf .pickle .pkl .ply .ppt .pptx .pt .pth .py .pyc .r .rst .rtf .safetensors .sh .so .sqlite .tex "
    ".tfrecord .tmp .torrent .ttf .url .whl .xls .xlsx .xml .yaml .yml .ass .srt .ssa .sub .vtt"
)
_OTHER_SUFFIXES = LISTS.union(_OTHERS.split())
_HEAD = 1024  # bytes
_STARTS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMV
    b"\xb7\xd8\x00\x20\x37\x49\xda\x11",  # WTV
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG-1 and MPEG-2 video
    b"\x00\x00\x01\xb0",  # MPEG-4 video
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01",  # MXF
    b"YUV4MPEG2 ",
    b"DKIF",  # IVF
    b"nut/multimedia container\x00",
    b"GIF87a",
    b"GIF89a",
    b"\x1f\x07\x00",  # DV
    b"\x12\x00\x0a",  # AV1
)
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"skip", b"free", b"pnot")  # ISO media, QuickTime
_AUDIO_BRANDS = (b"M4A ", b"M4B ", b"avif", b"heic", b"mif1")  # of ISO media
_TS_PACKETS = (188, 192, 204)


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case, with the point; "" without one.

    Digits after a point, as in "walk.03", or a text with blanks are no suffix.
    """
    suffix = os.path.splitext(name)[1].lower()
    known = suffix in VIDEOS or suffix in _OTHER_SUFFIXES
    return suffix if known or (suffix[1:].replace("_", "").isalnum() and not suffix[1:].isdigit()) else ""


def has_suffix(name: str) -> bool:
    """Whether a name in a list ends with the suffix of a video or of another kind of file."""
    suffix = os.path.splitext(name.rstrip())[1].lower()
    return suffix in VIDEOS or suffix in _OTHER_SUFFIXES


def is_video_name(name: str) -> bool:
    """Whether a file name is that of a video, by its suffix."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEOS


def is_other_name(name: str) -> bool:
    """Whether a file name is that of something else than a video, by its suffix."""
    return os.path.splitext(name)[1].lower() in _OTHER_SUFFIXES


def is_animated_webp(path: str | os.PathLike[str]) -> bool:
    """Whether a file starts like an animated WebP."""
    head = _head(path)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20:21]) and bool(head[20] & 2)


def _head(path: str | os.PathLike[str]) -> bytes:
    """The first bytes of a regular file; b"" for other files and for those that cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b""
        with open(path, "rb", buffering=0) as file:
            return file.read(_HEAD)
    except (OSError, ValueError):
        return b""


def starts_like_video(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file starts like a video; False for other files and for those that cannot be read."""
    head = _head(path)
    if head.startswith(_STARTS):
        return True
    if head[4:8] in _BOXES:
        return not (head[4:8] == b"ftyp" and head[8:12] in _AUDIO_BRANDS)
    if head.startswith(b"RIFF"):
        return head[8:12] == b"AVI "
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"acTL" in head
    if head.startswith(b"OggS"):
        return b"theora" in head or b"OVP80" in head or b"fishead" in head
    return _is_transport_stream(head) or _is_annex_b(head)


def _is_transport_stream(head: bytes) -> bool:
    """Whether packets of MPEG-TS start at regular distances."""
    for size in _TS_PACKETS:
        for first in (0, 4):
            places = range(first, len(head), size)
            if len(places) >= 4 and all(head[place] == 0x47 for place in places):
                return True
    return False


def _is_annex_b(head: bytes) -> bool:
    """Whether a raw H.264 or HEVC stream starts with a parameter set or a delimiter."""
    start = 4 if head.startswith(b"\x00\x00\x00\x01") else 3 if head.startswith(b"\x00\x00\x01") else 0
    if not start or len(head) < start + 2:
        return False
    unit, second = head[start], head[start + 1]
    h264 = unit & 0x80 == 0 and unit & 0x1F in (7, 9)  # sequence parameters, delimiter
    hevc = unit & 0x81 == 0 and unit >> 1 in (32, 35) and second == 1  # video parameters, delimiter
    return h264 or hevc
