"""Faults of identities, cameras and parts: the check reports what training or a test refuses, and accepts the rest."""

import unicodedata
from pathlib import Path

import pytest
import torch
from miniatures import dukemtmc_video, ilids_vid, mars, matlab, picture, polar_bears, table

from torch_nonlocal.data.tracklets.check import check_tracklets
from torch_nonlocal.data.tracklets.faults import doubtful, lines_of, unusable
from torch_nonlocal.data.tracklets.find import find_tracklets
from torch_nonlocal.data.tracklets.splits import faults_of_splits
from torch_nonlocal.data.tracklets.tracklet import Problem, Tracklet, TrackletData, camera_numbers
from torch_nonlocal.media import write_mp4

BOXES = "tracklet,identity,camera,video,frame,left,top,width,height"


def tracklets(*rows: str) -> tuple[Tracklet, ...]:
    """Tracklets of "identity/camera" or "identity/camera/role"."""
    found = []
    for number, row in enumerate(rows):
        identity, camera, role = (*row.split("/"), "person")[:3]
        found.append(Tracklet(f"t{number}", identity, camera, 1, Path(), (f"{number}.png",), role=role))  # pyright: ignore
    return tuple(found)


def kinds(found) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for one in found]


GOOD = tracklets("a/1", "a/2", "b/1", "b/2")
TEST = tracklets("c/1", "c/2")
WHERE = Path()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (TrackletData("x", WHERE), [("empty set", "x")]),
        (TrackletData("x", WHERE, GOOD, TEST[:1], TEST[1:]), []),
        (TrackletData("x", WHERE, GOOD), []),
        (TrackletData("x", WHERE, (), TEST[:1], TEST[1:]), []),
        (TrackletData("x", WHERE, GOOD[:2], TEST[:1], TEST[1:]), [("too few identities", "train")]),
        (TrackletData("x", WHERE, tracklets("a/1", "b/1/junk")), [("too few identities", "train")]),
        (TrackletData("x", WHERE, (), TEST[:1], TEST[1:], splits=10), [("too few identities", "train")]),
        (TrackletData("x", WHERE, GOOD, TEST[:1]), [("no match", "x")]),
        (TrackletData("x", WHERE, GOOD, tracklets("c/1"), tracklets("c/2/junk")), [("no match", "x")]),
        (TrackletData("x", WHERE, GOOD, tracklets("c/1"), tracklets("c/1", "d/2")), [("no match", "x")]),
        (TrackletData("x", WHERE, GOOD, tracklets("c/1"), tracklets("c/1", "d/1")), []),  # one camera: each its own
        (TrackletData("x", WHERE, GOOD, TEST[:1], TEST[:1], (0,)), [("no match", "x")]),  # only itself
        (TrackletData("x", WHERE, GOOD, TEST, TEST, (0, 1)), []),
        (
            TrackletData("x", WHERE, GOOD, tracklets("c/1", "d/1/junk"), tracklets("c/2")),
            [("wrong query", "t1")],
        ),
    ],
)
def test_what_training_or_a_test_refuses_is_a_problem(data: TrackletData, expected: list):
    assert kinds(unusable(data)) == expected


def test_problems_are_listed_by_kind_with_the_number_of_those_that_are_not_shown():
    problems = [Problem("a", str(number), "x") for number in range(5)] + [Problem("b", "y", "z")]
    assert lines_of(problems, most=2) == ["a: 0: x", "a: 1: x", "a: and 3 more", "b: y: z"]
    assert lines_of(problems[:2], most=2) == ["a: 0: x", "a: 1: x"]


def test_a_set_without_one_of_its_parts_is_reported():
    assert kinds(doubtful(TrackletData("x", WHERE, GOOD))) == [("no test data", "x")]
    assert kinds(doubtful(TrackletData("x", WHERE, (), TEST, TEST, (0, 1)))) == [("no training data", "x")]


@pytest.mark.parametrize(
    ("names", "similar"),
    [
        (("1", "001"), True),
        (("1", "1.0"), True),
        (("Anna", "anna "), True),
        (("anna_m", "Anna  M"), True),
        (("Zoë", unicodedata.normalize("NFD", "Zoë")), True),
        (("person1", "person01"), True),
        (("1", "10"), False),
        (("anna", "annab"), False),
        (("1.5", "1.05"), False),
        (("0", "00"), True),
        (("0", "o"), False),
    ],
)
def test_names_that_differ_in_spelling_only_are_reported(names: tuple[str, str], similar: bool):
    data = TrackletData(
        "x", WHERE, tracklets(f"{names[0]}/1", f"{names[0]}/2"), *[tracklets(f"{names[1]}/1", "c/2")] * 2
    )
    found = [one for one in doubtful(data) if one.kind == "similar identities"]
    assert [one.name for one in found] == ([min(names)] if similar else [])
    assert all(max(names) in one.reason for one in found)


