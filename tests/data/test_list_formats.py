"""Every format of docs/lists.md: one example file each, read with the right clips, classes, spans and splits."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from clip_files import folder_of_frames, meaning, touch

from torch_nonlocal.data import find_clips

CHARADES = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"


class Case(NamedTuple):
    """A list, the files it names, and what it means: (clip, class) or (clip, class, start, end)."""

    file: str
    text: str
    clips: list[tuple]
    recognized: str


TWO = [("a/1.mp4", "run"), ("b/2.mp4", "walk")]
CASES = {
    "path class": Case("list.txt", "a/1.mp4 run\nb/2.mp4 walk\n", TWO, "list.txt: path, class"),
    "path class with a header": Case("list.txt", "# x\nfile label\na/1.mp4 run\nb/2.mp4 walk\n", TWO, "clip = 'file'"),
    "class path with a header": Case("list.txt", "label file\nrun a/1.mp4\nwalk b/2.mp4\n", TWO, "clip = 'file'"),
    "quoted names": Case("list.txt", '"a b/1, x.mp4" run\n', [("a b/1, x.mp4", "run")], "path, class"),
    "path,class": Case("list.csv", "a/1.mp4,run\nb/2.mp4,walk\n", TWO, "list.csv: path, class"),
    "quoted cells": Case("list.csv", '"a b/1, x.mp4","run, fast"\n', [("a b/1, x.mp4", "run, fast")], "path, class"),
    "commas in names": Case("list.csv", "a/1.mp4,run\nc,d.mp4,walk\n", [TWO[0], ("c,d.mp4", "walk")], "path, class"),
    "other suffixes": Case("list.csv", "a/1.avi,run\nb/2.mkv,walk\n", TWO, "path, class"),
    "backslashes": Case("list.csv", "a\\1.mp4,run\nb\\2.mp4,walk\n", TWO, "path, class"),
    "tabs": Case("list.tsv", "a/1.mp4\trun\nb/2.mp4\twalk\n", TWO, "path, class"),
    "comments": Case("list.txt", "# our clips\na/1.mp4 run\n#b/9.mp4 walk\nb/2.mp4 walk\n", TWO, "path, class"),
    "names with #": Case(
        "list.txt", "#20_Rhythm.avi 1\n#gone.avi 0\na/1.mp4 0\n", [("#20_Rhythm.avi", "1"), ("a/1.mp4", "0")], "path"
    ),
    "names with # in a table": Case(
        "list.csv", "#20_Rhythm.avi,1\na/1.mp4,0\n", [("#20_Rhythm.avi", "1"), ("a/1.mp4", "0")], "path, class"
    ),
    "file_name,label": Case(
        "labels.csv", "file_name,label\na/1.mp4,run\nb/2.mp4,walk\n", TWO, "columns clip = 'file_name', class = 'label'"
    ),
    "clip_name,gesture": Case(
        "list.csv", "clip_name,gesture\n1,run\n2,walk\n", TWO, "columns clip = 'clip_name', class = 'gesture'"
    ),
    "url,label": Case(
        "list.csv",
        "url,label\nhttps://host/x/1.mp4,run\nhttps://www.youtube.com/watch?v=2&t=1,walk\n",
        TWO,
        "columns clip = 'url', class = 'label'",
    ),
    "path,target": Case("list.csv", "path,target\na/1.mp4,run\nb/2.mp4,walk\n", TWO, "class = 'target'"),
    "id,class": Case("list.csv", "id;class\n1;run\n2;walk\n", TWO, "columns clip = 'id', class = 'class'"),
    "class before path": Case(
        "list.csv", "Person ID,Action Class,Video Path\n7,run,a/1.mp4\n8,walk,b/2.mp4\n", TWO, "clip = 'Video Path'"
    ),
    "class name and number": Case(
        "list.csv", "video_id,class_id,class_name\n1,0,run\n2,1,walk\n", TWO, "class = 'class_name'"
    ),
    "raw frames": Case(
        "list.txt", "frames/x 6 0\nframes/y z 6 1\n", [("frames/x", "0"), ("frames/y z", "1")], "folder of frames"
    ),
    "raw frames in a table": Case(
        "list.csv", "frames/x,6,0\n", [("frames/x", "0")], "folder of frames, number of frames"
    ),
    "UTF-16": Case("utf16.csv", "path,label\na/1.mp4,run\nb/2.mp4,walk\n", TWO, "columns clip = 'path'"),
    "UTF-16 without a mark": Case(
        "utf16le.csv", "path,label\na/1.mp4,run\nb/2.mp4,walk\n", TWO, "columns clip = 'path'"
    ),
    "byte order mark": Case("list.csv", "\ufeffpath,label\na/1.mp4,run\nb/2.mp4,walk\n", TWO, "columns clip = 'path'"),
    "spans": Case(
        "list.csv",
        "video,start,end,label\na/1.mp4,0,2.5,run\na/1.mp4,2.5,4,walk\nb/2.mp4,,,walk\n",
        [("a/1.mp4", "run", 0.0, 2.5), ("a/1.mp4", "walk", 2.5, 4.0), ("b/2.mp4", "walk")],
        "start = 'start', end = 'end'",
    ),
    "times of day": Case(
        "list.csv",
        "video,start_timestamp,stop_timestamp,start_frame,label\na/1.mp4,00:00:01.5,1:02,90,run\n",
        [("a/1.mp4", "run", 1.5, 62.0)],
        "start = 'start_timestamp', end = 'stop_timestamp'",
    ),
    "durations": Case(
        "list.csv", "video,start,duration,label\n1,3,4.5,run\n", [("a/1.mp4", "run", 3.0, 7.5)], "duration = 'duration'"
    ),
    "bars": Case("list.txt", "a/1.mp4|run\nb/2.mp4|walk\n", TWO, "path, class"),
    "Kinetics": Case(
        "list.csv",
        "label,youtube_id,time_start,time_end,split\nrun,abc,3,13,train\nwalk,2,5,15,train\n",
        [("k/abc_000003_000013.mp4", "run"), ("b/2.mp4", "walk", 5.0, 15.0)],
        "columns clip = 'youtube_id', class = 'label'",
    ),
    "Kinetics without zeros": Case(
        "list.csv",
        "label,youtube_id,time_start,time_end\nrun,abc,3,13\nwalk,pqr,3,13\n",
        [("k/abc_000003_000013.mp4", "run"), ("k/pqr_3_13.mp4", "walk")],
        "columns clip = 'youtube_id', class = 'label'",
    ),
    "Kinetics JSON": Case(
        "list.json",
        '{"2": {"annotations": {"label": "walk", "segment": [5.0, 15.0]}, "subset": "train", "url": "https://x"}}',
        [("b/2.mp4", "walk", 5.0, 15.0)],
        "videos with annotations",
    ),
    "ActivityNet": Case(
        "list.json",
        '{"version": 1, "database": {"2": {"subset": "training", "annotations": ['
        '{"label": "walk", "segment": [0, 4]}, {"label": "run", "segment": [4, 9.5]}]}}}',
        [("b/2.mp4", "walk", 0.0, 4.0), ("b/2.mp4", "run", 4.0, 9.5)],
        "videos with annotations",
    ),
    "Diving48": Case(
        "list.json",
        '[{"vid_name": "1", "label": 1, "start_frame": 0, "end_frame": 140}, {"vid_name": "2", "label": 0}]',
        [("a/1.mp4", "1"), ("b/2.mp4", "0")],
        "columns clip = 'vid_name', class = 'label'",
    ),
    "Something-Something": Case(
        "list.json",
        '[{"id": "1", "label": "dropping a pen", "template": "Dropping [something]"}]',
        [("a/1.mp4", "Dropping something")],
        "columns clip = 'id', class = 'template'",
    ),
    "Something-Something v1": Case(
        "list.csv", "1;Pushing\n2;Turning, then\n", [("a/1.mp4", "Pushing"), ("b/2.mp4", "Turning, then")], "path"
    ),
    "tabs and numbers in class names": Case(
        "list.txt",
        "a/1.mp4\tExercise 1\nb/2.mp4\tExercise 2\n",
        [("a/1.mp4", "Exercise 1"), ("b/2.mp4", "Exercise 2")],
        "path, class",
    ),
    "tabs without suffixes": Case(
        "list.txt", "1\tRun 1\n2\tRun 2\n", [("a/1.mp4", "Run 1"), ("b/2.mp4", "Run 2")], "path, class"
    ),
    "commas and numbers in class names": Case(
        "list.txt", "a/1.mp4,Run 1\nb/2.mp4,Run 2\n", [("a/1.mp4", "Run 1"), ("b/2.mp4", "Run 2")], "path, class"
    ),
    "semicolons in class names": Case(
        "list.csv", "a/1.mp4,run;walk\nb/2.mp4,run\n", [("a/1.mp4", "run;walk"), ("b/2.mp4", "run")], "path, class"
    ),
    "blanks in class names": Case(
        "list.txt", "a/1.mp4 run fast\nb/2.mp4 walk\n", [("a/1.mp4", "run fast"), TWO[1]], "path, class"
    ),
    "commas in names and blanks": Case(
        "list.csv", "a b/1, x.mp4 0\na/1.mp4 1\n", [("a b/1, x.mp4", "0"), ("a/1.mp4", "1")], "path, class"
    ),
    "class,path": Case("list.csv", "run,a/1.mp4\nwalk,b/2.mp4\n", TWO, "list.csv: class, path"),
    "class path": Case("list.txt", "run a/1.mp4\nwalk b/2.mp4\n", TWO, "list.txt: class, path"),
    "videos and their number of frames": Case(
        "list.txt",
        "a/1.mp4 30 1\nb/2.mp4 31 0\n",
        [("a/1.mp4", "1"), ("b/2.mp4", "0")],
        "video, number of frames, class",
    ),
    "raw frames with a header": Case(
        "list.txt",
        "path num_frames label\nframes/x 6 0\nframes/y z 6 1\n",
        [("frames/x", "0"), ("frames/y z", "1")],
        "columns clip = 'path', class = 'label'; other columns: num_frames",
    ),
    "times in a text": Case(
        "list.txt", "path start end label\na/1.mp4 1 2.5 run\n", [("a/1.mp4", "run", 1.0, 2.5)], "start = 'start'"
    ),
    "Excel": Case("list.csv", "sep=;\r\npath;label\r\na/1.mp4;run\r\nb/2.mp4;walk\r\n", TWO, "clip = 'path'"),
    "decimal commas": Case(
        "list.csv", "video;start;end;label\na/1.mp4;0,5;2,5;run\n", [("a/1.mp4", "run", 0.5, 2.5)], "start = 'start'"
    ),
    "words written as one": Case("list.csv", "classname,videoid\nrun,1\nwalk,2\n", TWO, "class = 'classname'"),
    "a number of frames is no clip": Case(
        "list.csv",
        "video_id,label,frames,label_id\n1,run,37,0\n",
        [("a/1.mp4", "run")],
        "other columns: frames, label_id",
    ),
    "times before frames": Case(
        "list.json",
        '[{"url": "www.youtube.com/watch?v=2", "start": 9, "end": 83, "start_time": 1.0, "end_time": 2.7, "label": 0}]',
        [("b/2.mp4", "0", 1.0, 2.7)],
        "start = 'start_time', end = 'end_time'; other columns: start, end",
    ),
    "URLs with escapes": Case("list.csv", "url,label\nhttp://x/c%2Cd.mp4,run\n", [("c,d.mp4", "run")], "clip = 'url'"),
    "ActivityNet's file names": Case(
        "list.json",
        '{"v": {"annotations": [{"label": "run", "segment": [1, 2]}]}}',
        [("v_v.mp4", "run", 1.0, 2.0)],
        "vid",
    ),
    "ids and folders of one name": Case("list.csv", "id,label\nk,run\n", [("x/k.mp4", "run")], "clip = 'id'"),
    "ids with points": Case(
        "list.csv", "id,label\nk.2,run\nk,walk\n", [("x/k.2.mp4", "run"), ("x/k.mp4", "walk")], "clip = 'id'"
    ),
    "JSON lines": Case(
        "list.jsonl",
        '{"file": "a/1.mp4", "class": "run"}\n{"file": "b/2.mp4", "class": "walk"}\n',
        TWO,
        "columns clip = 'file'",
    ),
}


def example(root: Path, case: Case) -> Path:
    touch(*(root / name for name in ("a/1.mp4", "b/2.mp4", "k/abc_000003_000013.mp4", "#20_Rhythm.avi")))
    touch(
        root / "a b/1, x.mp4",
        root / "c,d.mp4",
        root / "v_v.mp4",
        root / "x/k.mp4",
        root / "x/k.2.mp4",
        root / "k/pqr_3_13.mp4",
    )
    folder_of_frames(root / "frames/x")
    folder_of_frames(root / "frames/y z")
    encoding = {"utf16.csv": "utf-16", "utf16le.csv": "utf-16-le"}.get(case.file, "utf-8")
    (root / case.file).write_text(case.text, encoding)
    return root / case.file


@pytest.mark.parametrize("name", CASES)
def test_formats(tmp_path, name):
    case = CASES[name]
    clips = find_clips(example(tmp_path, case), on_error="skip")
    assert [one for one in clips.problems if "is empty: it has no clips" not in one] == []
    assert meaning(clips) == case.clips
    assert not clips.missing
    assert case.recognized in clips.recognized


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16"])
def test_other_encodings_of_utf_16(tmp_path, encoding):
    touch(tmp_path / "é/1.mp4")
    (tmp_path / "list.csv").write_bytes("path,label\r\né/1.mp4,run\r\n".encode(encoding))
    assert meaning(find_clips(tmp_path / "list.csv")) == [("é/1.mp4", "run")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "video_path,clip_path,label\na,b,0\n",
            r"'video_path' and 'clip_path' may both be the clip: got video_path, clip",
        ),
        ("path,label,category\na.mp4,0,1\n", r"'label' and 'category' may both be the class"),
        ("file_name,width\na.mp4,64\n", r"no column is the class: got file_name, width; name one 'label'"),
        ("label,height\n0,64\n", r"no column is the clip: got label, height; name one 'path'"),
        (
            "foo,bar\na/1.mp4,0\nb/2.mp4,1\n",
            r"csv:1: unclear header: got foo, bar; expected names such as path and label",
        ),
        ("foo,bar\nabc,1\nxyz,0\n", r"csv:1: unclear header: got foo, bar"),
        ("a/1.mp4,run,fast\n", r"csv:1: 3 columns without a header: got a/1.mp4, run, fast; expected two columns"),
        (
            "-5KQ66BBWC4,902,0.077,0.151,0.283,0.811,80,1\n" * 2,
            r"lists boxes of persons \(AVA\): expected a list of whole",
        ),
        ("path,label,split\na.mp4,0,holdout\n", r"csv:2: split 'holdout', expected train, val or test"),
        (
            "path,start_frame,label\na.mp4,30,0\n",
            r"csv:2: the clip starts at a frame number: got 'a.mp4,30,0'; expected ti",
        ),
        ("path,start,end,label\na.mp4,5,3,0\n", r"csv:2: got 'a.mp4,5,3,0', expected 0 <= time_start <= time_end"),
        ("path,start,end,label\na.mp4,x,3,0\n", r"csv:2: got 'a.mp4,x,3,0', expected path,start,end,label"),
        ("path,label,fold\na.mp4,0,3\n", r"has no fold 1: got 3"),
        ("path,label,split2\na.mp4,0,train\n", r"has no split 1: got 2"),
        ("path,label,is_train,is_test\na.mp4,0,1,1\n", r"csv:2: split 'train and test', expected train, val or test"),
        ("classname,youtube_id,label\nrun,x,1\n", r"'classname' and 'label' may both be the class"),
        ('path,label,note\na.mp4,0,"x\nb.mp4,1,y\n', r"csv:2: a quotation mark is not closed"),
        ('path,label\na.mp4,"0\nb.mp4,"1\n', r"csv:2: got .*, expected a path and a class"),
        ("path,start,end,label\na.mp4,5,5,0\n", r"csv:2: got 'a.mp4,5,5,0', expected time_start < time_end"),
        ("video_id,t,x1,y1,x2,y2,action_id,person_id\na,902,0.1,0.2,0.3,0.8,80,1\n", r"lists boxes of persons"),
        ("a.mp4 3 5\nb.mp4 1\n", r"csv:1: got 'a.mp4 3 5', expected a path and one class"),
    ],
)
def test_unclear_lists_raise_with_their_columns(tmp_path, text, message):
    touch(tmp_path / "a.mp4")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_clips(tmp_path / "list.csv")


def test_clips_of_another_suffix_than_listed_are_named(tmp_path):
    touch(*(tmp_path / name for name in ("1.mp4", "2.mkv", "2.webm", "3.avi", "3.mp4", "v1.2.mp4", "v1.3.mp4")))
    folder_of_frames(tmp_path / "x/4")
    (tmp_path / "list.txt").write_text("1.avi a\n2.mp4 a\n3.avi b\n4.mov b\nv1.2.avi a\n5.avi a\n")
    clips = find_clips(tmp_path / "list.txt", on_error="skip")
    assert [name for name, _ in meaning(clips)] == ["1.mp4", "3.avi", "x/4", "v1.2.mp4", "5.avi"]
    assert clips.notes == ("3 clips of another suffix than listed, such as '1.mp4' for '1.avi'",)
    (problem,) = clips.problems
    assert problem.endswith("list.txt:2: '2.mp4' matches several files: 2.mkv, 2.webm")
    assert [path.name for path in clips.missing] == ["5.avi"]


def test_charades_has_several_classes_per_clip(tmp_path):
    touch(*(tmp_path / f"Charades_v1_480/{name}.mp4" for name in ("46GP8", "N11GT", "0IH69")))
    train = '46GP8,x,Kitchen,6,7,Yes,"a, b",c,d,c092 11.90 21.20;c147 0.00 12.60;c092 30.00 31.00,24\n'
    train += "N11GT,x,K,,,,,,,,9\n"
    (tmp_path / "Charades_v1_train.csv").write_text(CHARADES + train)
    (tmp_path / "Charades_v1_test.csv").write_text(CHARADES + "0IH69,x,K,,,,,,,c147 0.00 8.00,9\n")
    clips = find_clips(tmp_path, "train")
    assert clips.is_multi_label
    assert clips.classes == ("c092", "c147")
    assert [(clips.name(clip), clip.labels) for clip in clips.clips] == [("Charades_v1_480/46GP8.mp4", (0, 1))]
    assert "several classes per clip, 1 clips without a class are not used" in clips.recognized
    assert [clip.labels for clip in find_clips(tmp_path, "test").clips] == [(1,)]
    names = "".join(f"c{number:03d} Action {number}\n" for number in range(157))
    (tmp_path / "Charades_v1_classes.txt").write_text(names)
    clips = find_clips(tmp_path, "train", on_error="skip")
    assert clips.clips[0].labels == (92, 147)
    assert clips.classes[147] == "c147 Action 147"


@pytest.mark.parametrize("text", ["path,labels\na/1.mp4,run;walk\n", "path,tags\na/1.mp4,run | walk\n"])
def test_a_column_of_several_classes(tmp_path, text):
    touch(tmp_path / "a/1.mp4")
    (tmp_path / "list.csv").write_text(text)
    clips = find_clips(tmp_path / "list.csv")
    assert (clips.is_multi_label, clips.clips[0].all_labels, clips.classes) == (True, (0, 1), ("run", "walk"))


def test_json_with_several_classes_per_clip(tmp_path):
    touch(tmp_path / "a/1.mp4", tmp_path / "a/2.mp4")
    (tmp_path / "list.json").write_text(
        json.dumps([{"path": "a/1.mp4", "label": ["walk", "run"]}, {"path": "a/2.mp4", "label": ["run"]}])
    )
    clips = find_clips(tmp_path / "list.json")
    assert [clip.labels for clip in clips.clips] == [(1, 0), (0,)]


def test_diving48_with_its_vocabulary(tmp_path):
    touch(tmp_path / "rgb/1.mp4")
    (tmp_path / "Diving48_V2_train.json").write_text('[{"vid_name": "1", "label": 1, "start_frame": 0}]')
    (tmp_path / "Diving48_vocab.json").write_text('[["Back", "15som"], ["Forward", "FREE"]]')
    clips = find_clips(tmp_path, "train", on_error="skip")
    assert meaning(clips) == [("rgb/1.mp4", "Forward FREE")]


def test_clips_elsewhere_by_root_and_prefix(tmp_path):
    touch(tmp_path / "far/a/1.mp4", tmp_path / "lists/x.txt")
    (tmp_path / "lists/list.csv").write_text("/home/ann/data/a/1.mp4,run\n")
    with pytest.raises(ValueError, match=r"is outside .*or give the folder of the clips as root"):
        find_clips(tmp_path / "lists/list.csv")
    clips = find_clips(tmp_path / "lists/list.csv", clip_root=tmp_path / "far", prefix="/home/ann/data")
    assert meaning(clips) == [("a/1.mp4", "run")]
