"""Tables of tracklets: columns, paths, boxes, and rows with mistakes."""

import csv
from pathlib import Path

import pytest
import torch
from miniatures import picture, table

from torch_nonlocal.data.tracklets.find import find_tracklets
from torch_nonlocal.data.tracklets.tracklet import Box
from torch_nonlocal.media import write_mp4

BOXES = "tracklet,identity,camera,video,frame,left,top,width,height"


def frames(folder: Path, identity: int, count: int = 3) -> Path:
    for frame in range(1, count + 1):
        picture(folder / f"f_{frame}.png", identity, frame)
    return folder


def test_frames_are_a_folder_a_pattern_a_file_or_files(tmp_path: Path):
    frames(tmp_path / "a", 1, 11)
    rows = [("t1", "ann", "left", "a"), ("t2", "ann", "right", "a/f_1*.png"), ("t3", "bob", "left", "a/f_3.png")]
    rows += [("t4", "bob", "right", "a/f_5.png; a/f_2.png")]
    data = find_tracklets(table(tmp_path / "set.csv", rows))
    assert (data.layout, data.problems, data.train) == ("table", (), ())
    by_name = {one.name: one for one in data.gallery}
    assert by_name["t1"].files == tuple(f"f_{frame}.png" for frame in range(1, 12))  # 10 follows 9
    assert by_name["t2"].files == ("f_1.png", "f_10.png", "f_11.png")
    assert by_name["t3"].files == ("f_3.png",)
    assert by_name["t4"].files == ("a/f_5.png", "a/f_2.png")
    assert by_name["t4"].folder == tmp_path
    assert [one.name for one in data.query] == ["t1", "t3"]
    assert data.query_index == (0, 2)
    assert "no column 'split'" in data.notes[0]


def test_pictures_may_have_a_row_each(tmp_path: Path):
    frames(tmp_path / "a", 1)
    rows = [("t1", "ann", 1, f"a/f_{frame}.png") for frame in (3, 1)] + [("t2", "ann", 2, "a/f_2.png")]
    data = find_tracklets(table(tmp_path / "set.csv", rows))
    assert data.problems == ()
    assert [one.files for one in data.gallery] == [("a/f_3.png", "a/f_1.png"), ("f_2.png",)]
    data = find_tracklets(table(tmp_path / "set.csv", [*rows, ("t2", "bob", 2, "a/f_3.png"), rows[0]]))
    assert [problem.name for problem in data.problems] == ["t1", "t2"]


def test_a_folder_with_a_table_is_read(tmp_path: Path):
    frames(tmp_path / "a", 1)
    data = find_tracklets(table(tmp_path / "tracklets.csv", [("t1", "ann", 1, "a")]).parent)
    assert (data.layout, data.root, len(data.gallery)) == ("table", tmp_path / "tracklets.csv", 1)


def test_splits_and_roles(tmp_path: Path):
    frames(tmp_path / "a", 1)
    rows = [("t1", 1, 1, "a", "train", ""), ("t2", 2, 1, "a", "query", ""), ("t3", 2, 2, "a", "gallery", "person")]
    rows += [("t4", 0, 2, "a", "Test", "Distractor"), ("t5", "x", 1, "a", "gallery", "junk")]
    data = find_tracklets(table(tmp_path / "set.csv", rows, "Track ID,Person,Cam,Folder,Subset,Role"))
    assert data.problems == ()
    assert [one.name for one in data.train] == ["t1"]
    assert [one.name for one in data.query] == ["t2"]
    assert [(one.name, one.role) for one in data.gallery] == [("t3", "person"), ("t5", "junk"), ("t4", "distractor")]
    assert data.query_index is None


def test_rows_with_boxes_are_one_tracklet(tmp_path: Path):
    write_mp4(tmp_path / "v.mp4", torch.zeros(4, 32, 32, 3, dtype=torch.uint8), 25)
    rows = [("t1", "ann", 1, "v.mp4", 2, 3, 4, 5, 6), ("t1", "ann", 1, "v.mp4", 0, "1.6", -2, 8, 9)]
    data = find_tracklets(table(tmp_path / "set.tsv", rows, BOXES))
    (one,) = data.gallery
    assert one.boxes == (Box(0, 2, -2, 8, 9), Box(2, 3, 4, 5, 6))
    assert (one.length, one.folder, one.files) == (2, tmp_path / "v.mp4", ())


