"""Clips and their splits: nothing is trained on and held out, whatever happens to the folder in between."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_nonlocal.data import Splits, assign, find_clips, split_clips, train_and_test, trained_on
from torch_nonlocal.data.fingerprints import content_digest
from torch_nonlocal.data.recordings import group_pattern, recording_of


def clip(path: Path, content: object) -> None:
    """A file of its own content, which is not decoded here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content} ".ljust(100, "."))


def contents(clips) -> set[str]:
    return {one.path.read_text() for one in clips.clips}


def names(clips) -> set[str]:
    return {clips.name(one) for one in clips.clips}


def fill(root: Path, classes: str = "ab", each: int = 40) -> Path:
    for name in classes:
        for number in range(each):
            clip(root / name / f"{number}.mp4", (name, number))
    return root


def test_the_held_out_part_depends_on_content_and_seed_only(tmp_path):
    one, two = fill(tmp_path / "one", each=200), fill(tmp_path / "two", each=200)
    clip(one / "c/only.mp4", "only")
    train, test = split_clips(find_clips(one), 0.25, seed=3)
    assert train.counts()[2] == 1  # a single clip is trained on
    assert all(30 <= count <= 70 for count in test.counts()[:2])
    for number, file in enumerate(sorted(two.rglob("*.mp4"))):
        file.rename(file.with_name(f"new name {number}.avi"))
    assert contents(split_clips(find_clips(two), 0.25, seed=3)[1]) == contents(test)
    assert contents(split_clips(find_clips(one), 0.25, seed=4)[1]) != contents(test)
    with pytest.raises(ValueError, match="fraction: got 1, expected more than 0 and less than 1"):
        split_clips(train, 1)


def test_adding_and_deleting_clips_moves_no_other(tmp_path):
    before = [contents(part) for part in train_and_test(fill(tmp_path))]
    for number in range(0, 40, 3):
        os.remove(tmp_path / f"a/{number}.mp4")
        clip(tmp_path / f"b/more {number}.mp4", f"more {number}")
        clip(tmp_path / f"d/{number}.mp4", f"of d {number}")
    after = [contents(part) for part in train_and_test(tmp_path)]
    assert not before[0] & after[1]
    assert not before[1] & after[0]


def test_small_data_hold_something_out_and_train_on_every_class(tmp_path):
    for seed in range(30):
        train, test = split_clips(find_clips(fill(tmp_path, "ab", 2)), seed=seed)
        assert all(train.counts())
        assert len(test) > 0
    train, test = train_and_test(fill(tmp_path / "ones", "abc", 1))
    assert (len(train), len(test)) == (3, 0)


@pytest.mark.parametrize(
    ("each", "least", "most"), [(1, 0, 0), (2, 0, 1), (4, 0, 2), (5, 1, 2), (6, 1, 2), (12, 1, 4), (30, 3, 9)]
)
def test_of_a_few_clips_about_a_fifth_of_each_class_is_held_out(tmp_path, each, least, most):
    counts = set()
    for seed in range(60):
        train, test = split_clips(find_clips(fill(tmp_path, "ab", each)), seed=seed)
        assert len(train) + len(test) == 2 * each
        assert all(train.counts())
        counts |= set(test.counts())
    assert counts <= set(range(least, most + 1))
    assert {max(least, min(1, most)), most} <= counts


def test_bounds_count_the_clips_of_recordings(tmp_path):
    for number in range(30):  # of each class, one recording has ten clips and the others have one
        for name in "ab":
            clip(tmp_path / f"{name}/v_{name}_g{max(number, 9):02}_c{number:02}.avi", f"{name} {number}")
    for seed in range(60):
        _, test = split_clips(find_clips(tmp_path), seed=seed)
        assert all(3 <= count <= 9 for count in test.counts())


def test_bounds_move_no_clip_of_an_earlier_run(tmp_path):
    fill(tmp_path, "ab", 6)
    first = assign(tmp_path)
    fill(tmp_path, "ab", 30)
    second = assign(tmp_path, known=first.record())
    assert held(first) <= held(second)
    assert contents(first.train) <= contents(second.train)
    for name in ("a", "b"):  # all six of a class held out by the record: the bounds take no further ones
        known = {one: "val" for one in first.record()}
        assert sum(text.startswith(f"('{name}'") for text in held(assign(tmp_path, known=known))) in range(6, 10)


