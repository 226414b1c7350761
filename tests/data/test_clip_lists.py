"""Clips of a dataset from folders and from lists."""

import json
from pathlib import Path

import pytest

pytest.importorskip("av", reason="the helper writes clips: pip install 'torch-nonlocal[video]'")
pytest.importorskip("PIL")

from clip_files import folder_of_frames, touch

from torch_nonlocal.data.clips import available_splits, find_clips, train_and_test


def named(clips) -> list[tuple[str, str]]:
    """(path relative to the root, class) of each clip, in order."""
    return [(clips.name(clip), clips.classes[clip.label]) for clip in clips.clips]


def test_folders_of_classes_are_sorted(tmp_path):
    touch(tmp_path / "walk/b.mp4", tmp_path / "walk/a.AVI", tmp_path / "run/deep/er/c.webm", tmp_path / "run/notes.txt")
    touch(tmp_path / "walk/.hidden.mp4", tmp_path / "README.md", tmp_path / ".cache/x.mp4")
    assert named(find_clips(tmp_path)) == [
        ("run/deep/er/c.webm", "run"),
        ("walk/a.AVI", "walk"),
        ("walk/b.mp4", "walk"),
    ]
    assert find_clips(tmp_path).classes == ("run", "walk")
    assert find_clips(tmp_path).counts() == (1, 2)
    assert available_splits(tmp_path) == ()


def test_splits_are_folders_and_share_their_classes(tmp_path):
    touch(tmp_path / "train/a/1.mp4", tmp_path / "train/b/2.mp4", tmp_path / "train/c/3.mp4", tmp_path / "val/c/4.mp4")
    assert available_splits(tmp_path) == ("train", "val")
    assert named(find_clips(tmp_path, "val")) == [("val/c/4.mp4", "c")]
    assert named(find_clips(tmp_path, "test")) == [("val/c/4.mp4", "c")]  # the one held out that there is
    assert len(find_clips(tmp_path)) == 4
    train, test = train_and_test(tmp_path)
    assert train.classes == test.classes == ("a", "b", "c")
    assert (len(train), len(test)) == (3, 1)


def test_a_class_named_train_is_not_a_split(tmp_path):
    touch(tmp_path / "train/1.mp4", tmp_path / "bus/2.mp4")
    folder_of_frames(tmp_path / "test/clip")
    assert find_clips(tmp_path).classes == ("bus", "test", "train")


def test_a_folder_of_numbered_images_is_a_clip(tmp_path):
    folder_of_frames(tmp_path / "walk/person1")
    touch(tmp_path / "run/a.mp4", tmp_path / "run/thumbnail1.jpg")
    assert named(find_clips(tmp_path)) == [("run/a.mp4", "run"), ("walk/person1", "walk")]


def test_a_link_to_a_parent_folder_is_not_followed(tmp_path):
    touch(tmp_path / "walk/a.mp4", tmp_path / "walk/deep/b.mp4")
    (tmp_path / "walk/deep/loop").symlink_to(tmp_path / "walk")
    assert len(find_clips(tmp_path)) == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["walk/a.mp4", "run/notes.txt"], r"class 'run' is empty: no clip in .*run"),
        (
            ["walk/a.mp4", "run/1.jpg", "run/2.jpg"],
            r"class 'run' is empty.*it has 2 images: expected one folder of frames per clip",
        ),
        (["a.mp4", "b.mp4"], r"2 clips but no folders of classes: expected ROOT/CLASS/clip.mp4"),
        (["notes.txt"], r"no clips: expected ROOT/CLASS/clip.mp4"),
    ],
)
def test_folders_without_clips_raise(tmp_path, files, message):
    touch(*(tmp_path / file for file in files))
    with pytest.raises(ValueError, match=message):
        find_clips(tmp_path)


