"""MARS: official lists, names, junk and distractors, and damaged lists."""

from pathlib import Path

import pytest
from miniatures import mars, matlab, picture

from torch_nonlocal.data.tracklets.find import find_tracklets
from torch_nonlocal.data.tracklets.matlab import read_matrix


def kinds(data) -> list[str]:
    return [problem.kind for problem in data.problems]


def test_official_lists_give_the_tracklets_in_their_order(tmp_path: Path):
    data = find_tracklets(mars(tmp_path / "mars"))
    assert (data.layout, data.splits, data.problems) == ("mars", 1, ())
    assert [one.name for one in data.train] == [f"000{one}C{camera}T0001" for one in (1, 2, 3) for camera in (1, 2)]
    names = ["00-1C1T0001", "0000C2T0001", *(f"000{one}C{camera}T0001" for one in (4, 5, 6) for camera in (1, 2))]
    assert [one.name for one in data.gallery] == names
    assert [one.role for one in data.gallery] == ["junk", "distractor", *["person"] * 6]
    assert data.query_index == (2, 3, 4, 5, 6, 7)
    assert data.query == data.gallery[2:]
    first = data.train[1]
    assert (first.identity, first.camera, first.length) == ("0001", "2", 5)
    assert first.folder == tmp_path / "mars/bbox_train/0001"
    assert first.files == tuple(f"0001C2T0001F00{frame}.jpg" for frame in (1, 2, 3, 4, 5))


def test_rows_of_query_idx_count_from_one_and_keep_their_order(tmp_path: Path):
    root = mars(tmp_path)
    matlab(root / "info/query_IDX.mat", query_IDX=[[8, 3]])
    data = find_tracklets(root)
    assert data.query_index == (7, 2)
    assert [one.name for one in data.query] == ["0006C2T0001", "0004C1T0001"]


def test_without_lists_tracklets_are_grouped_by_name(tmp_path: Path):
    root = mars(tmp_path, info=False)
    picture(root / "bbox_test/0004/0004C1T0002F001.jpg", 4)
    picture(root / "bbox_test/0007/0007C1T0001F001.jpg", 7)  # one camera: no query
    data = find_tracklets(root)
    assert data.problems == ()
    assert [one.name for one in data.query] == [f"000{one}C1T0001" for one in (4, 5, 6)]
    assert data.query_index is not None
    assert tuple(data.gallery[row] for row in data.query_index) == data.query
    assert {one.name for one in data.gallery} > {"0004C1T0002", "0007C1T0001", "00-1C1T0001", "0000C2T0001"}
    assert "no folder 'info'" in data.notes[0]
    assert "first tracklet of each identity and camera" in data.notes[1]


def test_frames_without_lists_are_ordered_by_their_numbers(tmp_path: Path):
    root = mars(tmp_path, info=False)
    for frame in (999, 1000):
        picture(root / f"bbox_train/0001/0001C1T0009F{frame}.jpg", 1)
    by_name = {one.name: one for one in find_tracklets(root).train}
    assert by_name["0001C1T0009"].files == ("0001C1T0009F999.jpg", "0001C1T0009F1000.jpg")


def test_names_that_break_the_rule_or_the_list_are_problems(tmp_path: Path):
    root = mars(tmp_path, train=1)
    names = (root / "info/train_name.txt").read_text().split()
    names[1] = "../../../etc/passwd"
    names[2] = "0009C1T0001F003.jpg"
    (root / "info/train_name.txt").write_text("\n".join(names))
    data = find_tracklets(root)
    assert kinds(data) == ["wrong name", "wrong name"]
    assert data.train[0].files == ("0001C1T0001F001.jpg", "0001C1T0001F004.jpg")
    assert "0001C1T0001F001.jpg (identity, camera, tracklet, frame)" in data.problems[0].reason


