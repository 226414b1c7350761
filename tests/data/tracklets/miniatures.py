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


def ilids_vid(root: Path, *, persons: int = 4, frames: int = 3, splits: Sequence[Sequence[int]] = ()) -> Path:
    """A miniature of iLIDS-VID; `splits` are the rows of the official file, which is not written without."""
    for camera in (1, 2):
        for person in range(1, persons + 1):
            stem = f"cam{camera}_person{person:03d}"
            folder = root / f"i-LIDS-VID/sequences/cam{camera}/person{person:03d}"
            for frame in range(camera, frames + 2 * camera):
                picture(folder / f"{stem}_{94 + 5 * frame:05d}.png", person, frame)
    if splits:
        matlab(root / "train-test people splits/train_test_splits_ilidsvid.mat", ls_set=splits)
    return root


def prid2011(root: Path, *, lengths: Sequence[tuple[int, int]] = ((28, 30), (29, 28), (27, 40), (31, 28))) -> Path:
    """A miniature of PRID 2011: persons 0001 and so on with frames in both cameras, and 0201, others in each camera."""
    for person, counts in enumerate([*lengths, (28, 28)], 1):
        name = "person_0201" if person > len(lengths) else f"person_{person:04d}"
        for camera, count in zip("ab", counts, strict=True):
            for frame in range(1, count + 1):
                folder = root / f"prid_2011/multi_shot/cam_{camera}" / name
                picture(folder / f"{frame:04d}.png", person, frame, size=(4, 2))
    return root


def dukemtmc_video(root: Path, *, queries_in_gallery: bool = True) -> Path:
    """A miniature of DukeMTMC-VideoReID: identity/tracklet/frames in train, query and gallery."""

    def tracklet(part: str, identity: int, number: int, camera: int) -> None:
        for frame in range(1, 4):
            name = f"{identity:04d}_C{camera}_F{frame:04d}_X{46000 + 8 * frame:05d}.jpg"
            picture(root / part / f"{identity:04d}/{number:04d}/{name}", identity, frame)

    for identity in (1, 2):
        tracklet("train", identity, 2 * identity, 1)
        tracklet("train", identity, 2 * identity + 1, 5)
    for identity in (3, 4):
        tracklet("query", identity, 2 * identity, 2)
        tracklet("gallery", identity, 2 * identity + 1, 6)
        if queries_in_gallery:
            tracklet("gallery", identity, 2 * identity, 2)
    return root


def ls_vid(root: Path, *, info: bool = True) -> Path:
    """A miniature of LS-VID: two training and two test identities in two cameras each."""
    for part, identities in (("train", (0, 1)), ("test", (842, 843))):
        lines = []
        for identity in identities:
            for number, camera in enumerate((3, 15)):
                prefix = f"tracklet_{part}/{identity:04d}/{identity:04d}_{number:04d}"
                lines.append(f"{prefix} {identity}\n")
                for frame in range(9, 12):
                    picture(root / f"{prefix}_{camera:02d}_{frame:07d}.jpg", identity, frame)
        (root / "list_sequence").mkdir(exist_ok=True)
        (root / f"list_sequence/list_seq_{part}.txt").write_text("".join(lines))
    if info:
        matlab(root / "test/data/info_test.mat", info_test=[[1, 2, 3, 4]], query=[[3], [1]])
    return root


def market1501(root: Path) -> Path:
    """A miniature of Market-1501, with junk and distractors in the test folder."""
    names = {
        "bounding_box_train": ("0002_c1s1_000451_03.jpg", "0002_c2s1_000301_01.jpg", "0007_c3s3_077419_03.jpg"),
        "query": ("0001_c1s1_001051_00.jpg", "0003_c4s6_015641_00.jpg"),
        "bounding_box_test": (
            "-1_c1s1_000401_03.jpg", "0000_c1s1_000151_01.jpg", "0001_c2s1_001976_01.jpg", "0003_c1s6_015971_02.jpg",
        ),
    }  # fmt: skip
    for folder, files in names.items():
        for name in files:
            picture(root / folder / name, max(int(name.split("_")[0]), 0))
        (root / folder / "Thumbs.db").write_bytes(b"x")
    return root


def prid450s(root: Path, *, persons: int = 4) -> Path:
    """A miniature of PRID 450S."""
    for person in range(1, persons + 1):
        for camera in (1, 2):
            picture(root / f"{person:04d}{camera:03d}.png", person, camera)
    return root


def polar_bears(root: Path, *, folds: bool = True) -> Path:
    """A miniature of PolarBearVidID: three animals with four tracklets in two cameras each."""
    for animal in range(3):
        for tracklet in range(4):
            stem = f"{animal:03d}C{1 + tracklet % 2:02d}T{tracklet:03d}"
            for frame in range(8, 11):
                picture(root / f"{animal:03d}/{stem}F{frame:03d}.jpg", animal, 10 * tracklet + frame)
    table(root / "animal_db.csv", [(0, "Anna", "Berlin"), (1, "Bo", "Berlin"), (2, "Cy", "Nuremberg")], "id,name,zoo")
    for fold in range(1, 6) if folds else ():
        rows = [(animal, 1 + tracklet % 2, tracklet, 8, 10) for animal in range(3) for tracklet in (0, 1)]
        table(root / f"track_fold_info_{fold}.csv", rows, "id,cam,tracklet,start,end")
    return root