@pytest.mark.parametrize(
    "pair",
    [
        ("a/v_a_g01_c01.avi", "a/v_a_g01_c02.avi"),
        ("a/clip.mp4", "a/clip.avi"),
        ("a/clip.mp4", "a/clip_flipped.mp4"),
        ("a/person01_boxing_d1_uncomp.avi", "b/person01_running_d2_uncomp.avi"),
        ("a/-bcdefghij__000001_000011.mp4", "b/-bcdefghij__000031_000041.mp4"),
        ("a/-bcdefghij__1_11.mp4", "b/-bcdefghij__31_41.mp4"),
        ("a/My clip_rgb.mp4", "a/My clip_depth.mp4"),
        ("a/My clip.mp4", "a/my clip-RGB_flipped.avi"),
        ("a/color_07.mp4", "a/depth_07.mp4"),
        ("a/x/rgb.mp4", "a/x/flow_x.mp4"),
        ("a/Depth1/1.mp4", "a/RGB1/1.mp4"),
        ("a/S001C001P001R001A001_rgb.avi", "b/S002C003P001R002A060_rgb.avi"),
        ("a/My_Film_run_f_cm_np1_ba_med_2.avi", "a/My_Film_run_f_cm_np1_ba_med_3.avi"),
    ],
)
def test_clips_of_one_recording_are_on_one_side(tmp_path, pair):
    fill(tmp_path, each=6)
    for number, name in enumerate(pair):
        clip(tmp_path / name, f"of the pair {number}")
    for seed in range(40):
        assert len(set(pair) & names(split_clips(find_clips(tmp_path), seed=seed)[1])) in (0, 2)


def test_several_streams_of_recordings_are_named(tmp_path):
    fill(tmp_path, each=6)
    assert assign(tmp_path).notes == ()
    for number, name in enumerate(("a/1_rgb.mp4", "a/1_depth.mp4", "b/program_rgbx.mp4", "b/x_rgb.mp4")):
        clip(tmp_path / name, f"stream {number}")
    assert assign(tmp_path).notes == (
        "1 recording has several streams, such as 'a/1.mp4', 'a/1_depth.mp4', 'a/1_rgb.mp4': each is a clip; to train "
        "on one stream, list its clips only",
    )
    (tmp_path / "list.csv").write_text("a/1_rgb.mp4,a\na/1_depth.mp4,a\nb/x_rgb.mp4,b\nb/0.mp4,b\n")
    assert "such as 'a/1_depth.mp4', 'a/1_rgb.mp4'" in find_clips(tmp_path / "list.csv").notes[0]


def test_copies_are_on_one_side_also_of_frames(tmp_path):
    fill(tmp_path, each=6)
    clip(tmp_path / "b/copy.avi", ("a", 3))
    for name in ("a/frames", "b/other"):
        for number in range(5):
            clip(tmp_path / name / f"{number}.png", number)
    assert content_digest(tmp_path / "a/frames") == content_digest(tmp_path / "b/other") != ""
    for seed in range(40):
        held = names(split_clips(find_clips(tmp_path), seed=seed)[1])
        assert len({"b/copy.avi", "a/3.mp4"} & held) in (0, 2)
        assert len({"a/frames", "b/other"} & held) in (0, 2)


@pytest.mark.parametrize(
    ("pattern", "name", "group"),
    [
        ("*/{group}_", "walk/ann_03.mp4", "ann"),
        ("{group}/", "ann/03.mp4", "ann"),
        ("*_{group}_*_{group}.", "x/a_s1_b_c2.mp4", "s1\0c2"),
        ("*/{group}_", "walk/ann.mp4", None),
        ("subject{group}", "walk/ann.mp4", None),
    ],
)
def test_a_pattern_names_the_group(pattern, name, group):
    assert group_pattern(pattern)(name) == group


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("*_", r"with \{group\}, such as"), ("", "with"), ("*{group}_", "expected text between two of")],
)
def test_invalid_patterns_raise(pattern, message):
    with pytest.raises(ValueError, match=message):
        group_pattern(pattern)


def test_names_of_no_known_data_set_tell_no_recording():
    assert [recording_of(name) for name in ("a/1.mp4", "a/IMG_0001.MOV", "a/walk (1).mp4", "g01.avi", "")] == [None] * 5


def test_a_pattern_takes_linear_time():
    assert group_pattern("*a" * 100 + "{group}b")("a" * 100_000) is None


def held(splits: Splits) -> set[str]:
    return contents(splits.validation)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "copy", "delete", "rename", "other suffix", "same recording", "other class"]),
        st.integers(0, 999),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 6), rounds=st.lists(STEPS, min_size=1, max_size=4), seed=st.integers(0, 3))
def test_no_clip_is_ever_in_two_splits(count, rounds, seed):
    root = Path(tempfile.mkdtemp())
    try:
        for number in range(count):
            clip(root / "ab"[number % 2] / f"v_x_g0{number % 3}_c0{number}.mp4", number)
        splits = assign(root, seed=seed)
        trained, tested = contents(splits.train), held(splits)
        for turn, steps in enumerate(rounds):
            for step, (what, which) in enumerate(steps):
                change(root, what, which, f"{turn}-{step}")
            if not list(root.rglob("*.*")):
                clip(root / "a/last.mp4", f"last {turn}")
            splits = assign(root, seed=seed, known=splits.record(), on_error="skip")
            trained, tested = trained | contents(splits.train), tested | held(splits)
            assert not trained & tested
            assert len(splits.train) + len(splits.validation) == len(list(root.rglob("*.*")))
            assert set(trained_on(find_clips(root, on_error="skip"), splits.record())) == names(splits.train)
    finally:
        shutil.rmtree(root)


