"""Lists as strangers write them: each mistake is one line, and reading costs no more than the list holds."""

import json
import os
import subprocess
import sys

import pytest
from clip_files import touch

from torch_nonlocal.data import find_clips, train_and_test

KINETICS = "label,youtube_id,time_start,time_end\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "kinetics_train.csv",
            KINETICS + "run,1,1e999,10\n",
            r"csv:2: got 'run,1,1e999,10', expected label,",
        ),
        ("kinetics_train.csv", KINETICS + "run,1,nan,10\n", r"csv:2: got 'run,1,nan,10', expected label,youtube_id"),
        ("kinetics_train.csv", KINETICS + "run,1,-5,10\n", r"expected 0 <= time_start <= time_end < 1,000,000 seconds"),
        ("kinetics_train.csv", KINETICS + "run,1,9,1e300\n", r"expected 0 <= time_start <= time_end < 1,000,000"),
        ("train.csv", "1.mp4,0\n1.mp4," + "9" * 5000 + "\n", r"train.csv:2: label 9{200}\.\.\. is out of range"),
        (
            "train.csv",
            f"1.mp4,0\n{'x' * 20000},1\n",
            r"train.csv:2: the line has 20,002 characters, expected at most 16,384",
        ),
        ("train.csv", f"1.mp4,0\n{'x' * 9000}.mp4,0\n", ""),
        ("train.csv", "a\n" * 1_000_001, r"has 1,000,001 lines, expected at most 1,000,000"),
        ("train.csv", "1.mp4,0\n\0.mp4,0\n", r"train.csv:2: '\\x00.mp4' is outside"),
        ("train.json", "[" * 100_000, r"train.json' is not a list of clips: maximum recursion depth"),
        ("train.json", "[" + "[]," * 2_000_000 + "1]", r"train.json' is not a list of clips: it holds mostly brackets"),
        (
            "train.json",
            '[{"path": "1.mp4", "label": 1e999}]',
            r"train.json: entry 1: got .*Infinity.*, expected an object",
        ),
        ("train.json", '[{"path": "1.mp4", "label": null}]', r"entry 1: got .*null.*, expected an object with a path"),
        ("train.json", '[{"path": "1.mp4", "label": [["x"]]}]', r"entry 1: got .*, each a text or a whole number"),
        ("train.json", f'[{{"path": "1.mp4", "label": {"9" * 5000}}}]', r"train.json' is not a list of clips: Exceeds"),
        ("train.json", "[7]", r"train.json: entry 1: got '7', expected an object with a path or id"),
        ("train.json", '{"a": 1}', r"contains a dict, expected a list"),
        ("classInd.txt", "² run\n", r"classInd.txt:1: got '² run', expected class number 1"),
        ("labels.json", '{"run": "x"}', r"labels.json' expected 1 classes numbered 0 to 0"),
        ("labels.json", '{"run": 1e999}', r"labels.json' expected 1 classes numbered 0 to 0"),
        ("labels.json", '{"run": 0, "walk": 0}', r"labels.json' expected 2 classes numbered 0 to 1"),
        ("labels.json", '{"run": null}', r"labels.json' expected 1 classes numbered 0 to 0"),
    ],
)
def test_values_of_lists_are_checked(tmp_path, name, text, message):
    touch(tmp_path / "1.mp4", tmp_path / "2.mp4")
    (tmp_path / name).write_text(text, "utf-8")
    if name.startswith(("classInd", "labels")):
        (tmp_path / "train.csv").write_text("1.mp4,run\n")
    if not message:
        assert len(find_clips(tmp_path).missing) == 1  # a name too long for a file is that of a missing clip
        return
    with pytest.raises(ValueError, match=message) as caught:
        find_clips(tmp_path)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_a_list_that_is_not_a_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "train.csv")
    with pytest.raises(ValueError, match="no clips"):
        find_clips(tmp_path)


def test_a_huge_list_is_refused_by_its_size(tmp_path):
    touch(tmp_path / "1.mp4")
    with (tmp_path / "train.csv").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"train.csv' has 1,048,576 MB, expected a list of at most 64 MB"):
        find_clips(tmp_path)


COST = """
import resource, sys
import torch_nonlocal.data.clips as clips
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
before = peak()
try:
    found = clips.find_clips(sys.argv[1], on_error="skip")
    print(len(found), len(found.problems))
except ValueError as error:
    print(str(error)[:200])
used = resource.getrusage(resource.RUSAGE_SELF)
print(peak() - before, used.ru_utime + used.ru_stime)
"""


@pytest.mark.parametrize("kind", ["unknown classes", "one class a line", "objects"])
def test_the_cost_of_a_list_is_bounded(tmp_path, kind):
    touch(tmp_path / "1.mp4")
    lines = 40_000
    if kind == "unknown classes":  # the nearest of all classes is not searched for each of them
        (tmp_path / "classes.txt").write_text("".join(f"class number {number}\n" for number in range(3000)))
        (tmp_path / "train.csv").write_text("".join(f"{number}.mp4,class numbr {number}\n" for number in range(lines)))
    elif kind == "one class a line":
        (tmp_path / "train.csv").write_text("".join(f"{number}.mp4,c{number}\n" for number in range(lines)))
    else:
        entries = [{"path": f"{number}.mp4", "label": "x"} for number in range(lines)]
        (tmp_path / "train.json").write_text(json.dumps(entries))
    done = subprocess.run(
        [sys.executable, "-c", COST, str(tmp_path)], capture_output=True, text=True, check=True, timeout=100
    )
    mebibytes, seconds = map(float, done.stdout.splitlines()[-1].split())
    assert mebibytes < 500
    assert seconds < 10


def test_held_out_clips_are_chosen_in_one_pass(tmp_path):
    """With one class per clip, a pass over all clips for each class would take minutes."""
    (tmp_path / "all.csv").write_text("".join(f"{number}.mp4,c{number}\n" for number in range(30_000)))
    train, test = train_and_test(tmp_path / "all.csv", on_error="skip")
    assert (len(train), len(test)) == (30_000, 0)


def test_messages_cut_long_class_names(tmp_path) -> None:
    touch(tmp_path / "run" / "a.mp4")
    (tmp_path / "classInd.txt").write_text(f"1 run\n2 {'x' * 5000}\n")
    (tmp_path / "trainlist01.txt").write_text("run/a.mp4 1\n")
    with pytest.raises(ValueError, match=r"class 'x{200}\.\.\.' \(number 1\) of .* is empty") as raised:
        find_clips(tmp_path)
    assert len(str(raised.value)) < 600
