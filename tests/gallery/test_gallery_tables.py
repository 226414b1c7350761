"""Tables of strangers: reading one takes memory in proportion to its size, whatever its headers claim."""

import io

import pytest

np = pytest.importorskip("numpy", reason="pip install 'torch-nonlocal[reid]'")
pyarrow = pytest.importorskip("pyarrow", reason="pip install 'torch-nonlocal[reid]'")

from galleries import entries  # noqa: E402 (after the skips)
from pyarrow import parquet  # noqa: E402
from thrift_files import LIST, STRUCT, read_footer, read_struct, with_footer, write_struct  # noqa: E402

from torch_nonlocal.gallery.parts import DamagedGalleryError, Part, digest_of  # noqa: E402
from torch_nonlocal.gallery.table import Rows, read_rows  # noqa: E402

ROWS = 40
LONG = "x" * 2_000_000
DICTIONARIES = ["identity", "camera", "root"]


def table(**columns):
    """A table with other texts in some columns, as Parquet's writer gets it."""
    found = Rows.of(entries(range(ROWS)))._table.add_column(0, "row", pyarrow.array(np.arange(ROWS)))
    for name, texts in columns.items():
        found = found.set_column(found.column_names.index(name), name, pyarrow.array(texts))
    return found


def written(content, **options):
    """The bytes of a Parquet file."""
    out = io.BytesIO()
    parquet.write_table(content, out, **{"compression": "none", "use_dictionary": DICTIONARIES, **options})
    return out.getvalue()


def chunks(footer):
    """The columns of all groups of rows, as fields of the footer."""
    return [column for group in footer[4][1][1] for column in group[1][1][1]]


def read(folder, data, rows=ROWS):
    path = folder / "tracklets-000001-0.parquet"
    path.write_bytes(data)
    return read_rows(folder, Part(path.name, rows, digest_of(path)))


def with_page(data, column, change):
    """A file in which a field of the first page of a column is replaced; the page keeps its length."""
    start = chunks(read_footer(data))[column][3][1][9][1]
    header, end = read_struct(data, start)
    change(header)
    bytes_of = write_struct(header)
    assert len(bytes_of) == end - start
    return data[:start] + bytes_of + data[end:]


def repeated_by_a_dictionary():
    return written(table(name=[LONG] * ROWS), use_dictionary=["name", *DICTIONARIES], dictionary_pagesize_limit=2**30)


def shared_by_all_rows():
    data = written(table(name=[LONG] + ["a"] * (ROWS - 1)), row_group_size=1)
    footer = read_footer(data)
    groups = footer[4][1][1]
    for group in groups[1:]:
        group[1][1][1][1] = groups[0][1][1][1][1]
    return with_footer(data, footer)


def differences_of_equal_texts():
    """The footer claims plain pages."""
    data = written(table(name=[LONG] * ROWS), use_dictionary=False, column_encoding={"name": "DELTA_BYTE_ARRAY"})
    footer = read_footer(data)
    for column in chunks(footer):
        column[3][1][2] = (LIST, (5, [0, 3]))
    return with_footer(data, footer)


def unknown_compression():
    """PyArrow aborts the process when it is asked for the name of it."""
    data = written(table())
    footer = read_footer(data)
    chunks(footer)[1][3][1][4] = (5, 16)
    return with_footer(data, footer)


def columns_without_repetition():
    """PyArrow aborts the process when it is asked for sizes of such a column."""
    data = written(table())
    footer = read_footer(data)
    del footer[2][1][1][2][3]
    return with_footer(data, footer)


def lists_of_another_type():
    """Readers take the type of a list that they know for granted, and would go on elsewhere."""
    data = written(table())
    footer = read_footer(data)
    footer[5] = (LIST, (5, [1, 2]))
    return with_footer(data, footer)


def another_file():
    data = written(table())
    footer = read_footer(data)
    chunks(footer)[1][1] = (8, b"/etc/passwd")
    return with_footer(data, footer)


def larger_than_the_file():
    data = written(table())
    footer = read_footer(data)
    chunks(footer)[1][3][1][7] = (6, 10**11)
    return with_footer(data, footer)


def many_columns():
    """As many as 3 bytes each give; a reader needs some 500 bytes for each."""
    data = written(table())
    footer = read_footer(data)
    footer[4][1][1][0][1] = (LIST, (STRUCT, [{2: (6, 0)}] * 300_000))
    return with_footer(data, footer)


def groups_without_columns():
    data = written(table())
    footer = read_footer(data)
    footer[4] = (LIST, (STRUCT, [{1: (LIST, (STRUCT, [])), 2: (6, 0), 3: (6, 0)}] * 3))
    return with_footer(data, footer)


