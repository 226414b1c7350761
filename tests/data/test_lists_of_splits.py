"""The split of each clip of a list: from columns, from the names of lists and from their folders."""

import json

import pytest
from clip_files import meaning, touch

from torch_nonlocal.data import assign, available_splits, find_clips


def test_the_column_split_is_the_split(tmp_path):
    touch(*(tmp_path / f"{number}.mp4" for number in range(5)))
    rows = ["0.mp4,run,train", "1.mp4,walk,train", "2.mp4,run,valid", "3.mp4,walk,test", "4.mp4,walk,"]
    (tmp_path / "all.csv").write_text("\n".join(["path,label,subset", *rows]))
    for data in (tmp_path, tmp_path / "all.csv"):
        assert available_splits(data) == ("train", "val", "test")
        splits = assign(data)
        assert [sorted(map(clips.name, clips.clips)) for clips in splits.lists.values()] == [
            ["0.mp4", "1.mp4", "4.mp4"],  # a row without a split trains
            ["2.mp4"],
            ["3.mp4"],
        ]
        assert splits.lists["val"].classes == ("run", "walk")
        assert not splits.is_automatic


@pytest.mark.parametrize(("fold", "tested"), [(1, "1.mp4"), (2, "2.mp4")])
def test_folds(tmp_path, fold, tested):
    touch(*(tmp_path / f"{number}.mp4" for number in range(3)))
    (tmp_path / "all.csv").write_text("path,label,fold\n0.mp4,0,3\n1.mp4,0,1\n2.mp4,0,2\n")
    splits = assign(tmp_path / "all.csv", fold=fold)
    assert [splits.testing.name(clip) for clip in splits.testing.clips] == [tested]
    assert len(splits.train) == 2


@pytest.mark.parametrize(
    ("header", "train", "val", "test"),
    [
        ("is_train", "True", "", "False"),
        ("is_valid", "no", "yes", ""),
        ("train,val,test", "1,0,0", "0,1,0", "0,0,1"),
        ("split1,split2", "train,test", "val,train", "test,train"),
    ],
)
def test_flags_and_columns_of_folds_are_the_split(tmp_path, header, train, val, test):
    rows = {f"{number}.mp4": value for number, value in enumerate((train, train, val, test)) if value}
    touch(*(tmp_path / name for name in rows))
    lines = [f"{name},run,{value}" for name, value in rows.items()]
    (tmp_path / "list.csv").write_text("\n".join([f"path,label,{header}", *lines]))
    lists = assign(tmp_path / "list.csv").lists
    expected = {"train": ["0.mp4", "1.mp4"], "val": ["2.mp4"] if val else [], "test": ["3.mp4"] if test else []}
    assert {split: [clips.name(one) for one in clips.clips] for split, clips in lists.items()} == {
        split: names for split, names in expected.items() if names
    }


def test_folds_of_clips_with_several_classes(tmp_path):
    touch(*(tmp_path / f"{number}.mp4" for number in range(3)))
    (tmp_path / "list.csv").write_text("path,labels,fold\n0.mp4,run;walk,2\n1.mp4,,1\n2.mp4,run,1\n")
    splits = assign(tmp_path / "list.csv")
    assert [clip.labels for clip in splits.train.clips] == [(0, 1)]
    assert [clip.labels for clip in splits.testing.clips] == [(0,)]


def test_a_column_of_a_list_named_after_a_split_is_the_split(tmp_path):
    touch(*(tmp_path / f"{number}.mp4" for number in range(4)))
    (tmp_path / "train.csv").write_text("path,label,split\n0.mp4,run,train\n1.mp4,run,val\n2.mp4,run,test\n")
    assert [len(clips) for clips in assign(tmp_path).lists.values()] == [1, 1, 1]
    (tmp_path / "test.csv").write_text("path,label\n3.mp4,run\n")
    splits = assign(tmp_path)
    assert {split: len(clips) for split, clips in splits.lists.items()} == {"train": 1, "test": 1}
    assert "2 rows of train.csv are not used: their column names another split" in splits.notes[0]


def test_one_list_of_each_split_is_chosen_by_its_fold_or_its_classes(tmp_path):
    touch(*(tmp_path / f"{number}.mp4" for number in range(4)))
    for fold in (1, 2):
        (tmp_path / f"our_train_split_{fold}_videos.txt").write_text(f"{fold}.mp4 run\n")
        (tmp_path / f"our_val_split_{fold}_videos.txt").write_text(f"{3 - fold}.mp4 run\n")
    assert meaning(find_clips(tmp_path, "train", fold=2)) == [("2.mp4", "run")]
    assert meaning(find_clips(tmp_path, "val", fold=2)) == [("1.mp4", "run")]
    (tmp_path / "test.json").write_text('[{"id": "3"}]')
    (tmp_path / "test-answers.csv").write_text("3;run\n")
    assert meaning(find_clips(tmp_path, "test")) == [("3.mp4", "run")]
    (tmp_path / "test-answers.csv").unlink()
    assert available_splits(tmp_path) == ("train", "val")
    assert "test.json is not used: it has no classes" in assign(tmp_path).notes[0]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_table_in_the_folder_of_each_split(tmp_path, name):
    table = {"train": {"1.mp4": "run", "x/2.mp4": "walk"}, "test": {"1.mp4": "walk"}}
    for split, rows in table.items():
        touch(*(tmp_path / split / path for path in rows))
        lines = [f"{path},{label}" for path, label in rows.items()]
        if name.endswith(".jsonl"):
            lines = [json.dumps({"file_name": path, "label": label}) for path, label in rows.items()]
        (tmp_path / split / name).write_text(
            "\n".join([*(["file_name,label"] if name.endswith(".csv") else []), *lines])
        )
    assert meaning(find_clips(tmp_path, "train")) == [("train/1.mp4", "run"), ("train/x/2.mp4", "walk")]
    assert meaning(find_clips(tmp_path, "test")) == [("test/1.mp4", "walk")]


def test_tables_beside_folders_of_classes_are_named(tmp_path):
    touch(tmp_path / "run/1.mp4", tmp_path / "walk/2.mp4")
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("path,label\nrun/1.mp4,walk\n")
    clips = find_clips(tmp_path)
    assert meaning(clips) == [("run/1.mp4", "run"), ("walk/2.mp4", "walk")]
    assert clips.recognized == "folders of classes; not used as lists: a.csv, b.csv"


def test_lists_of_each_split(tmp_path):
    touch(*(tmp_path / f"{number}.mp4" for number in range(4)))
    (tmp_path / "ours.csv").write_text("0.mp4,run\n1.mp4,walk\n")
    (tmp_path / "theirs.csv").write_text("2.mp4,walk\n")
    splits = assign(tmp_path / "ours.csv", val=tmp_path / "theirs.csv")
    assert meaning(splits.train) == [("0.mp4", "run"), ("1.mp4", "walk")]
    assert meaning(splits.validation) == [("2.mp4", "walk")]
    assert splits.validation.classes == ("run", "walk")
    (tmp_path / "theirs.csv").write_text("2.mp4,walking\n")
    with pytest.raises(ValueError, match="clips of class 'walking', which is not trained on; did you mean 'walk'"):
        assign(tmp_path / "ours.csv", val=tmp_path / "theirs.csv")
