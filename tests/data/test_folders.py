"""Folders as strangers fill them: unreadable ones, links, names that are not UTF-8, and entries that are not files."""

import json
import os
import socket
import sys

import pytest

pytest.importorskip("av", reason="PyAV decodes and encodes: pip install 'torch-nonlocal[video]'")
pytest.importorskip("PIL", reason="reads folders of frames")

from clip_files import film, folder_of_frames, touch

from torch_nonlocal.data import BrokenClips, ClipDataset, check_clips, find_clips, split_clips, train_and_test
from torch_nonlocal.media import BrokenVideoError, TrainTransform
from torch_nonlocal.media.frame_folders import read_picture

linux = pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes")
links = pytest.mark.skipif(os.name == "nt", reason="links need a privilege")


def names(clips):
    return [(clips.name(clip), clips.classes[clip.label]) for clip in clips.clips]


@pytest.fixture
def deny(monkeypatch):
    """Make folders unreadable, also for the superuser, whom permissions do not stop."""
    denied, scandir, listdir = set(), os.scandir, os.listdir

    def checked(function):
        def call(path="."):
            if not isinstance(path, int) and os.fspath(path) in denied:  # shutil lists folders by descriptor
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return function(path)

        return call

    monkeypatch.setattr(os, "scandir", checked(scandir))
    monkeypatch.setattr(os, "listdir", checked(listdir))
    return lambda *folders: denied.update(str(folder) for folder in folders)


@pytest.mark.parametrize("layout", ["{}", "train/{}"])
@pytest.mark.parametrize("locked", ["walk", "walk/deep", "walk/deep/er"])
def test_an_unreadable_folder_is_named_or_raises(tmp_path, deny, layout, locked):
    place = lambda name: tmp_path / layout.format(name)  # noqa: E731
    touch(place("run/1.mp4"), place("walk/1.mp4"), place("walk/deep/2.mp4"), place("walk/deep/er/3.mp4"))
    if layout != "{}":
        touch(tmp_path / "test/run/9.mp4", tmp_path / "test/walk/9.mp4")
    split = None if layout == "{}" else "train"
    deny(place(locked))
    expected = f"the folder {str(place(locked))!r} cannot be read: Permission denied; its clips are not used"
    with pytest.raises(ValueError, match="cannot be read: Permission denied") as caught:
        find_clips(tmp_path, split)
    assert str(caught.value) == expected
    found = find_clips(tmp_path, split, on_error="skip")
    assert found.problems == (expected,)
    assert found.classes == ("run", "walk")
    assert len(found) == {"walk": 1, "walk/deep": 2, "walk/deep/er": 3}[locked]


def test_an_unreadable_split_is_not_replaced_by_another(tmp_path, deny):
    touch(*(tmp_path / f"{split}/{name}/1.mp4" for split in ("train", "test") for name in ("run", "walk")))
    deny(tmp_path / "train")
    with pytest.raises(ValueError, match=r"train' cannot be read: Permission denied"):
        train_and_test(tmp_path)
    with pytest.raises(ValueError, match=r"has no clips: .*train' cannot be read: Permission denied"):
        train_and_test(tmp_path, on_error="skip")


@pytest.mark.parametrize("on_error", ["skip", "fail"])
def test_an_unreadable_root_raises(tmp_path, deny, on_error):
    touch(tmp_path / "walk/1.mp4")
    deny(tmp_path)
    with pytest.raises(ValueError, match=r"the folder .* cannot be read: Permission denied"):
        find_clips(tmp_path, on_error=on_error)


def test_an_unreadable_folder_is_named_while_listed_clips_are_searched(tmp_path, deny):
    touch(tmp_path / "a/deep/1.mp4", tmp_path / "b/2.mp4")
    (tmp_path / "train.csv").write_text("1.mp4,run\n2.mp4,walk\n")
    deny(tmp_path / "a/deep")
    with pytest.raises(ValueError, match=r"deep' cannot be read"):
        find_clips(tmp_path)
    found = find_clips(tmp_path, on_error="skip")
    assert names(found) == [("1.mp4", "run"), ("b/2.mp4", "walk")]
    assert len(found.problems) == 1
    assert list(found.missing) == [tmp_path / "1.mp4"]