def test_missing_folders_and_splits_and_unknown_options_raise(tmp_path):
    touch(tmp_path / "walk/a.mp4")
    with pytest.raises(ValueError, match=r"no folder or list of clips .*nowhere"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no split 'test': it has no splits; omit the split"):
        find_clips(tmp_path, "test")
    with pytest.raises(ValueError, match="got 'dev', expected 'train', 'val', 'test'"):
        find_clips(tmp_path, "dev")
    with pytest.raises(ValueError, match="on_error: got 'ignore'"):
        find_clips(tmp_path, on_error="ignore")


def test_skipped_problems_are_reported_and_labels_kept(tmp_path):
    touch(tmp_path / "b/x.mp4")
    (tmp_path / "a").mkdir()
    clips = find_clips(tmp_path, on_error="skip")
    assert named(clips) == [("b/x.mp4", "b")]
    assert clips.classes == ("a", "b")
    assert len(clips.problems) == 1
    assert "class 'a' is empty" in clips.problems[0]


def test_kinetics_lists(tmp_path):
    touch(tmp_path / "videos/-abc_000003_000013.mp4", tmp_path / "train/dancing/xy-_d.mkv", tmp_path / "val/zz.mp4")
    (tmp_path / "kinetics400_train.csv").write_text(
        'label,youtube_id,time_start,time_end,split\n"dancing, slowly",-abc,3,13,train\nskiing,xy-_d,0,10,train\n'
        "skiing,gone,5,15,train\nskiing,zz,1,2,val\n"
    )
    (tmp_path / "kinetics400_val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nskiing,zz,10,20,validate\n"
    )
    assert named(find_clips(tmp_path, "train")) == [
        ("videos/-abc_000003_000013.mp4", "dancing, slowly"),
        ("train/dancing/xy-_d.mkv", "skiing"),
        ("gone_000005_000015", "skiing"),  # missing files are reported when they are read
    ]
    val = find_clips(tmp_path, "val")
    assert named(val) == [("val/zz.mp4", "skiing")]
    assert val.classes == ("dancing, slowly", "skiing")


def ucf101(root: Path, train: str, test: str = "Archery/v_Archery_g01_c01.avi\n") -> Path:
    touch(root / "UCF-101/Archery/v_Archery_g01_c01.avi", root / "UCF-101/Archery/v_Archery_g08_c01.avi")
    touch(root / "UCF-101/YoYo/v_YoYo_g08_c01.avi")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\r\n2 YoYo\r\n")
    (lists / "trainlist01.txt").write_text(train)
    (lists / "testlist01.txt").write_text(test)
    return root


def test_ucf101_lists(tmp_path):
    root = ucf101(tmp_path, "YoYo/v_YoYo_g08_c01.avi 2\r\nArchery/v_Archery_g08_c01.avi 1\r\n")
    assert named(find_clips(root, "train")) == [
        ("UCF-101/YoYo/v_YoYo_g08_c01.avi", "YoYo"),
        ("UCF-101/Archery/v_Archery_g08_c01.avi", "Archery"),
    ]
    assert named(find_clips(root, "test")) == [("UCF-101/Archery/v_Archery_g01_c01.avi", "Archery")]
    with pytest.raises(ValueError, match=r"no trainlist02.txt"):
        find_clips(root, fold=2)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("YoYo/a.avi 2\nArchery/b.avi 3\n", r"trainlist01.txt:2: label 3 is out of range: expected 1 to 2"),
        ("YoYo/a.avi 0\n", r"trainlist01.txt:1: label 0 is out of range"),
        ("YoYo/a.avi 1\n", r"trainlist01.txt:1: label 1 is 'Archery', but the path starts with 'YoYo'"),
        ("YoYo/a.avi 2\n", r"class 'Archery' \(number 0\) of .*classInd.txt' is empty"),
        ("../../YoYo/a.avi 2\n", r"trainlist01.txt:1: '../../YoYo/a.avi' is outside"),
    ],
)
def test_invalid_ucf101_lists_raise_with_file_and_line(tmp_path, train, message):
    root = ucf101(tmp_path, train)
    with pytest.raises(ValueError, match=message):
        find_clips(root, "train")
    assert len(find_clips(root, "train", on_error="skip").problems) > 0


def test_hmdb51_lists(tmp_path):
    touch(*(tmp_path / "hmdb51" / name for name in ("cart/a.avi", "cart/b.avi", "cart/c.avi", "kick/a.avi")))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/cart_test_split1.txt").write_text("a.avi 1 \nb.avi 2 \nc.avi 0 \n")
    (tmp_path / "splits/kick_test_split1.txt").write_text("a.avi 1 \n")
    assert named(find_clips(tmp_path, "train")) == [("hmdb51/cart/a.avi", "cart"), ("hmdb51/kick/a.avi", "kick")]
    assert named(find_clips(tmp_path, "test")) == [("hmdb51/cart/b.avi", "cart")]
    (tmp_path / "splits/kick_test_split1.txt").write_text("a.avi 3\n")
    with pytest.raises(ValueError, match=r"kick_test_split1.txt:1: got 'a.avi 3', expected a file and 0, 1 or 2"):
        find_clips(tmp_path, "train")


