"""`gallery.json`: what a gallery contains, which files belong to it, and what was measured on it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch_nonlocal._common.files import printable, write_json
from torch_nonlocal._common.text import near_path
from torch_nonlocal.gallery.parts import DamagedGalleryError, Part
from torch_nonlocal.gallery.vectors import MOST_DIMENSION

By = Literal["tracklet", "person"]
"""What a search ranks: single tracklets, or one vector per identity."""

FILE = "gallery.json"
FORMAT, VERSION = "torch-nonlocal gallery", 1
_MOST_BYTES = 4 * 2**20


class OtherModelError(ValueError):
    """Vectors of another network than the gallery's; the message names both."""


@dataclass(frozen=True)
class EmbeddingModel:
    """The network that computed the vectors.

    Attributes:
        digest: hexadecimal digest of its weights and settings; galleries of another digest are refused.
        description: one line for messages, such as the recipe and the file.

    Raises:
        TypeError: one of them is not a string.
    """

    digest: str
    description: str

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, str):
                raise TypeError(f"{name} of a network is {value!r:.80}: expected a string")

    def __str__(self) -> str:
        return printable(f"{self.description} (digest {self.digest[:12]})")


@dataclass(frozen=True)
class Threshold:
    """The similarity above which the best match counts as known.

    Attributes:
        similarity: the best match has to exceed it.
        rate: chosen false-accept rate.
        samples: number of vectors from which it was estimated.
        identities: number of identities in the gallery at that time.
        attainable: False if there are too few samples for the rate; the threshold is then the highest similarity seen.
    """

    similarity: float
    rate: float
    samples: int
    identities: int
    attainable: bool


@dataclass(frozen=True)
class IndexInfo:
    """How vectors are searched.

    Attributes:
        kind: "flat" compares with every vector; "pq" scans 4-bit product quantization codes and compares with the
            vectors of the best candidates.
        reason: why, in one line.
        candidates: number of candidates per query; 0 for "flat".
        recall: measured fraction of the exact 10 nearest that are found; 1 for "flat".
        codes: file of the codes.
        codebook: file of the centroids.
        rotation: file of the rotation and the mean of the vectors.
    """

    kind: Literal["flat", "pq"]
    reason: str
    candidates: int = 0
    recall: float = 1.0
    codes: Part | None = None
    codebook: Part | None = None
    rotation: Part | None = None


@dataclass(frozen=True)
class Unfinished:
    """An operation that was interrupted, or is running.

    Attributes:
        command: "build" or "add".
        first_row: rows from here on were added by it.
    """

    command: Literal["build", "add"]
    first_row: int


@dataclass(frozen=True)
class Manifest:
    """Content of `gallery.json`.

    Attributes:
        dimension: of the vectors.
        model: the network that computed them.
        rate: chosen false-accept rate of the thresholds.
        revision: counts the changes; part of the names of new files.
        vectors: files of the vectors, in the order of the rows.
        table: the Parquet file with a row for each vector.
        unfinished: see `Unfinished`; None if the gallery can be searched.
        persons: file with one vector for each identity, in sorted order of their names.
        indexes: by what is searched.
        thresholds: by what is searched; none if there are fewer than two identities.
        deleted: file of digests of what was deleted, see `deleted`; None if nothing was.
    """

    dimension: int
    model: EmbeddingModel
    rate: float
    revision: int = 0
    vectors: tuple[Part, ...] = ()
    table: Part | None = None
    unfinished: Unfinished | None = None
    persons: Part | None = None
    indexes: dict[By, IndexInfo] = field(default_factory=dict)
    thresholds: dict[By, Threshold] = field(default_factory=dict)
    deleted: Part | None = None

    @property
    def rows(self) -> int:
        """Number of vectors."""
        return sum(part.rows for part in self.vectors)

    @property
    def parts(self) -> list[Part]:
        """All files."""
        more = [part for index in self.indexes.values() for part in (index.codes, index.codebook, index.rotation)]
        return [part for part in (*self.vectors, self.table, self.persons, self.deleted, *more) if part is not None]

    @property
    def files(self) -> set[str]:
        """Names of all files."""
        return {part.file for part in self.parts}

    def write(self, folder: Path) -> None:
        """Replace `gallery.json` atomically: the new files become part of the gallery."""
        write_json(folder / FILE, {"format": FORMAT, "version": VERSION, "metric": "cosine", **asdict(self)})