def test_cameras_of_nearly_the_same_name_are_reported():
    data = TrackletData("x", WHERE, tracklets("a/Cam1", "a/cam1", "b/cam1"))
    assert ("similar cameras", "Cam1") in kinds(doubtful(data))
    own = TrackletData("x", WHERE, tracklets("a/a_1", "a/a_01"))  # tracklets as cameras of their own
    assert kinds(doubtful(own)) == [("no test data", "x")]


def test_tracklets_of_a_single_camera_have_numbers_of_their_own():
    assert camera_numbers(tracklets("a/1", "a/1", "b/1")) == [0, 1, 2]
    assert camera_numbers(tracklets("a/2", "a/1", "b/2")) == [1, 0, 1]


def test_a_table_of_one_camera_has_queries_and_passes_the_check(tmp_path: Path):
    for number in range(6):
        picture(tmp_path / f"{number}.png", number)
    rows = [
        (number, "abccdd"[number], "door", f"{number}.png", "train" if number < 2 else "test") for number in range(6)
    ]
    data = find_tracklets(table(tmp_path / "set.csv", rows, "tracklet,identity,camera,frames,split"))
    assert data.query_index == (0, 2)
    report = check_tracklets(data, workers=1)
    assert report.problems == ()
    assert kinds(report.remarks) == [("one camera", "table")] * 2
    assert report.remarks[0].reason == "all training tracklets are of camera door: there are no pairs across cameras"
    assert report.remarks[1].reason == "all test tracklets are of camera door: each counts as a camera of its own"


def test_queries_that_are_no_persons_are_refused(tmp_path: Path):
    root = mars(tmp_path / "mars")
    matlab(root / "info/query_IDX.mat", query_IDX=[[3, 1]])
    with pytest.raises(ValueError, match=r"query_IDX.mat' has the query 00-1C1T0001, which is junk: expected persons"):
        find_tracklets(root)
    picture(tmp_path / "1.png", 1)
    rows = [("t1", "ann", 1, "1.png", "query", "Junk"), ("t2", "ann", 2, "1.png", "gallery", "junk")]
    data = find_tracklets(table(tmp_path / "set.csv", rows, "tracklet,identity,camera,frames,split,role"))
    assert [(one.name, one.reason) for one in data.problems] == [
        ("t1", "line 2: the role of a query is junk, expected person")
    ]


def test_queries_without_a_gallery_and_halves_of_three_persons_are_problems(tmp_path: Path):
    root = dukemtmc_video(tmp_path / "duke")
    for file in (root / "gallery").rglob("*.jpg"):
        file.unlink()
    report = check_tracklets(find_tracklets(root), workers=1)
    assert ("no match", "dukemtmc-video") in kinds(report.problems)
    three = check_tracklets(find_tracklets(ilids_vid(tmp_path / "ilids", persons=3)), workers=1)
    assert kinds(three.problems) == [("too few identities", "train")]
    assert "the training data have 1 identity, expected 2 or more" in three.problems[0].reason


def test_faults_of_the_other_splits_are_found_and_named(tmp_path: Path):
    root = ilids_vid(tmp_path / "ilids", splits=[[1, 2, 3, 4], [1, 1, 2, 3], [4, 3, 2, 1]])
    found = faults_of_splits(root, "auto", range(1, 3), find_tracklets(root))
    assert kinds(found) == [("damaged split", "split 1")]
    assert "split 1 has 4 persons from 1 to 3, expected 1 to 4" in found[0].reason
    bears = polar_bears(tmp_path / "bears")
    for fold in (2, 4):
        table(bears / f"track_fold_info_{fold}.csv", [(0, 1, 77), (1, 1, 0)], "id,cam,tracklet")
    found = faults_of_splits(bears, "auto", range(1, 5), find_tracklets(bears))
    assert [(one.kind, one.reason) for one in found] == [
        ("empty tracklet", "animal 0 has no tracklet 77 (split 1)"),
        ("no match", "there are no queries: expected an identity in two cameras (split 1, 3)"),
        ("empty tracklet", "animal 0 has no tracklet 77 (split 3)"),
    ]


def test_boxes_and_videos_of_two_identities_are_the_same_picture(tmp_path: Path):
    for name, value in (("v", 60), ("w", 120), ("copy", 120)):
        write_mp4(tmp_path / f"{name}.mp4", torch.full((4, 32, 32, 3), value, dtype=torch.uint8), 25)
    rows = [("t1", "ann", 1, "v.mp4", 2, 0, 0, 9, 9), ("t2", "bob", 2, "v.mp4", 2, 0, 0, 9, 9)]
    rows += [("t3", "cy", 2, "v.mp4", 2, 1, 0, 9, 9), ("t4", "cy", 1, "w.mp4", *[""] * 5)]
    rows += [("t5", "dee", 1, "copy.mp4", *[""] * 5)]
    report = check_tracklets(find_tracklets(table(tmp_path / "set.csv", rows, BOXES)), workers=1)
    found = [(one.name, one.reason) for one in report.problems if one.kind == "same picture"]
    assert found == [
        ("gallery/t2", "the box in frame 2 of v.mp4 of identity bob is also in gallery/t1 of identity ann"),
        ("gallery/t5", "copy.mp4 of identity dee is also in gallery/t4 of identity cy"),
    ]