def change(root: Path, what: str, which: int, new: str) -> None:
    files = sorted(root.rglob("*.*"))
    file = files[which % len(files)] if files else root / "a/none.mp4"
    folder, stem = file.parent, file.stem
    if what == "add":
        clip(root / "abc"[which % 3] / f"{new}.mp4", new)
    elif what == "same recording":
        clip(folder / f"v_x_g0{which % 3}_c{which % 90 + 10}.mkv", new)
    elif not files:
        return
    elif what == "copy":
        shutil.copy(file, folder / f"copy {new}.avi")
    elif what == "delete":
        file.unlink()
    elif what == "rename":
        file.rename(folder / f"v_x_g0{which % 3}_c0{new}.mp4")
    elif what == "other suffix":
        clip(folder / f"{stem}.webm", new)
    else:
        (root / "c").mkdir(exist_ok=True)
        file.rename(root / "c" / f"{new}.mp4")


def test_clips_of_the_datas_own_split_on_both_sides_are_named(tmp_path):
    for number in range(4):
        clip(tmp_path / f"clips/{number}.mp4", number)
    shutil.copy(tmp_path / "clips/0.mp4", tmp_path / "clips/copy.avi")
    clip(tmp_path / "clips/v_x_g01_c01.avi", "one")
    clip(tmp_path / "clips/v_x_g01_c02.avi", "two")
    clip(tmp_path / "clips/2.webm", "the same stem")
    train = "0.mp4,a\n1.mp4,b\n2.mp4,a\nv_x_g01_c01.avi,a\n"
    (tmp_path / "train.csv").write_text(train)
    (tmp_path / "test.csv").write_text("1.mp4,b\ncopy.avi,a\n3.mp4,a\nv_x_g01_c02.avi,a\n2.webm,a\n")
    with pytest.raises(ValueError, match=r"'clips/1.mp4' of the test split is also in the train split"):
        assign(tmp_path)
    splits = assign(tmp_path, on_error="skip")
    assert splits.leaks == (
        "'clips/1.mp4' of the test split is also in the train split",
        "'clips/copy.avi' of the test split is a copy of 'clips/0.mp4' in the train split",
    )
    (shared,) = [note for note in splits.notes if "recordings" in note]
    assert shared.startswith("2 recordings are in train and in test: ")
    assert "'clips/v_x_g01_c01.avi' and 'clips/v_x_g01_c02.avi'" in shared
    assert "'clips/2.mp4' and 'clips/2.webm'" in shared


def test_parts_of_one_file_are_the_same_clip_if_they_overlap(tmp_path):
    clip(tmp_path / "1.mp4", 1)
    rows = "path,start,end,label,split\n1.mp4,0,2,a,train\n1.mp4,2,4,b,train\n1.mp4,4,6,a,test\n1.mp4,3,5,b,val\n"
    (tmp_path / "all.csv").write_text(rows)
    (leak,) = assign(tmp_path / "all.csv", on_error="skip").leaks
    assert leak == "'1.mp4' of the val split is also in the train split"


def test_parts_of_one_file_are_held_out_together(tmp_path):
    for number in range(20):
        clip(tmp_path / f"{number}.mp4", number)
    rows = [f"{number}.mp4,{second},{second + 1},a" for number in range(20) for second in range(3)]
    (tmp_path / "all.csv").write_text("\n".join(["path,start,end,label", *rows]))
    train, test = train_and_test(tmp_path / "all.csv")
    assert (len(train) + len(test), len(train) % 3, len(test) % 3) == (60, 0, 0)
    assert not names(train) & names(test)


def test_a_pattern_keeps_its_groups_together(tmp_path):
    for number in range(40):
        clip(tmp_path / "ab"[number % 2] / f"ann{number // 8}_{number}.mp4", number)
    splits = assign(tmp_path, group="*/{group}_")
    persons = [{name.split("/")[1].split("_")[0] for name in names(part)} for part in splits.lists.values()]
    assert len(splits.validation) > 0
    assert not persons[0] & persons[1]
    assert any("0 of 40 clips do not match" in note for note in splits.notes)


def test_a_list_with_names_in_another_encoding_finds_its_files(tmp_path):
    name = os.fsdecode("é.mp4".encode("latin-1"))
    try:
        clip(tmp_path / name, 1)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (tmp_path / "list.csv").write_bytes("é.mp4,run\n".encode("latin-1"))
    assert [one.path.name for one in find_clips(tmp_path / "list.csv").clips] == [name]