def test_missing_frames_are_problems_and_a_tracklet_without_frames_moves_the_queries(tmp_path: Path):
    root = mars(tmp_path)
    (root / "bbox_test/0004/0004C2T0001F002.jpg").unlink()
    for file in root.glob("bbox_test/0005/0005C1*"):
        file.unlink()
    data = find_tracklets(root)
    assert kinds(data) == ["missing frame", "missing frame", "empty tracklet"]
    assert "1 of 5 frames missing" in data.problems[0].reason
    assert data.query_index == (2, 3, 4, 5, 6)
    assert [one.name for one in data.query] == [data.gallery[row].name for row in data.query_index]
    assert "0005C1T0001" not in {one.name for one in data.gallery}
    assert data.gallery[3].length == 4


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("query_IDX.mat", {"query_IDX": [[3, 9]]}, "index 9, expected 1 to 8"),
        ("query_IDX.mat", {"query_IDX": [[0]]}, "index 0, expected 1 to 8"),
        ("query_IDX.mat", {"query_IDX": [[3, 3]]}, "1 index twice"),
        ("query_IDX.mat", {"queries": [[3]]}, "no variable 'query_IDX': it has queries"),
        ("tracks_test_info.mat", {"track_test_info": [[1, 5, 4]]}, "has 3 columns, expected 4"),
        (
            "tracks_test_info.mat",
            {"track_test_info": [[1, 99, 4, 1]]},
            "row 1 has the frames 1 to 99, expected 1 to 36",
        ),
        ("tracks_test_info.mat", {"track_test_info": [[3, 2, 4, 1]]}, "row 1 has the frames 3 to 2"),
        ("tracks_test_info.mat", {"track_test_info": [[1, 30, 4, 1]] * 2}, "uses 60 frames, expected at most the 36"),
        ("tracks_train_info.mat", None, "has no tracks_train_info.mat"),
        ("test_name.txt", None, "has no test_name.txt"),
    ],
)
def test_damaged_lists_are_refused(tmp_path: Path, file: str, content, message: str):
    root = mars(tmp_path)
    (root / "info" / file).unlink()
    if content is not None:
        matlab(root / "info" / file, **content)
    with pytest.raises(ValueError, match=message):
        find_tracklets(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a MATLAB file"),
        (b"pickle" * 100, "is not a MATLAB file"),
        (b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + b"\x0e\0\0\0\xff\xff\xff\x7f", "is damaged"),
        (b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + b"\x0f\0\0\0\x04\0\0\0abcd", "is damaged"),
    ],
)
def test_files_that_are_not_matlab_are_refused(tmp_path: Path, content: bytes, message: str):
    root = mars(tmp_path)
    (root / "info/query_IDX.mat").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        find_tracklets(root)


@pytest.mark.parametrize("compressed", [True, False])
def test_matrices_equal_those_that_scipy_reads_and_writes(tmp_path: Path, compressed: bool):
    io = pytest.importorskip("scipy.io")
    numpy = pytest.importorskip("numpy")
    values = numpy.array([[1, -2, 3], [40000, 5, 6]])
    written = tmp_path / "scipy.mat"
    for kind in ("int32", "float64", "int64", "float32"):
        io.savemat(written, {"other": "text", "x": values.astype(kind)}, do_compression=compressed)
        found = read_matrix(written, "x")
        assert [found.row(0), found.row(1)] == [(1, -2, 3), (40000, 5, 6)]
    own = matlab(tmp_path / "own.mat", compressed=compressed, query_IDX=[[5, 6, 7]], long_name_of_info=[[1, 2], [3, 4]])
    assert io.loadmat(own)["long_name_of_info"].tolist() == [[1, 2], [3, 4]]
    assert read_matrix(own, "long_name_of_info").entries == (1, 2, 3, 4)


def test_a_matrix_of_other_values_is_refused(tmp_path: Path):
    io = pytest.importorskip("scipy.io")
    numpy = pytest.importorskip("numpy")
    for value, message in ((1.5, "not whole"), (numpy.nan, "not whole"), ("text", "no real numbers"), (1j, "no real")):
        io.savemat(tmp_path / "x.mat", {"x": value})
        with pytest.raises(ValueError, match=message):
            read_matrix(tmp_path / "x.mat", "x")


def test_the_layout_needs_both_folders(tmp_path: Path):
    root = mars(tmp_path)
    (root / "bbox_test").rename(root / "other")
    with pytest.raises(ValueError, match="has no folder 'bbox_test'"):
        find_tracklets(root)


@pytest.mark.parametrize("info", [True, False])
def test_identity_0000_is_a_person_if_the_set_trains_on_it(tmp_path: Path, info: bool):
    root = mars(tmp_path, train=2, test=1, info=info)
    assert {one.role for one in find_tracklets(root).gallery if one.identity == "0000"} == {"distractor"}
    (root / "bbox_train/0001").rename(root / "bbox_train/0000")
    for file in (root / "bbox_train/0000").iterdir():
        file.rename(file.with_name(file.name.replace("0001C", "0000C", 1)))
    if info:
        names = (root / "info/train_name.txt").read_text()
        (root / "info/train_name.txt").write_text(names.replace("0001C", "0000C"))
        rows = [(1, 4, 0, 1), (5, 9, 0, 2), (10, 13, 2, 1), (14, 18, 2, 2)]
        matlab(root / "info/tracks_train_info.mat", track_train_info=rows)
    data = find_tracklets(root)
    assert data.problems == ()
    assert {(one.identity, one.role) for one in data.train} == {("0000", "person"), ("0002", "person")}
    assert {one.role for one in data.gallery if one.identity == "0000"} == {"person"}