def test_a_folder_of_frames_that_becomes_unreadable_is_a_broken_clip(tmp_path, deny):
    folder_of_frames(tmp_path / "walk/frames")
    found = find_clips(tmp_path)
    deny(tmp_path / "walk/frames")
    (report,) = check_clips(found).clips
    assert (report.kind, report.reason.endswith("frames' cannot be read: Permission denied")) == ("unreadable", True)


@links
def test_links_that_leave_the_root_are_named_and_not_followed(tmp_path):
    root, outside = tmp_path / "data", tmp_path / "outside"
    touch(outside / "run/8.mp4", outside / "9.mp4", outside / "train.csv", outside / "notes.md", root / "walk/1.mp4")
    folder_of_frames(root / "walk/frames")
    folder_of_frames(outside / "frames")
    targets = {
        root / "run": outside / "run",
        root / "walk/9.mp4": outside / "9.mp4",
        root / "walk/far": outside / "frames",
        root / "train.csv": outside / "train.csv",
        root / "walk/frames/img_7.png": outside / "frames/img_1.png",
    }
    for link, target in targets.items():
        link.symlink_to(target)
    (root / "notes.md").symlink_to(outside / "notes.md")  # of no interest
    with pytest.raises(ValueError, match=r"the link '.*' leaves '.*data': it leads to '.*outside.*'"):
        find_clips(root)
    found = find_clips(root, on_error="skip")
    assert names(found) == [("walk/1.mp4", "walk")]  # nor a folder of frames without one of its frames
    assert {problem.split("'")[1] for problem in found.problems} == {str(link) for link in targets}
    assert len(found.problems) == len(targets)


@links
def test_listed_links_that_leave_the_root_are_named(tmp_path):
    touch(tmp_path / "data/1.mp4", tmp_path / "outside/2.mp4")
    (tmp_path / "data/2.mp4").symlink_to(tmp_path / "outside/2.mp4")
    (tmp_path / "data/far").symlink_to(tmp_path / "outside")
    (tmp_path / "data/train.csv").write_text("1.mp4,run\n2.mp4,walk\nfar/2.mp4,walk\n")
    found = find_clips(tmp_path / "data", on_error="skip")
    assert names(found) == [("1.mp4", "run")]
    lines = [problem for problem in found.problems if "train.csv:" in problem]
    assert len(lines) == 2
    assert all("is a link that leaves" in line and "outside/2.mp4" in line for line in lines)


@links
def test_links_inside_the_root_work_once(tmp_path):
    touch(tmp_path / "walk/1.mp4", tmp_path / "walk/deep/2.mp4", tmp_path / ".pool/3.mp4", tmp_path / ".more/4.mp4")
    (tmp_path / "walk/3.mp4").symlink_to(tmp_path / ".pool/3.mp4")
    (tmp_path / "walk/again.mp4").symlink_to("1.mp4")
    (tmp_path / "walk/pool").symlink_to("../.pool")  # holds 3.mp4 a second time
    (tmp_path / "walk/more").symlink_to("../.more")
    (tmp_path / "walk/more too").symlink_to("../.more")
    for name, target in {"up": "..", "self": ".", "round": "round", "top": str(tmp_path)}.items():
        (tmp_path / f"walk/deep/{name}").symlink_to(target)
    found = find_clips(tmp_path)
    assert found.problems == ()
    assert [name for name, _ in names(found)] == ["walk/1.mp4", "walk/3.mp4", "walk/deep/2.mp4", "walk/more/4.mp4"]


@links
def test_a_link_to_a_clip_of_another_class_is_a_problem_and_the_clip_keeps_its_class(tmp_path):
    touch(tmp_path / "b/1.mp4", tmp_path / "b/2.mp4", tmp_path / "c/3.mp4")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "c/1.mp4").symlink_to("../b/1.mp4")
    with pytest.raises(ValueError, match="is a link to a clip of another class"):
        find_clips(tmp_path)
    found = find_clips(tmp_path, on_error="skip")
    assert names(found) == [("b/1.mp4", "b"), ("b/2.mp4", "b"), ("c/3.mp4", "c")]
    assert len(found.problems) == 3


