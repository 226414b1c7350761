"""The check of a set of tracklets: what is a problem, what is only reported, and the command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from miniatures import ilids_vid, mars, picture, polar_bears, table

from torch_nonlocal.cli import main
from torch_nonlocal.data.tracklets.check import TrackletCheck, check_tracklets, files_to_read
from torch_nonlocal.data.tracklets.find import find_tracklets
from torch_nonlocal.data.tracklets.tracklet import Problem, TrackletData
from torch_nonlocal.media import write_mp4


def checked(root: Path) -> TrackletCheck:
    return check_tracklets(find_tracklets(root), workers=1)


def brief(found: tuple[Problem, ...]) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for one in found]


def test_a_good_set_is_counted(tmp_path: Path):
    report = checked(mars(tmp_path))
    assert (report.layout, report.problems, report.remarks) == ("mars", (), ())
    assert report.parts["train"] == (3, 2, 6, 27, (4, 4.5, 5), 0, 0)
    assert report.parts["query"] == (3, 2, 6, 27, (4, 4.5, 5), 0, 0)
    assert report.parts["gallery"] == (3, 2, 8, 36, (4, 4.5, 5), 1, 1)


def test_broken_frames_are_counted_by_tracklet_and_the_queries_are_read_once(tmp_path: Path):
    root = mars(tmp_path)
    (root / "bbox_test/0004/0004C1T0001F002.jpg").write_bytes(b"")
    half = root / "bbox_train/0001/0001C1T0001F003.jpg"
    half.write_bytes(half.read_bytes()[:200])
    read = []
    data = find_tracklets(root)
    report = check_tracklets(data, workers=2, progress=lambda: read.append(1))
    assert brief(report.problems) == [("broken frame", "train/0001C1T0001"), ("broken frame", "gallery/0004C1T0001")]
    assert "1 of 4 frames: " in report.problems[0].reason
    assert "0001C1T0001F003.jpg" in report.problems[0].reason
    assert len(read) == files_to_read(data) == 14


def test_identities_in_training_and_test_are_a_problem(tmp_path: Path):
    root = mars(tmp_path, info=False)
    shutil.copytree(root / "bbox_train/0002", root / "bbox_test/0002")
    assert brief(checked(root).problems) == [("shared identity", "0002")]


def test_published_folds_of_polar_bears_share_their_animals(tmp_path: Path):
    assert brief(checked(polar_bears(tmp_path)).problems) == []


def test_identities_of_one_camera_are_reported(tmp_path: Path):
    root = mars(tmp_path, info=False)
    shutil.rmtree(root / "bbox_train/0001")
    picture(root / "bbox_train/0001/0001C1T0001F001.jpg", 1)
    picture(root / "bbox_train/0001/0001C1T0001F002.jpg", 1)
    for file in root.glob("bbox_test/0005/0005C2*"):
        file.unlink()
    report = checked(root)
    assert report.problems == ()
    assert brief(report.remarks) == [("one camera", "0001"), ("one camera", "0005")]
    assert "training data show it in camera 1 only" in report.remarks[0].reason
    assert "its queries have no match" in report.remarks[1].reason


def test_a_test_without_any_match_is_a_problem(tmp_path: Path):
    root = mars(tmp_path, cameras=(3,), info=False)
    assert brief(checked(root).problems) == [("no match", "mars")]
    empty = TrackletData("mars", tmp_path)
    assert brief(check_tracklets(empty).problems) == [("empty set", "mars")]


def test_the_same_picture_under_two_identities_is_a_problem(tmp_path: Path):
    root = mars(tmp_path)
    shutil.copy(root / "bbox_train/0001/0001C1T0001F001.jpg", root / "bbox_test/0005/0005C2T0001F005.jpg")
    report = checked(root)
    assert brief(report.problems) == [("same picture", "gallery/0005C2T0001")]
    expected = "0005C2T0001F005.jpg of identity 0005 is also in train/0001C1T0001 of identity 0001"
    assert report.problems[0].reason == expected


def test_single_frames_and_sizes_that_differ_are_reported(tmp_path: Path):
    root = mars(tmp_path)
    picture(root / "bbox_train/0002/0002C1T0001F002.jpg", 2, size=(20, 9))
    for file in sorted(root.glob("bbox_test/0006/0006C1*"))[1:]:
        file.unlink()
    report = checked(root)
    assert brief(report.problems) == [("missing frame", "0006C1T0001")]
    assert brief(report.remarks) == [("one frame", "gallery/0006C1T0001"), ("different sizes", "train/0002C1T0001")]
    assert "8 x 16 (3), 9 x 20 (1)" in report.remarks[1].reason


def test_tracklets_of_one_name_are_a_problem(tmp_path: Path):
    data = find_tracklets(mars(tmp_path))
    twice = replace(data, train=(*data.train, data.train[0]))
    assert brief(check_tracklets(twice).problems) == [("duplicate tracklet", "train/0001C1T0001")]


def test_boxes_are_compared_with_the_frames_of_their_video(tmp_path: Path):
    write_mp4(tmp_path / "v.mp4", torch.zeros(4, 32, 32, 3, dtype=torch.uint8), 25)
    (tmp_path / "w.mp4").write_bytes(b"x" * 100)
    boxes = {"good": (3, -4, 0, 9, 9), "late": (4, 0, 0, 9, 9), "left": (0, -9, 0, 9, 9), "below": (0, 0, 32, 9, 9)}
    rows = [(name, "ann", f"c{at}", "v.mp4", *box) for at, (name, box) in enumerate(boxes.items())]
    rows += [("broken", "ann", "c9", "w.mp4", 0, 0, 0, 9, 9)]
    header = "tracklet,identity,camera,video,frame,left,top,width,height"
    report = checked(table(tmp_path / "set.csv", rows, header))
    assert brief(report.problems) == [
        ("wrong box", "gallery/late"),
        ("wrong box", "gallery/left"),
        ("wrong box", "gallery/below"),
        ("broken video", "gallery/broken"),
    ]
    assert "has 4 frames" in report.problems[0].reason


@pytest.mark.parametrize(("option", "value"), [("workers", 0), ("time_limit", 0.0)])
def test_options_are_checked(tmp_path: Path, option: str, value: float):
    with pytest.raises(ValueError, match=option):
        check_tracklets(TrackletData("mars", tmp_path), **{option: value})


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["data", "check", *map(str, arguments)])
    return end.value.code if isinstance(end.value.code, int) else 1


def test_the_command_prints_the_report_and_fails_for_problems(tmp_path: Path, capsys):
    root = mars(tmp_path / "mars")
    main(["data", "check", str(root), "--task", "reid"])
    shown = capsys.readouterr().out
    assert "layout mars" in shown
    assert "gallery: 1 junk tracklet, 1 tracklet of distractors" in shown
    (root / "bbox_test/0004/0004C1T0001F002.jpg").unlink()
    assert run(root, "--task", "reid", "--json", tmp_path / "report.json", "--workers", 1) == 1
    assert "problem: missing frame: 0004C1T0001: 1 of 4 frames missing" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["problems"][0]["kind"] == "missing frame"
    assert report["parts"]["train"]["tracklets"] == 6


def test_the_command_checks_all_splits_and_the_default_batch_of_training(tmp_path: Path, capsys):
    root = ilids_vid(tmp_path / "small", splits=[[1, 2, 3, 4], [1, 1, 2, 3]])
    assert run(root, "--task", "reid", "--json", tmp_path / "report.json") == 1
    shown = capsys.readouterr().out
    assert "problem: damaged split: split 1: " in shown
    expected = "a batch has 8 identities, the training data have 2; expected batch_size=8 or less"
    assert "remark: few identities: train: nonlocal train reid refuses its default batch size: " in shown
    assert expected in shown
    assert [one["kind"] for one in json.loads((tmp_path / "report.json").read_text())["remarks"]] == ["few identities"]
    main(["data", "check", str(root), "--task", "reid", "--split", "0"])
    assert "problem" not in capsys.readouterr().out
    main(["data", "check", str(ilids_vid(tmp_path / "large", persons=16, frames=1)), "--task", "reid"])
    assert "few identities" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "train"], "--split train: expected the number of a split"),
        (["--split", "1"], "split: got 1, expected 0 to 0"),
        (["--layout", "marz"], "did you mean 'mars'"),
        (["--prefix", "x"], "--prefix has no meaning for --task reid"),
    ],
)
def test_the_command_refuses_options_that_do_not_fit(tmp_path: Path, capsys, options: list[str], message: str):
    root = mars(tmp_path, train=1, test=1)
    assert run(root, "--task", "reid", *options) != 0
    assert message in capsys.readouterr().err


def test_the_layout_is_refused_for_action_recognition(tmp_path: Path, capsys):
    assert run(tmp_path, "--layout", "mars") != 0
    assert "--layout has no meaning for --task action" in capsys.readouterr().err
