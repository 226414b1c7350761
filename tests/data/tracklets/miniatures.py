"""Small sets of tracklets with the folders, the names and the lists of public sets; pictures of 8 x 16 pixels.

A picture has one color, which depends on the identity; its first pixel holds the frame number.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

SIZE = (16, 8)
"""Height and width of a picture, in pixels."""


def color(identity: int) -> tuple[int, int, int]:
    """The color of an identity."""
    return (37 * identity + 11) % 256, (91 * identity + 70) % 256, (151 * identity + 30) % 256


def picture(path: Path, identity: int, frame: int = 0, *, size: tuple[int, int] = SIZE) -> Path:
    """Write a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.new("RGB", size[::-1], color(identity))
    made.putpixel((0, 0), (frame % 256, frame // 256, 0))
    made.save(path, quality=95) if path.suffix != ".png" else made.save(path)
    return path


def matlab(path: Path, *, compressed: bool = True, **matrices: Sequence[Sequence[int]]) -> Path:
    """Write matrices of doubles as a MATLAB file of version 5."""
    content = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    for name, rows in matrices.items():
        body = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, len(rows), len(rows[0]))
        body += struct.pack("<II", 1, len(name)) + name.encode().ljust(-(-len(name) // 8) * 8, b"\0")
        numbers = [row[column] for column in range(len(rows[0])) for row in rows]
        body += struct.pack("<II", 9, 8 * len(numbers)) + struct.pack(f"<{len(numbers)}d", *numbers)
        element = struct.pack("<II", 14, len(body)) + body
        if compressed:
            packed = zlib.compress(element)
            element = struct.pack("<II", 15, len(packed)) + packed
        content += element
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def mars(
    root: Path,
    *,
    train: int = 3,
    test: int = 3,
    cameras: Sequence[int] = (1, 2),
    frames: int = 4,
    extra: bool = True,
    info: bool = True,
) -> Path:
    """A miniature of MARS: one tracklet per identity and camera.

    Args:
        root: a new folder.
        train: training identities, 0001 and so on.
        test: test identities, the numbers after those.
        cameras: numbers of the cameras.
        frames: frames of the first tracklet of an identity; each camera adds one.
        extra: whether the test has a junk tracklet, first, and a distractor, as MARS has.
        info: whether to write the official lists.
    """
    parts: dict[str, list[tuple[str, int, int]]] = {
        "train": [(f"{one:04d}", one, camera) for one in range(1, train + 1) for camera in cameras],
        "test": [("00-1", -1, cameras[0]), ("0000", 0, cameras[-1])] if extra else [],
    }
    parts["test"] += [(f"{one:04d}", one, camera) for one in range(train + 1, train + test + 1) for camera in cameras]
    for part, tracklets in parts.items():
        names: list[str] = []
        rows = []
        for label, identity, camera in tracklets:
            count = frames + list(cameras).index(camera)
            stem = f"{label}C{camera}T0001"
            rows.append((len(names) + 1, len(names) + count, identity, camera))
            names += [f"{stem}F{frame:03d}.jpg" for frame in range(1, count + 1)]
            for frame in range(1, count + 1):
                picture(root / f"bbox_{part}" / label / f"{stem}F{frame:03d}.jpg", max(identity, 0), frame)
        if info:
            (root / "info").mkdir(exist_ok=True)
            (root / f"info/{part}_name.txt").write_text("".join(name + "\n" for name in names))
            matlab(root / f"info/tracks_{part}_info.mat", **{f"track_{part}_info": rows})
    if info:
        queries = [row for row, (_, identity, _) in enumerate(parts["test"], 1) if identity > 0]
        matlab(root / "info/query_IDX.mat", query_IDX=[queries])
    return root


def table(path: Path, rows: Iterable[Sequence[object]], header: str = "tracklet,identity,camera,frames") -> Path:
    """A table with the given rows."""
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path