@links
def test_the_root_may_be_a_link(tmp_path):
    touch(tmp_path / "real/walk/1.mp4")
    (tmp_path / "link").symlink_to("real")
    assert names(find_clips(tmp_path / "link")) == [("walk/1.mp4", "walk")]


@linux
def test_names_that_are_not_utf8_work_and_are_written_as_escapes(tmp_path, capsys):
    pytest.importorskip("tyro")
    from torch_nonlocal.cli.data import check

    root, bad = tmp_path / "data", os.fsdecode(b"caf\xe9")
    for name, seed in ((f"{bad}/{bad} 1.mp4", 1), (f"{bad}/2.mp4", 2), ("walk/1.mp4", 3), ("walk/2.mp4", 4)):
        film(root / name, seed)
    folder_of_frames(root / bad / bad / bad)
    (root / bad / f"{bad}.mp4").write_bytes(b"no video")
    (root / bad / bad / f"{bad}\x1b[31m.mp4").symlink_to(tmp_path)
    found = find_clips(root, on_error="skip")
    assert found.classes == (r"caf\udce9", "walk")
    assert (r"caf\udce9/caf\udce9 1.mp4", r"caf\udce9") in names(found)
    assert sum(map(len, split_clips(found))) == len(found) == 6
    data = ClipDataset(found, (2, 1), TrainTransform(crop=32), broken=BrokenClips(tmp_path / "broken.jsonl"))
    assert len({data[index][2] for index in range(6)}) == 5
    assert [entry.kind for entry in data.broken.entries()] == ["not a video"]
    with pytest.raises(SystemExit):
        check(root, json=tmp_path / "report.json")
    capsys.readouterr().out.encode("utf-8")
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert [clip["path"] for clip in report["broken"]] == [str(root / bad / f"{bad}.mp4")]
    assert report["good"] == 5
    assert len(report["problems"]) == 1
    assert r"caf\udce9\x1b[31m.mp4' leaves" in report["problems"][0]


@linux
@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
def test_entries_that_are_not_files_are_named_and_never_opened(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    folder_of_frames(tmp_path / "walk/frames")
    film(tmp_path / "walk/good.mp4")
    for name in ("walk/frames/img_3.png", "walk/1.mp4", "walk/train.csv"):
        (tmp_path / name).unlink(missing_ok=True)
        if kind == "FIFO":
            os.mkfifo(name)
        elif kind == "socket":
            socket.socket(socket.AF_UNIX).bind(name)
        else:
            (tmp_path / name).symlink_to("/dev/zero")
    found = find_clips(tmp_path, on_error="skip")
    with pytest.raises(BrokenVideoError, match=rf"img_3\.png' is a {kind}: it is not a regular file"):
        read_picture("walk/frames/img_3.png")
    good = {"walk/good.mp4"}
    if kind == "device":  # outside of the root
        assert {name for name, _ in names(found)} == good
        assert len(found.problems) == 3
        return
    report = check_clips(found)
    assert {os.path.relpath(clip.path, tmp_path) for clip in report.good} == good
    assert all(f"is a {kind}: it is not a regular file" in clip.reason for clip in report.broken)
    assert len(report.broken) == 2
    with pytest.raises(BrokenVideoError, match=f"is a {kind}"):
        ClipDataset(found, (2, 1), TrainTransform(crop=32), on_error="fail")[0]


@linux
def test_a_root_that_is_neither_a_folder_nor_a_file_raises(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe' is neither a folder nor a regular file"):
        find_clips(tmp_path / "pipe")


@linux
def test_a_file_of_holes_is_a_broken_clip_and_is_not_hashed(tmp_path):
    for name in ("walk/1.mp4", "walk/2.mpg", "walk/3.ts", "walk/frames/img_1.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(2**40)
            file.write(b"start")
    report = check_clips(find_clips(tmp_path), workers=1)
    assert {clip.kind for clip in report.broken} == {"damaged"}
    assert all(clip.reason.endswith("of 1,048,576 MB, the rest are holes") for clip in report.broken)
    assert len(report.broken) == 4