def read_manifest(folder: Path) -> Manifest:
    """Read `gallery.json`.

    Raises:
        ValueError: there is no gallery in this folder.
        DamagedGalleryError: the file is damaged, or of another version.
    """
    path = folder / FILE
    if not path.is_file():
        kind = "has no gallery.json" if folder.is_dir() else f"does not exist{near_path(folder)}"
        raise ValueError(f"no gallery in {folder}: it {kind}; `nonlocal gallery build` creates one")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES:,} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f"expected the format {FORMAT!r}")
        if values.get("version") != VERSION:
            raise ValueError(f"version {str(values.get('version'))[:20]} of the format, this program reads {VERSION}")
        return _manifest(values)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DamagedGalleryError(f"{path} cannot be read: {reason}") from error


def _manifest(values: dict[str, Any]) -> Manifest:
    by: tuple[By, ...] = ("tracklet", "person")
    unfinished, model = values["unfinished"], values["model"]
    manifest = Manifest(
        dimension=_integer(values["dimension"], "dimension", 1, MOST_DIMENSION),
        model=EmbeddingModel(_text(model["digest"]), _text(model["description"])),
        rate=_number(values["rate"], "rate", 0, 1),
        revision=_integer(values["revision"], "revision", 0, 10**9 - 1),
        vectors=tuple(map(Part.read, values["vectors"])),
        table=None if values["table"] is None else Part.read(values["table"]),
        unfinished=None if unfinished is None else _unfinished(unfinished),
        persons=None if values["persons"] is None else Part.read(values["persons"]),
        indexes={name: _index(values["indexes"][name]) for name in by if name in values["indexes"]},
        thresholds={name: _threshold(values["thresholds"][name]) for name in by if name in values["thresholds"]},
        deleted=Part.read(values["deleted"]) if values["deleted"] else None,
    )
    if manifest.unfinished is not None and manifest.unfinished.first_row > manifest.rows:
        raise ValueError("the rows of an interrupted command begin after the last row")
    if len(manifest.files) < len(manifest.parts):
        raise ValueError("it names a file twice")
    return manifest


def _index(values: dict[str, Any]) -> IndexInfo:
    kind = values["kind"]
    if kind not in ("flat", "pq"):
        raise ValueError(f"unknown kind of index {str(kind)[:20]!r}; expected flat or pq")
    files = ("codes", "codebook", "rotation")
    parts = [Part.read(values[name]) if kind == "pq" else None for name in files]
    return IndexInfo(
        kind,
        _text(values["reason"]),
        _integer(values["candidates"], "candidates", 0, 10**6),
        _number(values["recall"], "recall", 0, 1),
        *parts,
    )


def _unfinished(values: dict[str, Any]) -> Unfinished:
    command = values["command"]
    if command not in ("build", "add"):
        raise ValueError(f"unknown command {str(command)[:20]!r}; expected build or add")
    return Unfinished(command, _integer(values["first_row"], "first_row", 0, 2**62))


def _threshold(values: dict[str, Any]) -> Threshold:
    return Threshold(
        _number(values["similarity"], "similarity", -1.001, 1.001),
        _number(values["rate"], "rate", 0, 1),
        _integer(values["samples"], "samples", 0, 2**62),
        _integer(values["identities"], "identities", 0, 2**62),
        bool(values["attainable"]),
    )


def _integer(value: Any, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {str(value)[:40]}, expected an integer in [{least}, {most}]")
    return value


def _number(value: Any, name: str, least: float, most: float) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most:
        raise ValueError(f"{name} is {str(value)[:40]}, expected a number in [{least}, {most}]")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, got {str(value)[:40]}")
    return value
