"""Tables of predictions, written and read back."""

import csv
import sys
from pathlib import Path

import pytest
import torch

for module, extra in {"av": "video", "accelerate": "train", "torchmetrics": "train", "timm": "train"}.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from torch_nonlocal.data.broken import BrokenClips  # noqa: E402 (after the skips)
from torch_nonlocal.data.clip_list import Clip, ClipList  # noqa: E402
from torch_nonlocal.tasks.action.evaluation import Evaluation  # noqa: E402
from torch_nonlocal.tasks.action.metrics import score  # noqa: E402
from torch_nonlocal.tasks.action.predictions import check_format, write_predictions  # noqa: E402

ROOT = Path("/clips")


def outcome(classes, scores, labels, names=None):
    """The outcome of a test whose first clip could not be read."""
    names = names or [f"{classes[label]}/{number}.mp4" for number, label in enumerate(labels)]
    clips = (
        Clip(ROOT / "unread.mp4", 0),
        *(Clip(ROOT / name, label) for name, label in zip(names, labels, strict=True)),
    )
    scores, labels = torch.tensor(scores), torch.tensor(labels)
    indices = torch.arange(1, len(clips))
    clip_list = ClipList(ROOT, tuple(classes), clips)
    return Evaluation(score(scores, labels), clip_list, indices, scores, labels, BrokenClips(), [], "")


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_parquet(path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'torch-nonlocal[parquet]'")
    return parquet.read_table(path).to_pylist()


READERS = {"csv": read_csv, "parquet": read_parquet}


@pytest.mark.parametrize("kind", READERS)
def test_table_has_a_row_for_every_clip_that_was_read(kind, tmp_path):
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pip install 'torch-nonlocal[parquet]'")
    tested = outcome(["jump", "run", "wave"], [[0.5, 0.25, 0.25], [0.125, 0.625, 0.25]], [0, 2])
    first, second = READERS[kind](write_predictions(tested, tmp_path / f"predictions.{kind}"))
    assert list(first) == [
        *("clip", "path", "true_label", "label", "probability", "true_probability", "true_rank"),
        *("label_2", "probability_2", "label_3", "probability_3"),
        *(f"probability {name}" for name in ("jump", "run", "wave")),
    ]
    assert (first["clip"], first["path"], first["label"]) == ("jump/0.mp4", str(ROOT / "jump/0.mp4"), "jump")
    assert (second["true_label"], second["label"], second["label_2"], second["label_3"]) == (
        "wave",
        "run",
        "wave",
        "jump",
    )
    named = ("probability", "true_probability", "true_rank", "probability_2")
    named += tuple(f"probability {name}" for name in ("jump", "run", "wave"))
    assert [float(second[name]) for name in named] == [0.625, 0.25, 2, 0.25, 0.125, 0.625, 0.25]
    assert int(first["true_rank"]) == 1


def test_classes_with_equal_scores_appear_once(tmp_path):
    tested = outcome(["a", "b", "c"], [[0.25, 0.375, 0.375]], [2])
    (row,) = read_csv(write_predictions(tested, tmp_path / "predictions.csv"))
    assert sorted([row["label"], row["label_2"], row["label_3"]]) == ["a", "b", "c"]
    assert row["true_rank"] == "1"


@pytest.mark.parametrize(("kind", "columns"), [("csv", 7 + 2 * 4), ("parquet", 7 + 2 * 4 + 101)])
def test_only_parquet_has_all_scores_of_many_classes(kind, columns, tmp_path):
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pip install 'torch-nonlocal[parquet]'")
    scores = torch.rand(1, 101, generator=torch.Generator().manual_seed(0)).softmax(1)
    tested = outcome([f"class {k}" for k in range(101)], scores.tolist(), [7])
    (row,) = READERS[kind](write_predictions(tested, tmp_path / f"predictions.{kind}"))
    assert len(row) == columns
    order = scores[0].argsort(descending=True)[:5].tolist()
    assert [row[name] for name in ("label", "label_2", "label_3", "label_4", "label_5")] == [
        f"class {k}" for k in order
    ]
    assert float(row["true_probability"]) == pytest.approx(float(scores[0, 7]), abs=1e-6)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("name", "in_csv", "in_parquet"),
    [
        ("a, \"b\" 'c'.mp4", "a, \"b\" 'c'.mp4", "a, \"b\" 'c'.mp4"),
        ("日本/é.mp4", "日本/é.mp4", "日本/é.mp4"),
        ("two\nlines.mp4", r"two\nlines.mp4", "two\nlines.mp4"),
        ("no \udcff text.mp4", r"no \udcff text.mp4", r"no \udcff text.mp4"),
        ("=1+1.mp4", "'=1+1.mp4", "=1+1.mp4"),
        ("@x/\u202e.mp4", r"'@x/\u202e.mp4", "@x/\u202e.mp4"),
    ],
    ids=["quotes", "other scripts", "line break", "undecodable bytes", "formula", "direction mark"],
)
def test_any_file_name_can_be_written(kind, name, in_csv, in_parquet, tmp_path):
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pip install 'torch-nonlocal[parquet]'")
    tested = outcome(["a", "b"], [[0.75, 0.25]], [1], [name])
    (row,) = READERS[kind](write_predictions(tested, tmp_path / f"predictions.{kind}"))
    assert row["clip"] == {"csv": in_csv, "parquet": in_parquet}[kind]


def test_classes_are_no_formulas_in_csv_and_numbers_stay_numbers(tmp_path):
    tested = outcome(["-1", "=HYPERLINK(A1)", "+x"], [[0.5, 0.25, 0.25], [0.125, 0.625, 0.25]], [0, 2])
    first, second = read_csv(write_predictions(tested, tmp_path / "predictions.csv"))
    assert (first["true_label"], first["label_2"], second["label"]) == ("-1", "'=HYPERLINK(A1)", "'=HYPERLINK(A1)")
    assert (second["true_label"], second["label_2"]) == ("'+x", "'+x")
    assert float(first["probability =HYPERLINK(A1)"]) == 0.25


def test_other_endings_raise_and_write_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"expected a file name that ends in \.csv or \.parquet"):
        write_predictions(outcome(["a", "b"], [[0.75, 0.25]], [0]), tmp_path / "predictions.xlsx")
    assert not list(tmp_path.iterdir())


def test_parquet_without_pyarrow_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(ImportError, match=r"torch-nonlocal\[parquet\]"):
        check_format("parquet")
    check_format("csv")