def test_a_video_without_boxes_is_a_tracklet_of_its_frames(tmp_path: Path):
    write_mp4(tmp_path / "v.mp4", torch.zeros(7, 32, 32, 3, dtype=torch.uint8), 25)
    (tmp_path / "w.mp4").write_bytes(b"no video")
    rows = [("t1", "ann", 1, "v.mp4"), ("t2", "ann", 2, "w.mp4")]
    data = find_tracklets(table(tmp_path / "set.csv", rows, "tracklet,identity,camera,video"))
    assert [(one.name, one.length, one.boxes) for one in data.gallery] == [("t1", 7, ())]
    assert [(problem.kind, problem.name) for problem in data.problems] == [("broken video", "t2")]


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        (("", "ann", 1, "a"), "wrong row", "line 3: no tracklet"),
        (("t2", "", 1, "a"), "wrong row", "line 3: no identity"),
        (("t2", "ann", "", "a"), "wrong row", "line 3: no camera"),
        (("t2", "ann"), "wrong row", "line 3: no camera"),
        (("t2", "ann", 1, ""), "wrong row", "no frames and no video"),
        (("t2", "ann, jr", 1, "a"), "wrong row", "line 3: it has 5 cells, the header 4: expected quotation marks"),
        (("t1", "bob", 1, "a"), "duplicate tracklet", "identity is 'ann' in line 2 and 'bob' in line 3"),
        (("t1", "ann", 1, "a"), "duplicate tracklet", "lines 2, 3 have this name"),
        (("t2", "ann", 1, "../outside"), "outside", "leaves the folder"),
        (("t2", "ann", 1, "/etc"), "outside", "leaves the folder"),
        (("t2", "ann", 1, "a/f_1.png;../x.png"), "outside", "leaves the folder"),
        (("t2", "ann", 1, "link"), "outside", "leaves the folder"),
        (("t2", "ann", 1, "a/f_1.png;a/f_99.png"), "missing frame", "no file 'a/f_99.png'"),
        (("t2", "ann", 1, "nowhere"), "empty tracklet", "'nowhere' is no picture"),
        (("t2", "ann", 1, "empty"), "empty tracklet", "'empty' is no picture"),
        (("t2", "ann", 1, "mixed"), "unclear order", "several streams"),
        (("t2", "ann", 1, "v.mp4"), "empty tracklet", "'v.mp4' is a video: expected it in a column 'video'"),
    ],
)
def test_rows_with_mistakes_are_problems(tmp_path: Path, row: tuple, kind: str, reason: str):
    root = tmp_path / "set"
    frames(root / "a", 1)
    frames(tmp_path / "outside", 1)
    frames(tmp_path / "x", 1)
    (root / "link").symlink_to(tmp_path / "x")
    (root / "empty").mkdir()
    (root / "v.mp4").write_bytes(b"x")
    for name in ("mask_1.png", "rgb_1.png"):
        picture(root / "mixed" / name, 1)
    data = find_tracklets(table(root / "set.csv", [("t1", "ann", 1, "a"), row]))
    assert [problem.kind for problem in data.problems] == [kind]
    assert reason in data.problems[0].reason
    assert [one.name for one in data.gallery] in (["t1"], [])


@pytest.mark.parametrize(
    ("box", "kind", "reason"),
    [
        ((0, 1, 1, 0, 5), "wrong row", "the box is empty: width 0, height 5"),
        ((0, 1, 1, 5, "x"), "wrong row", "height is 'x', expected a number"),
        ((0, 1, 1, 5, "nan"), "wrong row", "height is 'nan', expected a number"),
        ((-1, 1, 1, 5, 5), "wrong row", "frame is -1"),
        (("", 1, 1, 5, 5), "wrong row", "frame is ''"),
        ((7, 1, 1, 5, 5), "duplicate tracklet", "several boxes in frame 7"),
        ((1.5, 1, 1, 5, 5), "wrong row", "frame is '1.5', expected a whole number"),
        ((1, 0.1, 0.1, 0.2, 0.3), "wrong row", "width 0.2, height 0.3, expected 1 pixel or more"),
    ],
)
def test_boxes_with_mistakes_are_problems(tmp_path: Path, box: tuple, kind: str, reason: str):
    (tmp_path / "v.mp4").write_bytes(b"x")
    rows = [("t1", "ann", 1, "v.mp4", 7, 1, 1, 5, 5), ("t1", "ann", 1, "v.mp4", *box)]
    data = find_tracklets(table(tmp_path / "set.csv", rows, BOXES))
    assert [problem.kind for problem in data.problems] == [kind]
    assert reason in data.problems[0].reason


