"""What training and tests refuse: named before anything else is printed, and reported by the check."""

import random
import sys
from pathlib import Path

import pytest

for package in ("tyro", "rich", "accelerate", "av", "pytorch_metric_learning", "sklearn", "timm", "torchvision"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[reid]'")

sys.path.insert(0, str(Path(__file__).parents[2] / "data" / "tracklets"))

import miniatures  # noqa: E402
import numpy as np  # noqa: E402

from torch_nonlocal.cli import main  # noqa: E402
from torch_nonlocal.data.tracklets import check_tracklets, find_tracklets  # noqa: E402
from torch_nonlocal.tasks.reid.data import retrieval_data, training_data  # noqa: E402
from torch_nonlocal.tasks.reid.metrics import evaluate_embeddings  # noqa: E402
from torch_nonlocal.tasks.reid.settings import ReidSettings  # noqa: E402

SETTINGS = ReidSettings(height=16, width=8, held_out=0.4)


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--seeds", "2"]])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-sett", "there is no folder or table 'my-sett'; did you mean 'my-set'?"),
        (
            "walk.mp4",
            "'walk.mp4' is a video, one tracklet: `nonlocal gallery build` and `add` store it with --identity NAME; ",
        ),
        ("my-set", "'my-set' has no known layout; it is empty"),
    ],
)
def test_data_that_are_no_set_are_named_before_the_settings(
    tmp_path: Path, monkeypatch, capsys, name: str, message: str, options: list[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-set").mkdir()
    (tmp_path / "walk.mp4").write_bytes(b"x")
    with pytest.raises(SystemExit):
        main(["train", "reid", "--data", name, *options])
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""
    assert not (tmp_path / "runs").exists()


def refused(read, *arguments) -> bool:
    try:
        read(*arguments)
    except ValueError:
        return True
    return False


def rank(data: Path) -> None:
    """Rank the queries of a set by random embeddings, as a test does."""
    found, _ = retrieval_data(data, SETTINGS, 0)
    ids, cameras = np.array(found.identities), np.array(found.cameras)
    vectors = np.random.default_rng(0).normal(size=(len(ids), 4))
    query, gallery = list(found.query), list(found.gallery)
    index = None if found.query_index is None else np.array(found.query_index)
    labels = ids[gallery], cameras[gallery], ids[query], cameras[query]
    evaluate_embeddings(vectors[query], vectors[gallery], *labels, protocols=("official",), query_index=index)


def test_training_and_tests_accept_what_the_check_accepts(tmp_path: Path):
    """Random tables: identities, cameras, splits and roles of up to nine tracklets."""
    miniatures.picture(tmp_path / "1.png", 1)
    draw = random.Random(3)
    header = "tracklet,identity,camera,frames,split,role"
    seen = set()
    for _ in range(300):
        splits = draw.choice([("train", "test"), ("train", "query", "gallery"), ("query", "gallery"), ("test",)])
        rows = []
        for number in range(draw.randint(1, 9)):
            split, role = draw.choice(splits), draw.choice(["", "", "", "junk", "distractor"])
            identity = f"{'x' if split == 'train' else ''}{draw.randrange(2)}"
            rows.append((number, identity, draw.randint(1, 2), "1.png", split, role))
        file = miniatures.table(tmp_path / "set.csv", rows, header)
        report = check_tracklets(find_tracklets(file), workers=1)
        kinds = {one.kind for one in report.problems} - {"same picture"}
        remarks = {one.kind for one in report.remarks}
        trains, tests = not refused(training_data, file, SETTINGS, 0), not refused(rank, file)
        seen.add((trains, tests, bool(kinds)))
        assert trains or kinds or "no training data" in remarks, rows
        assert tests or kinds or "no test data" in remarks, rows
        assert not (tests and kinds & {"no match", "wrong query"}), rows
    assert {(True, True, False), (False, True, False), (False, False, True)} <= seen
