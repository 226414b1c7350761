"""Folders of one's own: an identity per folder, with videos or folders of pictures as its tracklets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch_nonlocal._common.text import listed
from torch_nonlocal.data.tracklets.layout import (
    AUTOMATIC_QUERIES,
    SPLITS,
    Layout,
    Listing,
    Reader,
    check_folder,
    check_split,
    own_cameras,
    queries_in_gallery,
    random_half,
    video_frames,
    with_queries,
)
from torch_nonlocal.data.tracklets.tracklet import Tracklet, TrackletData

_NAME = "folders"
_PARTS = {"train": ("train", "training"), "query": ("query", "probe"), "gallery": ("gallery", "test", "testing")}
_CAMERA = re.compile(r"(?:cam(?:era)?|view)[-_ ]?(\w{1,16})|c(\d{1,3})", re.IGNORECASE)
_CAMERA_IN_NAME = re.compile(
    r"(?:^|[-_. ])(?:cam(?:era)?[-_ ]?([a-z]|\d{1,3})|c(\d{1,3}))(?=$|[-_. ]|s\d)", re.IGNORECASE
)
_DEPTH = 4  # folders above the frames


def _recognizes(root: Path) -> bool:
    return root.is_dir() and _has_frames(Reader(root), root, _DEPTH + 1)


def _has_frames(reader: Reader, folder: Path, depth: int) -> bool:
    """Whether a folder below holds pictures or a video; it follows the first folders only."""
    inside = reader.listing(folder).folders[:3]
    for name in inside:
        found = reader.listing(folder / name)
        if found.pictures or found.videos or (depth > 1 and _has_frames(reader, folder / name, depth - 1)):
            return True
    return False


def _read(root: Path, split: int) -> TrackletData:
    check_folder(root)
    reader = Reader(root)
    top = reader.listing(root).folders
    known = {name.lower(): name for name in top}
    parts = {use: next((known[name] for name in names if name in known), None) for use, names in _PARTS.items()}
    if not any(parts.values()):
        return _held_out(reader, split)
    check_split(split, 1, _NAME)
    for name in top:
        if name not in parts.values():
            reader.problem("wrong name", name, "expected train, query, and gallery or test beside the other parts")
    found = {use: reader.unique(_tracklets(reader, root / name)) if name else () for use, name in parts.items()}
    train, query, gallery = _named(found["train"]), found["query"], found["gallery"]

    def place(one: Tracklet) -> str:
        return reader.name_of(one.folder or root)

    query, index = queries_in_gallery(query, gallery)
    if index is not None:
        gallery, note = own_cameras(gallery, place)
        query, notes = tuple(gallery[row] for row in index), [*note, "the gallery contains the queries"]
    elif query:
        both, note = own_cameras((*query, *gallery), place)
        query, gallery = both[: len(query)], both[len(query) :]
        notes = [*note, "the queries are not in the gallery"]
    else:
        gallery, note = own_cameras(gallery, place)
        query, index = with_queries(gallery)
        notes = [*note, AUTOMATIC_QUERIES]
    return TrackletData(_NAME, root, train, query, gallery, index, 1, reader.problems, tuple(notes))


def _held_out(reader: Reader, split: int) -> TrackletData:
    check_split(split, SPLITS, _NAME)
    every = reader.unique(_tracklets(reader, reader.root))
    trained, _ = random_half({one.identity for one in every}, split, _NAME)
    train = _named(tuple(one for one in every if one.identity in trained))
    test, note = own_cameras(tuple(one for one in every if one.identity not in trained))
    query, index = with_queries(test)
    held = "no folders train and test: a random half of the identities trains, by the number of the split"
    notes = (held, *note, AUTOMATIC_QUERIES)
    return TrackletData(_NAME, reader.root, train, query, test, index, SPLITS, reader.problems, notes)


def _tracklets(reader: Reader, part: Path) -> Iterator[Tracklet]:
    """The tracklets of a folder of identities, or of a folder of cameras with a folder of identities each."""
    here = reader.listing(part)
    for name in (*here.pictures, *here.videos):
        reader.problem("wrong name", reader.name_of(part / name), "expected a folder per identity, not files")
    cameras = [_CAMERA.fullmatch(name) for name in here.folders]
    if here.folders and all(cameras):
        for name in here.folders:
            for identity in reader.listing(part / name).folders:
                yield from _of_identity(reader, part, part / name / identity, identity, _camera(name))
    else:
        for identity in here.folders:
            yield from _of_identity(reader, part, part / identity, identity, "")


def _of_identity(reader: Reader, part: Path, folder: Path, identity: str, camera: str) -> Iterator[Tracklet]:
    found = reader.listing(folder)
    if not (found.folders or found.pictures or found.videos):
        reader.problem("empty identity", reader.name_of(folder), "the folder has no pictures, videos or folders")
    yield from _here(reader, part, folder, found, identity, camera)
    for name in found.folders:
        inside = reader.listing(folder / name)
        own = camera or _camera(name)
        if not inside.folders:
            if not (inside.pictures or inside.videos):
                reader.problem("empty tracklet", reader.name_of(folder / name), "the folder has no pictures or videos")
            yield from _here(reader, part, folder / name, inside, identity, own if inside.pictures else own or name)
            continue
        if inside.pictures or inside.videos:
            reader.problem("wrong name", reader.name_of(folder / name), "expected files or folders, not both")
        for tracklet in inside.folders:
            deep = reader.listing(folder / name / tracklet)
            if not (deep.pictures or deep.videos):
                where = reader.name_of(folder / name / tracklet)
                reader.problem("empty tracklet", where, "the folder has no pictures or videos")
            yield from _here(reader, part, folder / name / tracklet, deep, identity, own or name)


def _here(reader: Reader, part: Path, folder: Path, found: Listing, identity: str, camera: str) -> Iterator[Tracklet]:
    """A tracklet of the pictures of a folder, and one per video."""
    cameras = sorted({_camera(Path(picture).stem) for picture in found.pictures} - {""})
    if len(cameras) > 1:
        reason = f"it has pictures of the cameras {listed(cameras)}: expected a folder per camera"
        reader.problem("wrong name", reader.name_of(folder), reason)
    if found.pictures:
        name = folder.relative_to(part).as_posix()
        one = reader.from_pictures(name, identity, camera or _camera(folder.name), folder, found.pictures)
        if one is not None:
            yield one
    for video in found.videos:
        name = (folder / video).relative_to(part).as_posix()
        if frames := video_frames(reader, name, folder / video):
            yield Tracklet(name, identity, camera or _camera(Path(video).stem), frames, folder / video)


def _named(train: tuple[Tracklet, ...]) -> tuple[Tracklet, ...]:
    """Training tracklets, those without a named camera with one of their own."""
    return tuple(one if one.camera else replace(one, camera=one.name) for one in train)


def _camera(name: str) -> str:
    """The camera that a name names; "" if none."""
    match = _CAMERA.fullmatch(name) or _CAMERA_IN_NAME.search(name)
    return (match[1] or match[2]) if match else ""


FOLDERS = Layout(
    _NAME,
    "a folder per identity with a video or a folder of pictures per tracklet (identity/tracklet/1.jpg, "
    "identity/camera/tracklet/1.jpg or camera/identity/tracklet/1.jpg), if need be below train, query and gallery",
    _recognizes,
    _read,
    is_generic=True,
)
