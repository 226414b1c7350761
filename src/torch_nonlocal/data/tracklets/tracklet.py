"""Tracklets and sets of them. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["person", "distractor", "junk"]
"""What a tracklet shows: a known identity, another one that is nobody's match, or nothing that is to be scored."""

JUNK_ID, DISTRACTOR_ID = -1, 0
"""Numbers of junk and distractors in arrays of identities; identities are numbered from 1."""


class Box(NamedTuple):
    """A box in a frame of a video, in pixels.

    Attributes:
        frame: number of the frame, from 0.
        left: first column.
        top: first row.
        width: columns.
        height: rows.
    """

    frame: int
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Tracklet:
    """Frames of one identity, seen by one camera.

    Attributes:
        name: unique within its set; what tables and messages call it.
        identity: name of the identity, as the data have it.
        camera: name of the camera, as the data have it.
        length: number of frames.
        folder: folder of `files`, or the video file of `boxes`; None for tracklets in memory.
        files: pictures in temporal order, relative to `folder`.
        boxes: boxes in temporal order in the video `folder`.
        role: see `Role`.
    """

    name: str
    identity: str
    camera: str
    length: int
    folder: Path | None = None
    files: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    role: Role = "person"


class Problem(NamedTuple):
    """Something wrong with the data.

    Attributes:
        kind: short name, such as "empty tracklet" or "wrong name".
        name: the tracklet, file or identity.
        reason: one line.
    """

    kind: str
    name: str
    reason: str


@dataclass(frozen=True)
class TrackletData:
    """The tracklets of a set, by their use.

    Attributes:
        layout: name of the layout, such as "mars".
        root: folder or list.
        train: training tracklets.
        query: query tracklets.
        gallery: gallery tracklets; they include the queries if `query_index` is not None.
        query_index: rows of the gallery that are the queries, in the order of `query`; None if the queries are not in
            the gallery.
        splits: number of random splits of this layout that tests are averaged over.
        problems: tracklets and files that were left out, and other faults.
        notes: lines that say how the data were read.
    """

    layout: str
    root: Path
    train: tuple[Tracklet, ...] = ()
    query: tuple[Tracklet, ...] = ()
    gallery: tuple[Tracklet, ...] = ()
    query_index: tuple[int, ...] | None = None
    splits: int = 1
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


class TrackletSource(Protocol):
    """Tracklets whose frames can be read, from files or generated."""

    @property
    def tracklets(self) -> Sequence[Tracklet]:
        """The tracklets."""
        ...

    def read(self, index: int, frames: Sequence[int]) -> Tensor:
        """The frames of a tracklet, (3, T, H, W) uint8 RGB, all resized to the size of the source.

        Args:
            index: position in `tracklets`.
            frames: numbers of frames in [0, length), in any order; they may repeat.

        Raises:
            BrokenVideoError: (a ValueError) a frame cannot be read.
        """
        ...


def camera_numbers(tracklets: Sequence[Tracklet]) -> list[int]:
    """Number the cameras of tracklets that are ranked together: 0, 1, ... in sorted order of their names.

    In data of a single camera every tracklet has its own number: the rule that leaves out the camera of the query
    would leave nothing.
    """
    names = sorted({one.camera for one in tracklets})
    if len(names) < 2:
        return list(range(len(tracklets)))
    numbers = {name: number for number, name in enumerate(names)}
    return [numbers[one.camera] for one in tracklets]


def identity_numbers(tracklets: Sequence[Tracklet], known: Sequence[str] = ()) -> tuple[list[int], list[str]]:
    """Number the identities of tracklets: 1, 2, ... in sorted order of their names, -1 for junk, 0 for distractors.

    Args:
        tracklets: of one set, such as query and gallery together.
        known: names that keep the first numbers, in their order.

    Returns:
        The number of each tracklet, and the names by number - 1.
    """
    found = {one.identity for one in tracklets if one.role == "person"}
    names = [*known, *sorted(found - set(known))]
    numbers = {name: number for number, name in enumerate(names, 1)}
    others = {"junk": JUNK_ID, "distractor": DISTRACTOR_ID}
    return [others[one.role] if one.role in others else numbers[one.identity] for one in tracklets], names
