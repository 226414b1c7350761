"""Galleries of tracklets: a trained network embeds what `torch_nonlocal.gallery` stores and searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from torch_nonlocal._common.text import counted
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.tracklets.tracklet import Box, Tracklet, TrackletData, TrackletSource
from torch_nonlocal.gallery import EmbeddingModel, Entry
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.tasks.reid.data import found_for_any, set_name

if TYPE_CHECKING:
    from torch import Tensor

    from torch_nonlocal.data.digit_persons import DigitPersons
    from torch_nonlocal.gallery.writing import Embed
    from torch_nonlocal.tasks.reid.trained import TrackletEmbedder

BUILT_IN = "handwritten persons"
"""What stands for the folder of generated tracklets."""

Part = Literal["gallery", "query", "train", "all"]


@dataclass(frozen=True)
class Enrolled:
    """Tracklets that are to be stored.

    Attributes:
        source: reads their frames.
        entries: what is stored of each, in the order of the source.
        notes: lines about what was read and left out.
    """

    source: TrackletSource
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()


def enrolled_set(
    data: Path | None, size: tuple[int, int], *, layout: str, split: int | None, part: Part, trained: int = 0
) -> Enrolled:
    """The tracklets of persons in a set; junk and distractors, which have no identity, are left out.

    Args:
        data: folder or table, see `data.tracklets.find.find_tracklets`; None for the built-in persons.
        size: (height, width) of the network's input.
        layout: name of the layout, or "auto".
        split: number of the split; None for that of the network's training.
        part: which tracklets of the set.
        trained: number of the split of the network's training, modulo the number of splits of these data.

    Raises:
        ValueError: there is no such data or layout, or the part has no tracklets of persons.
    """
    if data is None:
        return _built_in(part)
    from torch_nonlocal.data.tracklets.faults import lines_of
    from torch_nonlocal.data.tracklets.files import FileTracklets
    from torch_nonlocal.data.tracklets.find import find_tracklets

    if split is None:
        found, split = found_for_any(data, layout, trained)
    else:
        found = find_tracklets(data, layout, split)
    name = set_name(data, found, split)
    chosen = _part(found, part)
    kept = [one for one in chosen if one.role == "person" and one.length]
    notes = [f"{name}: {counted(len(kept), 'tracklet')}", *found.notes]
    if len(kept) < len(chosen):
        notes.append(f"left out, junk, distractor or empty: {counted(len(chosen) - len(kept), 'tracklet')}")
    notes += lines_of(found.problems, most=3)
    if not kept:
        raise ValueError(f"{name} has no {part} tracklets of persons")
    root = found.root if found.root.is_dir() else found.root.parent
    return Enrolled(FileTracklets(kept, size), tuple(entry_of(one, root) for one in kept), tuple(notes))


def enrolled_files(paths: Sequence[Path], size: tuple[int, int], *, identity: str, camera: str) -> Enrolled:
    """Tracklets of one person: folders of frames, pictures or videos.

    Raises:
        ValueError: no identity or path, or a file cannot be read.
        FileNotFoundError: there is no such file.
    """
    from torch_nonlocal.data.tracklets.given import GivenTracklets

    if not identity or not paths:
        raise ValueError("expected an identity and at least one folder of frames, picture or video")
    source = GivenTracklets(paths, size)
    named = [replace(one, identity=identity, camera=camera) for one in source.tracklets]
    return Enrolled(source, tuple(entry_of(one, Path.cwd()) for one in named))


def queries(paths: Sequence[Path], size: tuple[int, int], broken: BrokenClips) -> tuple[TrackletSource, list[Entry]]:
    """Tracklets that are searched for, and what is drawn of each.

    Args:
        paths: folders of frames, pictures, videos, folders with these, or tables of tracklets; none for the queries of
            the built-in persons.
        size: (height, width) of the network's input.
        broken: receives what cannot be read, and names without a file.
    """
    if not paths:
        found = _built_in("query")
        return found.source, list(found.entries)
    from torch_nonlocal.data.tracklets.files import FileTracklets

    tracklets: list[Tracklet] = []
    for path in paths:
        try:
            tracklets += _query_tracklets(path)
        except (ValueError, OSError) as error:
            broken.add(path, error)
    return FileTracklets(tracklets, size), [entry_of(one, Path.cwd()) for one in tracklets]


def _query_tracklets(path: Path) -> list[Tracklet]:
    from torch_nonlocal.data.given_clips import given_clips
    from torch_nonlocal.data.tracklets.find import find_tracklets
    from torch_nonlocal.data.tracklets.given import given_tracklet

    if path.suffix.lower() in (".csv", ".tsv"):
        return [one for one in _part(find_tracklets(path), "all") if one.length]
    return [given_tracklet(one) for one in (given_clips([str(path)])[0] if path.is_dir() else [path])]


def model_of(embedder: TrackletEmbedder, checkpoint: Path) -> EmbeddingModel:
    """How a gallery records a network."""
    settings = embedder.settings
    return EmbeddingModel(embedder.digest, f"{settings.network}, {settings.height} x {settings.width}, {checkpoint}")


def embed_with(
    embedder: TrackletEmbedder,
    source: TrackletSource,
    *,
    views: int,
    batch: int,
    broken: BrokenClips | None = None,
) -> Embed:
    """The function that `gallery.build` and `gallery.add` call to embed tracklets of a source.

    Args:
        embedder: the network.
        source: the tracklets.
        views: clips per tracklet.
        batch: clips per forward pass.
        broken: receives tracklets that cannot be read; they are left out.
    """
    from torch_nonlocal.tasks.reid.evaluation import NoTrackletsError

    def embed(chosen: Sequence[int]) -> tuple[np.ndarray, Sequence[int]]:
        try:
            found = embedder.embed_source(
                source, list(chosen), views=views, batch=batch, on_error="skip", broken=broken
            )
        except NoTrackletsError:
            return np.empty((0, 1), np.float32), []
        return found.vectors.numpy(), [chosen[place] for place in found.kept]

    return embed


def entry_of(one: Tracklet, root: Path) -> Entry:
    """What a gallery records of a tracklet; its middle frame is drawn.

    Args:
        one: the tracklet.
        root: folder that the tracklet's files are recorded relative to; if they are elsewhere, it is their folder.
    """
    entry = Entry(one.name, one.identity, one.camera)
    if one.folder is None:
        return entry
    root, folder = root.absolute(), one.folder.absolute()
    if not folder.is_relative_to(root):
        root = folder.parent
    entry = replace(entry, root=str(root), source=folder.relative_to(root).as_posix())
    middle = one.length // 2
    if one.files:
        return replace(entry, picture=one.files[middle])
    if not one.boxes:
        return replace(entry, frame=middle)
    box = one.boxes[middle]
    return replace(entry, frame=box.frame, box=(box.left, box.top, box.width, box.height))


def frame_of(entry: Entry, size: tuple[int, int]) -> Tensor | None:
    """The frame that is drawn of a stored tracklet, (H, W, 3) uint8 RGB; None if its file is missing or unreadable.

    Files outside of the recorded folder are not opened.
    """
    if entry.root == BUILT_IN:
        return _generated_frame(entry)
    if not entry.source:
        return None
    from torch_nonlocal.data.tracklets.files import FileTracklets

    root = Path(entry.root)
    path = root / entry.source
    if not (path / entry.picture).resolve().is_relative_to(root.resolve()):
        return None
    boxes = () if entry.box is None else (Box(entry.frame or 0, *entry.box),)
    number = 0 if entry.picture or boxes else entry.frame or 0
    files = (entry.picture,) if entry.picture else ()
    one = Tracklet(entry.name, entry.identity, entry.camera, number + 1, path, files, boxes)
    try:
        return FileTracklets([one], size).read(0, [number])[:, 0].permute(1, 2, 0)
    except (BrokenVideoError, OSError):
        return None


def _part(found: TrackletData, part: Part) -> list[Tracklet]:
    """The tracklets of a part of a set, each once."""
    parts = {"gallery": found.gallery, "query": found.query, "train": found.train}
    chosen = [*found.train, *found.query, *found.gallery] if part == "all" else parts[part]
    return list({one.name: one for one in chosen}.values())


@cache
def _persons(split: Literal["train", "test"]) -> DigitPersons:
    """The built-in persons; each picture of a search asks for them."""
    from torch_nonlocal.data.digit_persons import DigitPersons

    return DigitPersons(split)


def _built_in(part: Part) -> Enrolled:
    place = "train" if part == "train" else "test"
    persons = _persons(place)
    every = tuple(range(len(persons.tracklets)))
    chosen = {"gallery": persons.gallery, "query": persons.query, "train": every, "all": every}[part]
    source = _Chosen(persons, [index for index in chosen if persons.tracklets[index].role == "person"])
    entries = [replace(entry_of(one, Path()), root=BUILT_IN, source=place) for one in source.tracklets]
    return Enrolled(source, tuple(entries), (f"{BUILT_IN}, generated: {counted(len(entries), 'tracklet')}",))


class _Chosen:
    """Some tracklets of a source."""

    def __init__(self, source: TrackletSource, chosen: Sequence[int]) -> None:
        self._source, self._chosen = source, tuple(chosen)
        self.tracklets: Sequence[Tracklet] = tuple(source.tracklets[index] for index in self._chosen)

    def read(self, index: int, frames: Sequence[int]) -> Tensor:
        """The frames of a tracklet, (3, T, H, W) uint8 RGB."""
        return self._source.read(self._chosen[index], frames)


def _generated_frame(entry: Entry) -> Tensor | None:
    if entry.source not in ("train", "test"):
        return None
    persons = _persons(entry.source)
    for index, one in enumerate(persons.tracklets):
        if one.name == entry.name:
            return persons.read(index, [one.length // 2])[:, 0].permute(1, 2, 0)
    return None