def more_values_than_rows():
    data = written(table())
    footer = read_footer(data)
    chunks(footer)[1][3][1][5] = (6, ROWS + 1)
    return with_footer(data, footer)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (repeated_by_a_dictionary, "column name has too many pages, or repeats long texts"),
        (shared_by_all_rows, "column name is larger than the file, or shares bytes with another column"),
        (differences_of_equal_texts, "column name: a page of encoding DELTA_BYTE_ARRAY"),
        (unknown_compression, "column name: compression 16, expected UNCOMPRESSED"),
        (columns_without_repetition, "column name has another type than text"),
        (lists_of_another_type, "field 5 is missing, or of another type"),
        (another_file, "column name: it has no place in this file"),
        (larger_than_the_file, "column name is larger than the file"),
        (many_columns, r"its footer has 90\d,\d+ bytes, expected at most 262,154"),
        (groups_without_columns, "0 columns of 0 rows, expected 12"),
        (more_values_than_rows, "column name: 41 values of 40 rows"),
    ],
)
def test_small_files_do_not_become_large_tables(tmp_path, data, message):
    with pytest.raises(DamagedGalleryError, match=message):
        read(tmp_path, data())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.update({2: (5, header[2][1] + 1)}), "claims another size than it has"),
        (lambda header: header.update({2: (5, 8190), 3: (5, 8190)}), "claims another size than it has"),
        (lambda header: header[5][1].update({1: (5, ROWS + 1)}), "pages of 41 rows, expected 40"),
        (lambda header: header[5][1].update({2: (5, 7)}), "a page of encoding DELTA_BYTE_ARRAY"),
        (lambda header: header[5][1].update({2: (5, 8)}), "a page of encoding RLE_DICTIONARY"),
        (lambda header: header[5][1].update({2: (6, 0)}), "a page of an unknown kind"),
        (lambda header: header.update({1: (5, 3)}), "a page of an unknown kind"),
    ],
)
def test_headers_of_pages_are_read_as_parquet_reads_them(tmp_path, change, message):
    data = written(table(), write_statistics=False)
    read(tmp_path, data)
    with pytest.raises(DamagedGalleryError, match=message):
        read(tmp_path, with_page(data, 1, change))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (b"\x05\x04\x0e", "its fields are repeated"),  # field 2 again, in its long form
        (b"\x05\x84\x80\x08\x0e", "a number that is too large"),  # field 65538, which is 2 in 16 bits
        (b"\x05\xc8\x01\x0e", "its fields are repeated, unknown"),  # field 100
        (b"\x05\x0c\x80\x80\x80\x80\x80\x01", "a number that is too large"),  # a number of 36 bits
        (b"\x08\x0c\xff\xff\xff\xff\x07", "a page is cut off"),  # a text of 2 GB
        (b"\x0c\x0c" + b"\x1c" * 9 + b"\0" * 10, "nested"),
        (b"\x09\x0c\xf5\xff\xff\xff\xff\x07", "a page is cut off"),  # a list of 2^31
        (b"\x0b\x0c\x00", "a field of type 11"),
    ],
)
def test_headers_that_readers_could_take_for_others_are_refused(tmp_path, field, message):
    """A field is added to the header of the encoding, in a copy of the column at the end of the file."""
    data = written(table(), write_statistics=False)
    footer = read_footer(data)
    about = chunks(footer)[1][3][1]
    start, size = about[9][1], about[7][1]
    header, end = read_struct(data, start)
    pages = write_struct(header)[:-2] + field + b"\0\0" + data[end : start + size]
    assert (about[6], about[7]) == ((6, size), (6, size))
    about[6] = about[7] = (6, len(pages))
    about[9] = (6, 4 + sum(one[3][1][7][1] for one in chunks(read_footer(data))))
    body = data[: about[9][1]] + pages
    with pytest.raises(DamagedGalleryError, match=message):
        read(tmp_path, with_footer(body + data[about[9][1] :], footer))


def test_more_texts_than_bytes_are_refused(tmp_path):
    with pytest.raises(DamagedGalleryError, match="a text is missing, 6 bytes claim to be 40 texts"):
        read(tmp_path, written(table(name=pyarrow.nulls(ROWS, pyarrow.string()))))


def test_tables_of_other_writers_are_read(tmp_path):
    """Dictionaries of short texts, several groups of rows, and pages of few rows."""
    options = {"use_dictionary": True, "row_group_size": 7, "data_page_size": 64, "write_batch_size": 2}
    found = read(tmp_path, written(table(), **options))
    assert found.names == [f"t{place:05d}" for place in range(ROWS)]
    assert found.identities.names[:3] == ("person 0", "person 1", "person 10")


def test_our_own_tables_are_read_at_any_size(tmp_path):
    for count in (0, 1, 70_000):
        rows = Rows.of(entries(np.arange(count) % 500))
        part = rows.write(tmp_path, "tracklets-000001-0.parquet")
        found = read_rows(tmp_path, part)
        assert (len(found), found.identities.names) == (
            count,
            tuple(sorted({f"person {n}" for n in range(min(count, 500))})),
        )
