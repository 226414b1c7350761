"""Checks of datasets, in Python and on the command line."""

import json

import pytest

pytest.importorskip("av", reason="PyAV decodes and encodes: pip install 'torch-nonlocal[video]'")
pytest.importorskip("PIL", reason="reads folders of frames")

from clip_files import broken_files, film, folder_of_frames

from torch_nonlocal.data.check import check_clips
from torch_nonlocal.data.clips import find_clips


def test_all_thirty_broken_files_are_reported(tmp_path):
    for number in range(4):
        film(tmp_path / f"a/{number}.mp4", number)
        film(tmp_path / f"b/{number}.mp4", 10 + number, frames=20, width=96)
    broken = {str(path) for path in broken_files(tmp_path / "b/broken")}
    done = []
    report = check_clips(find_clips(tmp_path), workers=2, progress=lambda: done.append(1))
    assert len(done) == len(report.clips) == 38
    assert {clip.path for clip in report.broken} == broken
    assert all(clip.path in clip.reason for clip in report.broken)
    assert report.counts() == {"a": 4, "b": 4}
    assert report.balance() == 1
    assert report.sizes() == {"64 x 48": 4, "96 x 48": 4}
    assert report.frames() == (12, 16, 20)
    assert report.seconds() == pytest.approx((12 / 25, 16 / 25, 20 / 25))
    kinds = {clip.kind for clip in report.broken}
    assert kinds == {"empty", "not a video", "damaged", "audio only", "too short", "missing"}


def test_copies_are_found_within_and_across_classes(tmp_path):
    film(tmp_path / "a/1.mp4", 1)
    film(tmp_path / "a/2.mp4", 2)
    (tmp_path / "b").mkdir()
    (tmp_path / "a/copy.mp4").write_bytes((tmp_path / "a/1.mp4").read_bytes())
    (tmp_path / "b/other.mp4").write_bytes((tmp_path / "a/2.mp4").read_bytes())
    folder_of_frames(tmp_path / "b/frames")
    folder_of_frames(tmp_path / "b/same frames")
    report = check_clips(find_clips(tmp_path))
    assert not report.broken
    names = [[clip.path.removeprefix(f"{tmp_path}/") for clip in group] for group in report.duplicates]
    assert names == [["a/1.mp4", "a/copy.mp4"], ["a/2.mp4", "b/other.mp4"], ["b/frames", "b/same frames"]]
    assert len(report.contradictions) == 1
    assert report.balance() == 1


def test_clips_below_the_minimum_of_frames_are_too_short(tmp_path):
    film(tmp_path / "a/1.mp4", 1, frames=12)
    film(tmp_path / "a/2.mp4", 2, frames=20)
    report = check_clips(find_clips(tmp_path), min_frames=16)
    assert [(clip.kind, clip.frames) for clip in report.broken] == [("too short", 12)]
    assert report.counts() == {"a": 1}


def test_a_dataset_of_broken_clips_has_a_summary(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.mp4").touch()
    report = check_clips(find_clips(tmp_path))
    assert (report.balance(), report.sizes(), report.seconds(), report.frames()) == (0, {}, None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers: got -1"),
        ({"min_frames": 0}, "min_frames: got 0"),
        ({"time_limit": 0}, "time_limit: got 0, expected more than 0 seconds"),
    ],
)
def test_numbers_out_of_range_raise(tmp_path, options, message):
    film(tmp_path / "a/1.mp4")
    with pytest.raises(ValueError, match=message):
        check_clips(find_clips(tmp_path), **options)


def test_the_command_prints_a_summary_and_exits_with_1_for_broken_clips(tmp_path, capsys):
    pytest.importorskip("tyro")
    pytest.importorskip("rich")
    from torch_nonlocal.cli.data import check

    root = tmp_path / "clips"
    film(root / "walk/1.mp4", 1)
    film(root / "run/1.mp4", 2)
    check(root)  # nothing wrong: no exit
    assert "2 clips of 2 classes, 2 good" in capsys.readouterr().out
    (root / "walk/2.mp4").write_text("words\n" * 50)
    (root / "sit").mkdir()
    with pytest.raises(SystemExit) as ended:
        check(root, json=tmp_path / "report.json")
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "not a video: " in printed
    assert str(root / "walk/2.mp4") in printed
    assert "problem: class 'sit' is empty" in printed
    assert "1 of 3 clips broken, 1 other problem\n" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["clips"], report["good"]) == (3, 2)
    assert [clip["kind"] for clip in report["broken"]] == ["not a video"]
    assert report["classes"] == {"run": 1, "sit": 0, "walk": 1}


def test_the_command_reports_a_missing_clip_with_its_line_and_possible_names(tmp_path, capsys):
    pytest.importorskip("tyro")
    pytest.importorskip("rich")
    from torch_nonlocal.cli.data import check

    film(tmp_path / "there.mp4")
    lines = "label,youtube_id,time_start,time_end\nrun,there,0,10\nrun,gone,5,15\n"
    (tmp_path / "kinetics_train.csv").write_text(lines)
    with pytest.raises(SystemExit):
        check(tmp_path, json=tmp_path / "report.json")
    expected = "kinetics_train.csv:3: no clip 'gone_000005_000015.*' or 'gone_5_15.*' or 'gone.*' below"
    printed = capsys.readouterr().out
    assert f"missing: {tmp_path}/{expected}" in printed
    assert "2 clips of 1 class, 1 good" in printed
    assert expected in json.loads((tmp_path / "report.json").read_text())["broken"][0]["reason"]


def test_the_command_reports_no_empty_class_if_every_line_is_invalid(tmp_path, capsys):
    pytest.importorskip("tyro")
    pytest.importorskip("rich")
    from torch_nonlocal.cli.data import check

    (tmp_path / "train.csv").write_text("".join(f"../{number}.mp4,{number}\n" for number in range(3)))
    with pytest.raises(SystemExit):
        check(tmp_path)
    printed = capsys.readouterr().out
    assert printed.count("problem: ") == printed.count("is outside") == 3
    assert "0 clips of 3 classes" in printed
    assert "is empty" not in printed


def test_the_command_parses_its_arguments(tmp_path):
    pytest.importorskip("tyro")
    from torch_nonlocal.cli import main

    film(tmp_path / "walk/1.mp4")
    main(["data", "check", str(tmp_path), "--min-frames", "5", "--json", str(tmp_path / "r.json")])
    assert json.loads((tmp_path / "r.json").read_text())["frames"] == [12, 12, 12]