def test_boxes_belong_to_videos_or_folders_of_frames(tmp_path: Path):
    frames(tmp_path / "a", 1)
    rows = [("t1", "ann", 1, "", "a/f_1.png", 0, 1, 1, 5, 5), ("t2", "ann", 1, "a", "a/f_1.png", 0, 1, 1, 5, 5)]
    rows += [("t3", "ann", 1, "", "a/f_1.png", 0, "", "", "", ""), ("t4", "ann", 1, "a", "", 2, 1, 1, 5, 5)]
    header = "tracklet,identity,camera,video,image,frame,x,y,w,h"
    data = find_tracklets(table(tmp_path / "set.csv", rows, header))
    assert [(one.kind, one.name) for one in data.problems] == [("wrong row", "t1"), ("wrong row", "t2")]
    assert "expected the box in a video: the folder of the frames in column 'video'" in data.problems[0].reason
    assert "it has frames and a video" in data.problems[1].reason
    assert [(one.name, one.boxes) for one in data.gallery] == [("t3", ()), ("t4", (Box(2, 1, 1, 5, 5),))]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("tracklet,identety,camera,frames", "no column 'identity'.*did you mean 'identety'"),
        ("tracklet,identity,frames", "no column 'camera'"),
        ("tracklet,identity,camera", "expected a column 'frames', or 'video'"),
        ("tracklet,identity,camera,video,frame,left,top,width", "all of frame, left, top, width and height"),
        ("tracklet,identity,person,camera,frames", "'identity' and 'person' may both be the identity"),
    ],
)
def test_tables_without_the_columns_are_refused(tmp_path: Path, header: str, message: str):
    with pytest.raises(ValueError, match=message):
        find_tracklets(table(tmp_path / "set.csv", [("t1",) * 9], header))


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("excel", [False, True])
def test_tables_of_spreadsheets_are_read(tmp_path: Path, mark: str, excel: bool):
    frames(tmp_path / "a b", 1)
    lines = ["tracklet,identity,camera,frames", 'Zoë 1,"x, y; ""z""",1,a b', "Zoë 2,x,1,a b"]
    lines = [mark.join(cells) for cells in csv.reader(lines)] if mark != "," else lines
    if mark != ",":
        lines[1] = lines[1].replace('x, y; "z"', '"x, y; ""z"""')
    text = "\r\n".join([f"sep={mark}"] * excel + lines) + "\r\n"
    (tmp_path / "set.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    data = find_tracklets(tmp_path / "set.csv")
    assert data.problems == ()
    assert [(one.name, one.identity, one.length) for one in data.gallery] == [
        ("Zoë 1", 'x, y; "z"', 3),
        ("Zoë 2", "x", 3),
    ]


def test_a_cell_may_list_as_many_frames_as_the_longest_tracklets_have(tmp_path: Path):
    frames(tmp_path / "a", 1)
    listed = ";".join(["a/f_1.png", "a/f_2.png"] * 1000)
    (one,) = find_tracklets(table(tmp_path / "set.csv", [("t1", "ann", 1, listed)])).gallery
    assert (one.length, one.files[:2]) == (2000, ("a/f_1.png", "a/f_2.png"))
    with pytest.raises(ValueError, match="expected at most 131,072"):
        find_tracklets(table(tmp_path / "set.csv", [("t1", "ann", 1, ";".join([listed] * 7))]))


def test_a_table_behind_a_link_that_leaves_the_folder_is_refused(tmp_path: Path):
    table(tmp_path / "other.csv", [("t1", "ann", 1, "a")])
    frames(tmp_path / "set/a", 1)
    (tmp_path / "set/tracklets.csv").symlink_to(tmp_path / "other.csv")
    with pytest.raises(ValueError, match=r"the link .*tracklets.csv' leaves"):
        find_tracklets(tmp_path / "set")
    (tmp_path / "set/tracklets.csv").unlink()
    table(tmp_path / "set/mine.csv", [("t1", "ann", 1, "a")])
    (tmp_path / "set/tracklets.csv").symlink_to("mine.csv")
    assert len(find_tracklets(tmp_path / "set").gallery) == 1


def test_tables_without_rows_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="a header only"):
        find_tracklets(table(tmp_path / "set.csv", []))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="is empty"):
        find_tracklets(tmp_path / "empty.csv")


def test_control_characters_of_cells_are_escaped(tmp_path: Path):
    file = table(tmp_path / "set.csv", [("t\x1b[31m1", "ann", 1, "nowhere")])
    assert find_tracklets(file).problems[0].name == "t\\x1b[31m1"
    with pytest.raises(ValueError, match=r"cam\\x1b\[31m") as error:
        find_tracklets(table(tmp_path / "set.csv", [], "tracklet,identity,cam\x1b[31m,frames"))
    assert "\x1b" not in str(error.value)
