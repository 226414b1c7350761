"""The table of a gallery: a row for each vector, in a Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.optional import require
from torch_nonlocal.gallery.parquet_check import check_table
from torch_nonlocal.gallery.parts import DamagedGalleryError, Part, check_part, write_part

TEXTS = ("name", "identity", "camera", "root", "source", "picture")
BOX = ("left", "top", "width", "height")
_NUMBERS = ("frame", *BOX)
_COLUMNS = {"row": "int64", **dict.fromkeys(TEXTS, "text"), **dict.fromkeys(_NUMBERS, "int32")}
_REPEATED = ("identity", "camera", "root")
_ROW_GROUP = 65_536


@dataclass(frozen=True)
class Entry:
    """A tracklet as a gallery records it.

    Attributes:
        name: unique in the gallery.
        identity: name of the person or animal.
        camera: name of the camera.
        root: folder that `source` is relative to.
        source: folder of pictures or video file, for drawing; "" if there is none.
        picture: name of the picture in `source` that is drawn; "" if `source` is a video.
        frame: number of the frame of a video that is drawn.
        box: (left, top, width, height) of the part of it that is drawn, in pixels; None for the whole frame.
    """

    name: str
    identity: str
    camera: str
    root: str = ""
    source: str = ""
    picture: str = ""
    frame: int | None = None
    box: tuple[int, int, int, int] | None = None


class Identities(NamedTuple):
    """Identities of rows as numbers.

    Attributes:
        names: in sorted order.
        codes: position in `names` of each row, (rows,) int32.
    """

    names: tuple[str, ...]
    codes: np.ndarray


class Rows:
    """The rows of a table; columns stay packed in memory."""

    def __init__(self, table: Any) -> None:
        self._table = table

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Rows:
        """Rows of new tracklets, as `given.checked_entries` returns them."""
        pyarrow = _pyarrow()
        columns = {name: [getattr(one, name) for one in entries] for name in TEXTS}
        arrays = [
            pyarrow.array(values, pyarrow.string()).dictionary_encode() if name in _REPEATED else values
            for name, values in columns.items()
        ]
        frames = [one.frame for one in entries]
        boxes = [[None if one.box is None else one.box[place] for one in entries] for place in range(len(BOX))]
        return cls(pyarrow.table([*arrays, frames, *boxes], schema=_schema()))

    def __len__(self) -> int:
        return self._table.num_rows

    @cached_property
    def names(self) -> list[str]:
        """Names of the tracklets."""
        return self._table["name"].to_pylist()

    @cached_property
    def identities(self) -> Identities:
        """Identities of the rows."""
        column = self._table["identity"].combine_chunks()
        values: list[str] = column.dictionary.to_pylist()
        codes = column.indices.to_numpy(zero_copy_only=False)
        used, codes = np.unique(codes, return_inverse=True)
        order = sorted(range(len(used)), key=lambda place: values[used[place]])
        rank = np.empty(len(used), np.int32)
        rank[order] = np.arange(len(used), dtype=np.int32)
        return Identities(tuple(values[used[place]] for place in order), rank[codes])

    @cached_property
    def first_rows(self) -> np.ndarray:
        """The first row of each identity, in the order of their names."""
        return np.unique(self.identities.codes, return_index=True)[1]

    def entry(self, row: int) -> Entry:
        """A row."""
        found = self._table.slice(row, 1).to_pylist()[0]
        box = tuple(found[name] for name in BOX)
        return Entry(**{name: found[name] for name in TEXTS}, frame=found["frame"], box=None if None in box else box)

    def joined(self, other: Rows) -> Rows:
        """These rows and others after them."""
        tables = [self._table, other._table]
        return Rows(_pyarrow().concat_tables(tables).unify_dictionaries().combine_chunks())

    def first(self, count: int) -> Rows:
        """The first rows."""
        return Rows(self._table.slice(0, count))

    def kept(self, keep: np.ndarray) -> Rows:
        """The rows of a mask."""
        return Rows(self._table.filter(_pyarrow().array(keep)))

    def write(self, folder: Path, name: str) -> Part:
        """Write the table, see `parts.write_part`; column "row" holds the numbers of the rows."""
        parquet, pyarrow = require("pyarrow.parquet", extra="reid"), _pyarrow()
        numbered = self._table.add_column(0, "row", pyarrow.array(np.arange(len(self))))
        options = {
            "compression": "none",
            "row_group_size": _ROW_GROUP,
            "use_dictionary": list(_REPEATED),
            "write_statistics": False,
        }
        return write_part(folder, name, len(self), lambda file: parquet.write_table(numbered, file, **options))


def read_rows(folder: Path, part: Part, *, verify: bool = True) -> Rows:
    """Read a table.

    Compression and encodings that repeat text are refused, so that memory is bounded by the size of the file; see
    `parquet_check`.

    Raises:
        DamagedGalleryError: the file is missing, damaged, or not such a table.
    """
    parquet, pyarrow = require("pyarrow.parquet", extra="reid"), _pyarrow()
    path = check_part(folder, part, verify=verify)
    try:
        with path.open("rb") as pages:
            check_table(pages, part.rows, _COLUMNS, _REPEATED)
            with parquet.ParquetFile(pages, read_dictionary=list(_REPEATED)) as file:
                table = file.read(columns=[*TEXTS, *_NUMBERS])
        table = table.select([*TEXTS, *_NUMBERS]).cast(_schema()).unify_dictionaries().combine_chunks()
        table.validate(full=True)
        if len(table) != part.rows:
            raise ValueError(f"it holds {len(table):,} rows, gallery.json expects {part.rows:,}")
        if any(table[name].null_count for name in TEXTS):
            raise ValueError("a text is missing")
    except (pyarrow.ArrowException, ValueError, LookupError, OSError) as error:
        raise DamagedGalleryError(f"{path} is damaged: {printable(' '.join(str(error).split())[:300])}") from error
    return Rows(table)


def _schema() -> Any:
    pyarrow = _pyarrow()
    repeated = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    texts = [(name, repeated if name in _REPEATED else pyarrow.string()) for name in TEXTS]
    return pyarrow.schema([*texts, *((name, pyarrow.int32()) for name in _NUMBERS)])


def _pyarrow() -> Any:
    return require("pyarrow", extra="reid")