def test_something_something_lists(tmp_path):
    touch(tmp_path / "20bn/74225.webm")
    folder_of_frames(tmp_path / "frames/100")
    labels = {"Pushing something": "0", "Dropping something": "1"}
    (tmp_path / "something-something-v2-labels.json").write_text(json.dumps(labels))
    rows = [
        {"id": "74225", "label": "dropping a pen", "template": "Dropping [something]"},
        {"id": "100", "label": "pushing a cup", "template": "Pushing [something]"},
    ]
    (tmp_path / "something-something-v2-train.json").write_text(json.dumps(rows))
    assert named(find_clips(tmp_path, "train")) == [
        ("20bn/74225.webm", "Dropping something"),
        ("frames/100", "Pushing something"),
    ]
    assert find_clips(tmp_path, "train").classes == ("Pushing something", "Dropping something")


def test_something_something_lists_of_the_first_version(tmp_path):
    folder_of_frames(tmp_path / "7")
    folder_of_frames(tmp_path / "8")
    (tmp_path / "something-something-v1-labels.csv").write_text("Turning, then letting go\nPushing\n")
    (tmp_path / "something-something-v1-train.csv").write_text("7;Pushing\n8;Turning, then letting go\n")
    assert named(find_clips(tmp_path, "train")) == [("7", "Pushing"), ("8", "Turning, then letting go")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.txt", "a/1.mp4 0\nwith blank/2.mp4 1\n"),
        ("train.csv", "a/1.mp4,0\nwith blank/2.mp4,1\n"),
        ("train.csv", "label,path\n0,a/1.mp4\n1,with blank/2.mp4\n"),
        ("train_list.txt", "# ours\n\na/1.mp4\t0\nwith blank/2.mp4\t1\n"),
        ("train.csv", "\ufeffpath;label\na/1.mp4;0\nwith blank\\2.mp4;1\n"),
    ],
)
def test_plain_lists(tmp_path, name, text):
    touch(tmp_path / "a/1.mp4", tmp_path / "with blank/2.mp4")
    (tmp_path / name).write_text(text, "utf-8")
    expected = [("a/1.mp4", "0"), ("with blank/2.mp4", "1")]
    assert named(find_clips(tmp_path, "train")) == named(find_clips(tmp_path / name)) == expected


