"""Lists without a header whose lines end in several numbers, as those of mmaction2."""

import pytest
from clip_files import film, folder_of_frames, touch

from torch_nonlocal.data import ClipDataset, ViewDataset, assign, find_clips
from torch_nonlocal.media import BrokenVideoError
from torch_nonlocal.media.transforms import EvalTransform, TrainTransform

WHOLE, PART = "folder of frames, number of frames, class", "folder of frames, first frame, number of frames, class"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders of 10, 6, 6 and 6 frames, and videos."""
    root = tmp_path_factory.mktemp("numbered")
    for name, frames in {"p": 10, "q": 6, "take 2": 6, "z 1": 6}.items():
        folder_of_frames(root / "frames" / name, frames)
    touch(*(root / name for name in ("a.mp4", "b.mp4", "c.mp4", "take 1.mp4")))
    return root


def read(root, text, name="list.txt", folder="frames"):
    """(clip, classes, frames) of each clip, and what was recognized."""
    (root / folder / name).write_text(text)
    clips = find_clips(root / folder / name, on_error="skip")
    assert not [one for one in clips.problems if "is empty" not in one]
    assert not clips.missing
    found = [
        (clips.name(one), [int(clips.classes[label]) for label in one.all_labels], one.frames) for one in clips.clips
    ]
    return found, clips.recognized.partition(": ")[2], clips.is_multi_label


@pytest.mark.parametrize(
    ("text", "clips", "recognized"),
    [
        ("p 10 0\nq 6 1\n", [("p", [0], None), ("q", [1], None)], WHOLE),
        ("p 10 0 1\nq 6 1\n", [("p", [0, 1], None), ("q", [1], None)], WHOLE + "es"),
        ("p 10 0 1\nq 6 1 2\n", [("p", [0, 1], None), ("q", [1, 2], None)], WHOLE + "es"),
        ("p,10,0,1\nq,6,1\n", [("p", [0, 1], None), ("q", [1], None)], WHOLE + "es"),
        ("p 0 5 1\np 5 5 0\n", [("p", [1], (0, 5)), ("p", [0], (5, 5))], PART),
        ("p 2 5 1\nq 1 4 0\n", [("p", [1], (2, 5)), ("q", [0], (1, 4))], PART),  # the folders have more than 2 and 1
        ("p 4 5 1\np 5 5 0\n", [("p", [1], (4, 5)), ("p", [0], (5, 5))], PART),  # a folder has one number of frames
        ("take 2 6 1\nz 1 6 0\n", [("take 2", [1], None), ("z 1", [0], None)], WHOLE),
        ('"take 2" 6 1 2\np 10 0\n', [("take 2", [1, 2], None), ("p", [0], None)], WHOLE + "es"),
        ("path offset total_frames label\np 2 5 1\nq 0 4 0\n", [("p", [1], (2, 5)), ("q", [0], (0, 4))], None),
        ("frame_dir,offset,num_frames,label\np,2,5,1\nq,0,4,0\n", [("p", [1], (2, 5)), ("q", [0], (0, 4))], None),
    ],
)
def test_folders_of_frames(root, text, clips, recognized):
    found, what, is_multi_label = read(root, text, "list.csv" if "," in text else "list.txt")
    assert found == clips
    assert what == recognized or (recognized is None and "first frame = 'offset'" in what)
    assert is_multi_label == (recognized == WHOLE + "es")


@pytest.mark.parametrize(
    ("text", "clips", "recognized"),
    [
        ("a.mp4 30 1\nb.mp4 31 0\n", [("a.mp4", [1]), ("b.mp4", [0])], "video, number of frames, class"),
        ("a.mp4 0 2\nb.mp4 1 3\n", [("a.mp4", [0, 2]), ("b.mp4", [1, 3])], "video, classes"),
        ("a.mp4 0 1\nb.mp4 1\n", [("a.mp4", [0, 1]), ("b.mp4", [1])], "video, classes"),
        (
            "a.mp4 3 5\ntake 1.mp4 1\nc.mp4 4 1 2\n",
            [("a.mp4", [3, 5]), ("take 1.mp4", [1]), ("c.mp4", [4, 1, 2])],
            "video, classes",
        ),
        ("a.mp4,0,3\nb.mp4,1\nc.mp4,2\n", [("a.mp4", [0, 3]), ("b.mp4", [1]), ("c.mp4", [2])], "video, classes"),
    ],
)
def test_videos(root, text, clips, recognized):
    found, what, is_multi_label = read(root, text, "list.csv" if "," in text else "list.txt", ".")
    assert ([(name, labels) for name, labels, _ in found], what) == (clips, recognized)
    assert is_multi_label == (recognized == "video, classes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a.mp4 3 5\nb.mp4 4 6\n",
            "'a.mp4 3 5', which may be the number of frames and a class, or classes; expected a f",
        ),
        ("a.mp4 0 5\nb.mp4 4 3\n", "'a.mp4 0 5', which may be the number of frames and a class, or classes"),
        (
            "gone 2 5 1\nlost 1 4 0\n",
            "'gone 2 5 1', which may be .* or the first frame, the number of frames and a class",
        ),
        ("a.mp4 5 10 60\n", "'path num_frames label', 'path offset num_frames label', or 'path labels' with '3;5'"),
    ],
)
def test_unclear_numbers_raise(root, text, message):
    (root / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=r"list.txt:1: unclear numbers: got .*" + message.replace("(", r"\(")):
        find_clips(root / "list.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p 10 0\n" * 10 + "q 6\n", r":11: got 'q 6', expected folder of frames, number of frames, class, as in other"),
        ("path offset num_frames label\np x 5 1\n", r":2: got 'p x 5 1', expected the first frame, 0 or more"),
        ("a.mp4 3 5\nb.mp4 1\n", r":1: got 'a.mp4 3 5', expected a path and one class"),
    ],
)
def test_invalid_lines_raise(root, text, message):
    (root / "frames/list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_clips(root / "frames/list.txt")


def test_parts_of_a_folder_have_their_own_frames(tmp_path):
    folder_of_frames(tmp_path / "p", 10)  # red is 10 times the number, from 1
    (tmp_path / "list.txt").write_text("p 0 4 0\np 4 6 1\np 8 3 1\n")
    clips = find_clips(tmp_path / "list.txt")
    assert [clips.key(one) for one in clips.clips] == ["p@frames 0-3", "p@frames 4-9", "p@frames 8-10"]
    views = ViewDataset(clips, (2, 1), EvalTransform(crop=16, crops="full"), views=2, on_error="fail")
    reds = [[int(value) for value in views[item][0][0, 0, :, 0, 0]] for item in range(4)]
    assert reds == [[10, 20], [30, 40], [50, 60], [90, 100]]
    with pytest.raises(BrokenVideoError, match=r"p' has 10 frames, and the clip has 3 frames from frame 8"):
        views[4]
    data = ClipDataset(clips, (2, 2), TrainTransform(crop=16, flip=False), on_error="fail")
    drawn = []
    for epoch in range(20):
        data.set_epoch(epoch)
        drawn.append(data[1][0][0, :, 0, 0])
    assert {tuple(one.tolist()) for one in drawn} == {(50, 70), (60, 80), (70, 90), (80, 100)}


@pytest.mark.parametrize(("fps", "chosen"), [(None, [4, 5, 6, 7, 8, 9]), (12.5, [4, 6, 8])])
def test_parts_of_a_video_have_their_own_frames(tmp_path, fps, chosen):
    film(tmp_path / "a.mp4", frames=12, rate=25)  # red is 20 times the number
    (tmp_path / "list.csv").write_text("path,offset,num_frames,label\na.mp4,4,6,0\n")
    clips = find_clips(tmp_path / "list.csv")
    views = ViewDataset(
        clips, (len(chosen), 1), EvalTransform(crop=48, crops="full"), views=1, on_error="fail", fps=fps
    )
    reds = views[0][0][0, 0].float().mean((1, 2)) / 20
    assert reds.round().tolist() == chosen


def test_parts_of_a_folder_are_on_one_side_and_overlap_is_named(tmp_path):
    folder_of_frames(tmp_path / "p", 10)
    folder_of_frames(tmp_path / "q", 9)
    (tmp_path / "list.txt").write_text("p 0 4 0\np 4 6 1\nq 0 4 0\nq 4 5 1\n")
    for seed in range(10):
        held = assign(tmp_path / "list.txt", seed=seed).validation
        assert len({held.name(one) for one in held.clips}) == 1
    (tmp_path / "train.txt").write_text("p 0 4 0\np 4 6 1\n")
    (tmp_path / "val.txt").write_text("p 0 2 1\nq 0 4 0\n")
    leaks = assign(tmp_path, on_error="skip").leaks
    assert len(leaks) == 1
    assert "'p' of the val split is also in the train split" in leaks[0]
