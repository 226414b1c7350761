"""MATLAB files of version 7.3, which are HDF5: one that MATLAB wrote, and chunks that are packed by hand."""

import math
import struct
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from miniatures import ls_vid

from torch_nonlocal.data.tracklets.find import find_tracklets
from torch_nonlocal.data.tracklets.hdf5 import Array, Hdf5Error, read_array
from torch_nonlocal.data.tracklets.matlab import read_matrix

BASE = 512


def hdf5(values: Sequence[Sequence[float]], *, chunk: tuple[int, int] = (2, 3), name: str = "query") -> bytes:
    """A file with one array of doubles in deflated chunks; `values` are its rows, as HDF5 counts."""
    rows, columns = len(values), len(values[0])
    parts: dict[str, int] = {}
    body = bytearray(96)

    def put(label: str, data: bytes) -> None:
        parts[label] = len(body)
        body.extend(data.ljust(-(-len(data) // 8) * 8, b"\0"))

    places, packed = [], []
    for top in range(0, rows, chunk[0]):
        for left in range(0, columns, chunk[1]):
            block = [
                values[row][column] if row < rows and column < columns else -9.0
                for row in range(top, top + chunk[0])
                for column in range(left, left + chunk[1])
            ]
            packed.append(zlib.compress(struct.pack(f"<{len(block)}d", *block)))
            put(f"chunk{len(packed)}", packed[-1])
            places.append((top, left))
    entries = b"".join(
        struct.pack("<IIQQQQ", len(data), 0, *place, 0, parts[f"chunk{number}"])
        for number, (place, data) in enumerate(zip(places, packed, strict=True), 1)
    )
    end = struct.pack("<IIQQQ", 0, 0, rows, columns, 0)
    put("chunks", b"TREE" + struct.pack("<BBHqq", 1, 0, len(packed), -1, -1) + entries + end)
    messages = [
        (1, struct.pack("<BBB5xQQ", 1, 2, 0, rows, columns)),
        (3, struct.pack("<B3BI", 0x11, 0x20, 0x3F, 0, 8) + bytes(16)),
        (11, struct.pack("<BB6xHHHHI4x", 1, 1, 1, 0, 1, 1, 3)),
        (8, struct.pack("<BBBQIII", 3, 2, 3, parts["chunks"], *chunk, 8).ljust(24, b"\0")),
    ]
    header = b"".join(struct.pack("<HHB3x", kind, len(data), 0) + data for kind, data in messages)
    put("array", struct.pack("<BBHII4x", 1, 0, len(messages), 1, len(header)) + header)
    put("names", b"\0" * 8 + name.encode() + b"\0")
    put("heap", b"HEAP" + struct.pack("<B3xQqQ", 0, 64, -1, parts["names"]))
    put("symbols", b"SNOD" + struct.pack("<BBH", 1, 0, 1) + struct.pack("<QQII16x", 8, parts["array"], 0, 0))
    put("tree", b"TREE" + struct.pack("<BBHqq", 0, 0, 1, -1, -1) + struct.pack("<QQQ", 0, parts["symbols"], 8))
    start = b"\x89HDF\r\n\x1a\n" + struct.pack("<BBBBBBBBHHI", 0, 0, 0, 0, 0, 8, 8, 0, 4, 16, 3)
    start += struct.pack("<QqQq", BASE, -1, len(body), -1)
    start += struct.pack("<QQIIQQ", 0, 0, 1, 0, parts["tree"], parts["heap"])
    body[: len(start)] = start
    return b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(BASE - 128) + bytes(body)


def test_the_array_of_a_file_that_matlab_wrote():
    scipy = find_spec("scipy")
    file = Path(scipy.origin or "").parent / "io/matlab/tests/data/testhdf5_7.4_GLNX86.mat" if scipy else Path()
    if not file.is_file():
        pytest.skip("SciPy is not installed with the data of its tests")
    found = read_array(file.read_bytes(), "testdouble")
    assert isinstance(found, Array)
    assert found.shape == (9, 1)
    assert found.values == pytest.approx([number * math.pi / 4 for number in range(9)], rel=1e-12)
    with pytest.raises(ValueError, match="not whole"):
        read_matrix(file, "testdouble")
    with pytest.raises(ValueError, match="no variable 'query': it has testdouble"):
        read_matrix(file, "query")


@pytest.mark.parametrize("chunk", [(1, 1), (2, 3), (5, 7), (1, 5)])
def test_chunks_are_put_in_their_places(tmp_path: Path, chunk: tuple[int, int]):
    values = [[float(10 * row + column) for column in range(5)] for row in range(3)]
    (tmp_path / "x.mat").write_bytes(hdf5(values, chunk=chunk))
    found = read_matrix(tmp_path / "x.mat", "query")
    assert (found.rows, found.columns) == (5, 3)  # MATLAB's order of dimensions is the reverse
    assert found.row(4) == (4, 14, 24)


def test_queries_of_ls_vid_in_version_73(tmp_path: Path):
    root = ls_vid(tmp_path, info=False)
    (root / "test/data").mkdir(parents=True)
    (root / "test/data/info_test.mat").write_bytes(hdf5([[3.0, 1.0]]))
    assert find_tracklets(root).query_index == (2, 0)


@pytest.mark.parametrize("size", [0, 600, 700, 900, -32])
def test_files_that_are_cut_off_are_refused(size: int):
    content = hdf5([[1.0, 2.0, 3.0]])
    with pytest.raises(Hdf5Error):
        read_array(content[:size], "query")


def test_chunks_that_claim_the_whole_file_each_are_refused():
    """Each would be copied once per chunk: a file of 60 MB would take hours."""
    content = bytearray(hdf5([[1.0, 2.0, 3.0]], chunk=(1, 1)))
    chunks = content.index(b"TREE\x01")
    for entry in range(3):
        struct.pack_into("<I", content, chunks + 24 + 40 * entry, len(content) - BASE)
    with pytest.raises(Hdf5Error, match="its chunks overlap"):
        read_array(bytes(content), "query")


def test_damaged_bytes_give_an_error_or_numbers_and_never_much_memory():
    content = bytearray(hdf5([[float(column) for column in range(7)]] * 3))
    for at in range(BASE, len(content)):
        for value in (0, 0xFF):
            kept, content[at] = content[at], value
            try:
                found = read_array(bytes(content), "query")
            except Hdf5Error:
                found = []
            content[at] = kept
            assert isinstance(found, list) or len(found.values) <= 2**22