def test_classes_of_a_plain_list_come_from_a_class_file_or_the_training_clips(tmp_path):
    touch(*(tmp_path / f"{number}.mp4" for number in range(3)))
    (tmp_path / "train.txt").write_text("0.mp4 walk\n1.mp4 run\n")
    (tmp_path / "val.txt").write_text("2.mp4 walk\n")
    assert named(find_clips(tmp_path, "val")) == [("2.mp4", "walk")]
    assert find_clips(tmp_path, "val").classes == ("run", "walk")
    (tmp_path / "classes.txt").write_text("walk\nrun\n")
    assert find_clips(tmp_path, "val").classes == ("walk", "run")
    (tmp_path / "val.txt").write_text("2.mp4 1\n")
    assert named(find_clips(tmp_path, "val")) == [("2.mp4", "run")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,0\nb.mp4,7\n", r"train.csv:2: label 7 is out of range: expected 0 to 0"),
        ("a.mp4,0\nb.mp4,-1\n", r"train.csv:2: label -1 is out of range"),
        ("a.mp4,0\nb.mp4,1000000000000\n", r"train.csv:2: label 1000000000000 is out of range"),
        ("a.mp4,1\nb.mp4,1\n", r"class '0' \(number 0\) of .*train.csv' is empty"),
        ("a.mp4,0\nb.mp4\n", r"train.csv:2: got 'b.mp4', expected a path and a class"),
        ("a.mp4,0\nb.mp4,\n", r"train.csv:2: got 'b.mp4 ', expected a path and a class"),
        ("a.mp4,0\na.mp4,1\n", r"v:2: 'a.mp4' is listed twice with different classes: '1' here, '0' in .*csv:1"),
        ("a.mp4,0\n../b.mp4,1\n", r"csv:2: '../b.mp4' is outside .*: paths .* are relative to the data folder"),
        ("a.mp4,0\nx/../../b.mp4,1\n", r"train.csv:2: 'x/../../b.mp4' is outside"),
        ("a.mp4,0\n/etc/passwd,1\n", r"train.csv:2: '/etc/passwd' is outside"),
        ("a.mp4,0\nC:\\b.mp4,1\n", r"train.csv:2: .* is outside"),
        ("a.mp4,0\nsame.mp4,1\n", r"train.csv:2: 'same.mp4' matches several files: x/same.mp4, y/same.mp4"),
        ("", r"train.csv' lists no clips"),
    ],
)
def test_invalid_plain_lists_raise_with_file_and_line(tmp_path, text, message):
    root = tmp_path / "data"
    touch(*(root / name for name in ("a.mp4", "b.mp4", "x/same.mp4", "y/same.mp4")), tmp_path / "b.mp4")
    (root / "train.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_clips(root, "train")


def test_an_unknown_class_raises_with_the_nearest_one(tmp_path):
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    (tmp_path / "train.csv").write_text("a.mp4,walking\n")
    (tmp_path / "test.csv").write_text("b.mp4,walkin\n")
    with pytest.raises(ValueError, match=r"test.csv:1: unknown class 'walkin'; did you mean 'walking'"):
        find_clips(tmp_path, "test")
    skipped = find_clips(tmp_path, "test", on_error="skip")
    assert len(skipped) == 0
    assert len(skipped.problems) == 1


def test_several_lists_for_a_split_and_files_that_are_not_lists_raise(tmp_path):
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(ValueError, match=r"train.json:1: not JSON"):
        find_clips(tmp_path, "train")
    (tmp_path / "train.csv").write_text("a.mp4,0\n")
    with pytest.raises(ValueError, match=r"several lists for 'train': train.csv, train.json"):
        find_clips(tmp_path, "train")
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match=r"list.csv' is not a text file in UTF-8 .*expected a folder of clips, or"):
        find_clips(tmp_path / "list.csv")


def test_a_video_as_root_raises_and_asks_for_its_folder(tmp_path):
    touch(tmp_path / "run/a.MP4")
    for find in (find_clips, train_and_test):
        with pytest.raises(ValueError, match=r"a.MP4' is a video: expected a folder of clips, .*folder above"):
            find(tmp_path / "run/a.MP4")


def test_an_absolute_path_below_the_root_is_accepted(tmp_path):
    touch(tmp_path / "a.mp4")
    (tmp_path / "train.csv").write_text(f"{tmp_path / 'a.mp4'},0\n")
    assert named(find_clips(tmp_path, "train")) == [("a.mp4", "0")]


@pytest.mark.parametrize(("listed", "given"), [("real", "link"), ("link", "real"), ("link", "other"), ("link", "link")])
def test_an_absolute_path_through_links_is_accepted(tmp_path, listed, given):
    touch(tmp_path / "real/x/a.mp4", tmp_path / "outside.mp4")
    for link in ("link", "other"):
        (tmp_path / link).symlink_to(tmp_path / "real")
    lines = f"{tmp_path / listed / 'x/a.mp4'},0\n{tmp_path / 'outside.mp4'},0\n"
    (tmp_path / "real/train.csv").write_text(lines)
    clips = find_clips(tmp_path / given / "train.csv", on_error="skip")
    assert named(clips) == [("x/a.mp4", "0")]
    assert len(clips.problems) == 1
    assert "outside.mp4' is outside" in clips.problems[0]
    assert "relative to the folder of the list and must be below it; move the list to" in clips.problems[0]


