"""`nonlocal predict` on a tiny network: tables, files, time lines, broken clips and mistakes."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import torch

for package in ("accelerate", "av", "rich", "torchmetrics", "torchvision", "tyro"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[train]'")

from action_runs import SETTINGS, Mean, film, use_tiny_networks  # noqa: E402

import torch_nonlocal as nl  # noqa: E402
from torch_nonlocal.cli import main  # noqa: E402
from torch_nonlocal.media import write_mp4  # noqa: E402
from torch_nonlocal.training import TrainConfig  # noqa: E402
from torch_nonlocal.training.run_folder import RunFolder  # noqa: E402

CLASSES = ("red", "green", "blue")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with best.pt of a network that names the strongest color, and films."""
    use_tiny_networks(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    saved(Path("best.pt"))
    for color, name in enumerate(CLASSES):
        film(Path("films", f"{name}.mp4"), color, color=color)
    return tmp_path


def saved(path, settings=SETTINGS, bias=(0.0, 0.0, 0.0)):
    model = Mean(3)
    with torch.no_grad():
        model.last.weight.copy_(4 * torch.eye(3))
        model.last.bias.copy_(torch.tensor(bias))
    about = {"task": "action", **dataclasses.asdict(settings), "classes": list(CLASSES)}
    RunFolder(path.parent, TrainConfig(steps=1), about).write_weights(path, model.state_dict(), step=1, metrics={})
    return path


def run(*words):
    """The exit code of the command."""
    try:
        main(["predict", "best.pt", "--workers", "0", *map(str, words)])
    except SystemExit as end:
        return end.code
    return 0


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_the_top_classes_of_each_clip_within_80_columns(capsys):
    long = film(Path("films", "a" * 100 + ".mp4"), 7, color=1)
    assert run("films", "--top", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    lines = [line.strip() for line in lines]
    rows = [line.split() for line in lines if line.startswith("films/") and ".mp4" in line]
    assert [(row[0], row[1]) for row in rows] == [(f"films/{name}.mp4", name) for name in sorted(CLASSES)]
    found = nl.load("best.pt").predict("films/blue.mp4")
    assert next(row for row in rows if "blue" in row)[2] == f"{found.probability:.3f}"
    assert sum(line.split()[-1][:2] in ("0.", "1.") for line in lines if line.strip()) == 2 * 4
    assert "".join(line.split()[0] for line in lines if "aaa" in line).startswith(f"films/{long.stem[:20]}")


def test_files_hold_the_predictions_of_the_model(capsys):
    pytest.importorskip("pyarrow", reason="pip install 'torch-nonlocal[parquet]'")
    from pyarrow import parquet

    outputs = "--json", "p.json", "--csv", "p.csv", "--parquet", "p.parquet"
    assert run("films/*.mp4", *outputs, "--top", 2) == 0
    found = nl.load("best.pt").predict(sorted(Path("films").glob("*.mp4")))
    held = json.loads(Path("p.json").read_text())
    assert held["classes"] == list(CLASSES)
    assert held["not_read"] == []
    table = rows_of("p.csv")
    rows = parquet.read_table("p.parquet").to_pylist()
    assert len(held["predictions"]) == len(table) == len(rows) == 3
    for one, plain, line, row in zip(found, held["predictions"], table, rows, strict=True):
        expected = dict(zip(one.classes, one.probabilities, strict=True))
        assert plain["clip"] == line["clip"] == row["clip"] == one.clip
        assert plain["labels"] == [one.label]
        assert plain["top"] == [{"label": name, "probability": value} for name, value in one.top(2)]
        assert plain["probabilities"] == [expected[name] for name in CLASSES]
        assert (plain["label"], plain["probability"]) == (one.label, one.probability)
        assert line["label"] == row["label"] == one.label
        assert float(line["probability"]) == pytest.approx(one.probability, abs=1e-6)
        assert line["label_2"] == row["label_2"] == one.classes[1]
        for name in CLASSES:
            assert float(line[f"probability {name}"]) == pytest.approx(expected[name], abs=1e-6)
            assert row[f"probability {name}"] == pytest.approx(expected[name], abs=1e-7)
        assert [name for name in row if not name.startswith("probability ")] == [
            *("clip", "label", "probability", "label_2", "probability_2")
        ]


def test_broken_clips_are_named_and_skipped_with_exit_code_1(capsys):
    Path("films", "broken.mp4").write_bytes(b"\0" * 2000)
    film(Path("films", "short.mp4"), 3, frames=1)
    assert run("films", "--json", "p.json") == 1
    printed = capsys.readouterr().out
    assert "films/broken.mp4" in printed
    assert "too short: 'films/short.mp4' has 1 frame, expected at least 2" in printed
    assert "2 of 5 clips not read" in printed
    held = json.loads(Path("p.json").read_text())
    assert [entry["path"] for entry in held["not_read"]] == ["films/broken.mp4", "films/short.mp4"]
    assert len(held["predictions"]) == 3


def test_nothing_is_written_if_no_clip_can_be_read(capsys):
    Path("broken.mp4").write_bytes(b"\0" * 2000)
    before = set(Path().iterdir())
    for more in ((), ("--every", "1s", "--picture", "p.png")):
        assert run("broken.mp4", "--json", "p.json", "--csv", "p.csv", *more) == 1
        assert "nothing is written" in capsys.readouterr().out
        assert set(Path().iterdir()) == before


def test_audio_only_is_named(capsys):
    import av

    with av.open("song.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(torch.zeros(1, 1024).numpy(), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert run("song.mp4") == 1
    assert "audio only: " in capsys.readouterr().out


def colors_over_time(path, colors, *, rate=10):
    """A film with one second of each color."""
    frames = torch.full((len(colors) * rate, 32, 32, 3), 40, dtype=torch.uint8)
    for second, color in enumerate(colors):
        frames[second * rate : (second + 1) * rate, ..., color] = 200
    return write_mp4(path, frames, rate)


def test_a_time_line_has_one_row_per_interval(capsys, monkeypatch):
    from torch_nonlocal.tasks.action import time_line

    pytest.importorskip("matplotlib", reason="pip install 'torch-nonlocal[view]'")
    colors = [0, 0, 2, 1, 2, 0]
    colors_over_time(Path("long.mp4"), colors)
    outputs = "--json", "p.json", "--csv", "p.csv", "--picture", "p.png"
    assert run("long.mp4", "--every", "1s", *outputs) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed if line.strip()[:2] == "0:"] == [CLASSES[k] for k in colors]
    held = json.loads(Path("p.json").read_text())["predictions"]
    assert [(row["start"], row["end"]) for row in held] == [(float(k), float(k + 1)) for k in range(6)]
    assert [row["labels"][0] for row in held] == [CLASSES[k] for k in colors]
    assert rows_of("p.csv")[0]["end"] == "1.000000"
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(time_line, "_HELD", 1)  # one interval at a time
    assert run("long.mp4", "--every", "1000ms", "--json", "one.json") == 0
    assert json.loads(Path("one.json").read_text())["predictions"] == held


def test_a_row_of_a_time_line_is_the_prediction_of_its_frames():
    from torch_nonlocal.media import read_clip
    from torch_nonlocal.tasks.action.time_line import time_line

    path, model = colors_over_time(Path("long.mp4"), [0, 2, 1, 0]), nl.load("best.pt")
    rows = time_line(model, path, every=1.5)
    assert [(row.start, row.end) for row in rows] == [(0.0, 1.5), (1.5, 3.0), (3.0, 4.0)]
    for row, frames in zip(rows, ([6, 8], [21, 23], [34, 36]), strict=True):
        expected = model.predict(read_clip(path, frames=frames), views=1)
        assert (row.classes, row.probabilities) == (expected.classes, expected.probabilities)


def test_a_row_of_a_uniform_network_covers_its_own_interval(capsys):
    from torch_nonlocal.media import read_clip
    from torch_nonlocal.tasks.action.time_line import time_line

    path = colors_over_time(Path("long.mp4"), [0, 2, 1, 0])  # 40 frames at 10 fps
    saved(Path("best.pt"), dataclasses.replace(SETTINGS, frames="uniform-3"))
    model = nl.load("best.pt")
    rows = time_line(model, path, every=1.5)
    assert [(row.start, row.end, row.note) for row in rows] == [(0.0, 1.5, ""), (1.5, 3.0, ""), (3.0, 4.0, "")]
    for row, frames in zip(rows, ([2, 7, 12], [17, 22, 27], [31, 34, 38]), strict=True):
        expected = model.predict(read_clip(path, frames=frames), views=1)
        assert (row.classes, row.probabilities) == (expected.classes, expected.probabilities)
    dense = time_line(model, path, every=0.05)
    assert [row.label for row in dense] == [CLASSES[color] for color in (0, 2, 1, 0) for _ in range(20)]
    assert run(path, "--every", "200ms") == 0
    printed = capsys.readouterr().out
    assert "each row covers its own interval of 0.2 s: one frame of each of 3 equal parts" in printed
    assert "note: 20 of 20 rows with too few frames, such as 2 frames, the network takes 3: frames repeat" in printed
    assert "in order; a larger --every gives them more frames" in printed


def test_repeated_frames_are_noted(capsys):
    saved(Path("best.pt"), dataclasses.replace(SETTINGS, frames="8x2"))
    film(Path("films", "long.mp4"), 5, frames=8)
    assert run("films", "--json", "p.json", "--csv", "p.csv") == 0
    note = "6 frames, the network takes 8: they repeat from the start"
    printed = capsys.readouterr().out
    assert printed.count("note: ") == 3
    assert f"note: films/red.mp4: {note}" in printed
    held = json.loads(Path("p.json").read_text())["predictions"]
    assert [one.get("note") for one in held] == [note, note, None, note]
    assert [row["note"] for row in rows_of("p.csv")] == [note, note, "", note]
    assert run("films/red.mp4", "--every", "1s") == 0
    assert "each row covers 16 frames around the middle of its interval" in capsys.readouterr().out


def test_several_classes_are_marked(capsys):
    saved(Path("best.pt"), dataclasses.replace(SETTINGS, multi_label=True), bias=(-6.0, 6.0, 6.0))
    assert run("films/red.mp4", "--csv", "p.csv") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[-1] for line in lines if "green" in line or "blue" in line] == ["yes", "yes"]
    assert [line[-1] == "yes" for line in lines if "red" in line] == [False]
    assert set(rows_of("p.csv")[0]["labels"].split("; ")) == {"green", "blue"}


def test_names_are_no_formulas_no_markup_and_no_control_characters(capsys):
    names = ["=1+1", "red", "blue[/]"]
    Path("films/red.mp4").rename("films/\x1b[31mred.mp4")
    about = {"task": "action", **dataclasses.asdict(SETTINGS), "classes": names}
    model = Mean(3)
    RunFolder(Path(), TrainConfig(steps=1), about).write_weights(
        Path("best.pt"), model.state_dict(), step=1, metrics={}
    )
    assert run("films/\x1b[31mred.mp4", "--csv", "p.csv") == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\\x1b[31mred.mp4" in printed
    assert "blue[/]" in printed
    assert "'=1+1" in Path("p.csv").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected a video, a folder or a pattern"),
        (("films/rde.mp4",), "no file 'films/rde.mp4'; did you mean 'films/red.mp4'?"),
        (("films/*.avi",), "no file matches 'films/*.avi'"),
        (("nowhere/a.mp4",), "there is no folder 'nowhere'"),
        (("empty",), "'empty' has no clips"),
        (("films", "--json", "there.json"), "--json there.json exists; --overwrite replaces it"),
        (("films", "--json", "nowhere/p.json"), "--json nowhere/p.json: there is no folder nowhere"),
        (("films", "--json", "same", "--csv", "same"), "--json and --csv name the same file, same"),
        (("films", "--every", "fast"), "--every fast: expected a time above 0, such as 1s"),
        (("films", "--every", "0s"), "--every 0s: expected a time above 0"),
        (("films/red.mp4", "--picture", "p.png"), "--picture draws a time line: expected --every"),
        (("films", "--every", "1s", "--picture", "p.png"), "expected one video, got 3 clips"),
        (("films/red.mp4", "--every", "1s", "--picture", "p.jpg.gz"), "expected a name that ends in .pdf, .png, .svg"),
        (("films/red.mp4", "--every", "0.000001s"), "expected at most 100,000"),
        (("films", "--top", 0), "--top 0: expected 1 or more"),
        (("films", "--tpo", 3), "did you mean --top"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(map(str, value)) or "nothing",
)
def test_mistakes_end_in_one_line_and_leave_no_file(words, message, capsys):
    Path("empty").mkdir()
    Path("there.json").write_text("kept")
    before = set(Path().rglob("*"))
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert set(Path().rglob("*")) == before
    assert Path("there.json").read_text() == "kept"


def test_overwrite_replaces_outputs():
    Path("p.json").write_text("former")
    assert run("films/red.mp4", "--json", "p.json", "--overwrite") == 0
    assert json.loads(Path("p.json").read_text())["predictions"][0]["labels"] == ["red"]


def test_a_folder_of_frames_is_a_clip(capsys):
    pytest.importorskip("PIL", reason="pip install 'torch-nonlocal[view]'")
    from PIL import Image

    for number in range(4):
        Path("frames").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (0, 200, 0)).save(f"frames/{number:03d}.png")
    assert run("frames") == 0
    assert "green" in capsys.readouterr().out.splitlines()[3]
    assert run("frames", "--every", "1s") == 1
    assert "a folder of images, which has no frame rate" in capsys.readouterr().out