def test_a_name_or_negative_number_among_numeric_classes_is_an_error_of_its_line(tmp_path):
    lines = [f"{number}.mp4,{number % 3}\n" for number in range(9)]
    (tmp_path / "train.csv").write_text("".join([*lines, "b.mp4,-1\n", "c.mp4,x\n"]))
    clips = find_clips(tmp_path, "train", on_error="skip")
    assert clips.classes == ("0", "1", "2")
    assert clips.counts() == (3, 3, 3)
    negative, word = clips.problems
    assert "train.csv:10: label -1 is out of range: expected 0 to 2" in negative
    assert "train.csv:11: unknown class 'x'; expected a number, 0 to 2, as in other lines" in word
    (tmp_path / "train.csv").write_text("".join([*lines, "c.mp4,x\n"]))
    with pytest.raises(ValueError, match=r"train.csv:10: unknown class 'x'"):
        find_clips(tmp_path, "train")
    (tmp_path / "classes.txt").write_text("0\n1\n2\nx\n")  # as the message suggests
    assert find_clips(tmp_path, "train").counts() == (3, 3, 3, 1)


def test_class_names_may_include_numbers(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4,1\nb.mp4,2\nc.mp4,jack\nd.mp4,queen\n")
    assert find_clips(tmp_path, "train").classes == ("1", "2", "jack", "queen")


@pytest.mark.parametrize(
    "text",
    [
        "run\nwalk\n",
        "1 walk\n0 run\n",
        "walk 1\nrun 0\n",
        "1,walk\n0,run\n",
        "walk;1\nrun;0\n",
        "0: run\n1: walk\n",
        "1\twalk\n0\trun\n",
        "name,id\nwalk,1\nrun,0\n",
        "class\nrun\nwalk\n",
    ],
)
@pytest.mark.parametrize("name", ["classes.txt", "labels.csv"])
def test_numbers_of_class_names(tmp_path, name, text):
    touch(tmp_path / "0.mp4", tmp_path / "1.mp4")
    (tmp_path / "train.txt").write_text("0.mp4 0\n1.mp4 1\n")
    (tmp_path / name).write_text(text)
    assert named(find_clips(tmp_path, "train")) == [("0.mp4", "run"), ("1.mp4", "walk")]


def test_names_that_end_in_numbers_are_names(tmp_path):
    (tmp_path / "train.txt").write_text("0.mp4 1\n1.mp4 0\n")
    (tmp_path / "classes.txt").write_text("Level 2\nPhase 7\n")
    assert find_clips(tmp_path, "train").classes == ("Level 2", "Phase 7")


def test_a_number_is_a_class_only_if_classes_are_numbered(tmp_path):
    touch(*(tmp_path / f"{number}.mp4" for number in range(3)))
    (tmp_path / "train.csv").write_text("0.mp4,run\n1.mp4,walk\n")
    (tmp_path / "val.csv").write_text("2.mp4,1\n")
    with pytest.raises(
        ValueError, match=r"val.csv:1: label 1 is a number, but the classes have names; expected a name"
    ):
        find_clips(tmp_path, "val")
    (tmp_path / "classes.txt").write_text("walk\nrun\n")
    assert named(find_clips(tmp_path, "val")) == [("2.mp4", "run")]
    (tmp_path / "classes.txt").write_text("1\n2\n3\n")
    (tmp_path / "train.csv").write_text("0.mp4,1\n1.mp4,02\n2.mp4,0\n")
    with pytest.raises(ValueError, match=r"train.csv:3: unknown class '0'; expected one of 3 classes, such as 1, 2, 3"):
        find_clips(tmp_path, "train")
    assert named(find_clips(tmp_path, "train", on_error="skip")) == [("0.mp4", "1"), ("1.mp4", "2")]


def test_if_all_entries_are_invalid_the_error_gives_the_first_reason(tmp_path):
    (tmp_path / "train.csv").write_text("../a.mp4,0\n../b.mp4,1\n")
    assert len(find_clips(tmp_path, on_error="skip").problems) == 2  # none for the classes, which are all empty
    message = r"no clips in .*: all 2 entries are invalid, the first: .*csv:1: '../a.mp4' is outside"
    for root in (tmp_path, tmp_path / "train.csv"):
        with pytest.raises(ValueError, match=message):
            train_and_test(root, on_error="skip")
    (tmp_path / "train.csv").write_text("a.mp4,0\nb.mp4,1\n")
    (tmp_path / "val.csv").write_text("c.mp4,2\n")
    with pytest.raises(ValueError, match=r"split 'val': its only entry is invalid: .*val.csv:1: label 2 is out"):
        train_and_test(tmp_path, on_error="skip")
