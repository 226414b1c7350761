"""Data are opened before training: validation clips that cannot be read, classes that do not agree, the dry run."""

import dataclasses
import json

import pytest

MODULES = {"av": "video", "accelerate": "train", "torchmetrics": "train", "torchvision": "train"}
for module, extra in MODULES.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from action_runs import CONFIG, SETTINGS, film, film_classes, train, use_tiny_networks  # noqa: E402 (after the skips)

from torch_nonlocal.tasks.action import task as action  # noqa: E402
from torch_nonlocal.tasks.action.evaluation import evaluate  # noqa: E402
from torch_nonlocal.tasks.action.spec import ACTION  # noqa: E402
from torch_nonlocal.training import load_weights_file  # noqa: E402


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    use_tiny_networks(monkeypatch)


@pytest.fixture
def data(tmp_path):
    """Four training clips and four validation clips."""
    for seed, name in enumerate(("train", "val")):
        film_classes(tmp_path / "data" / name, 2, seed=seed + 1)
    return tmp_path / "data"


def ruin(folder):
    for path in folder.rglob("*.mp4"):
        path.write_bytes(b"no video" + str(path).encode())


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_that_cannot_be_read_is_an_error_before_training(data, tmp_path, split, monkeypatch):
    ruin(data / split)
    what = {"train": "training", "val": "validation"}[split]
    monkeypatch.setattr(action, "fit", lambda *arguments, **options: pytest.fail("training begins"))
    with pytest.raises(
        ValueError, match=rf"none of the 4 {what} clips can be read; the first: '.*/{split}/blue/0\.mp4'"
    ):
        train(data, tmp_path / "run")


def test_one_broken_validation_clip_is_skipped_or_fails_before_training(data, tmp_path):
    (data / "val" / "red" / "1.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"val/red/1\.mp4' is not a video"):
        train(data, tmp_path / "fail", on_error="fail")
    assert not (tmp_path / "fail" / "metrics.jsonl").exists()
    assert train(data, tmp_path / "skip")[0].status == "finished"


def test_validation_clips_of_classes_without_training_clips(data, tmp_path):
    (data / "val" / "red").rename(data / "val" / "rad")
    message = "2 of 4 validation clips are of classes without training clips: 'rad'"
    result, _ = train(data, tmp_path / "run")
    assert message in (result.run_dir / action.LEFT_OUT).read_text()
    with pytest.raises(ValueError, match=f"{message}; expected the same classes in both"):
        train(data, tmp_path / "fail", on_error="fail")
    (data / "val" / "blue").rename(data / "val" / "blau")
    with pytest.raises(
        ValueError, match="4 of 4 validation clips are of classes without training clips: 'blau', 'rad'"
    ):
        train(data, tmp_path / "other")


def test_the_dry_run_opens_the_data(data, capsys, tmp_path, monkeypatch):
    pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
    from torch_nonlocal.cli.entry import main

    monkeypatch.chdir(tmp_path)
    words = ["train", "action", "--data", "data", "--dry-run", "--frames", "8x8", "--fps", "12.5"]
    words += ["--non-local", "none"]
    main(words)
    printed = capsys.readouterr().out
    assert "data: 4 training clips, 4 validation clips" in printed
    assert "a clip spans 64 frames at 12.5 fps: 5.1 s" in printed
    for changed, message in (
        (["--network", "smal"], "network 'smal': did you mean 'small'?"),
        (["--non-local", "lst"], "did you mean 'last'?"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *changed])
        assert message in capsys.readouterr().err
    ruin(data / "val")
    with pytest.raises(SystemExit):
        main(words)
    assert "none of the 4 validation clips can be read" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_dry_run_without_data_opens_nothing():
    ACTION.check_data(None, SETTINGS, log=pytest.fail)


def test_the_frame_rate_is_kept_with_the_weights_and_said_at_the_start(data, tmp_path):
    film(data / "train" / "red" / "slow.mp4", 5, rate=100)
    result, lines = train(data, tmp_path / "own")
    assert "a clip spans 4 frames: 0.0 s at 100 fps to 0.2 s at 25 fps (5 clips sampled)" in lines
    assert "warning: the frame rates differ; --fps 25 gives all clips the same span" in lines
    result, lines = train(data, tmp_path / "run", dataclasses.replace(SETTINGS, fps=20.0), CONFIG)
    assert "a clip spans 4 frames at 20 fps: 0.2 s" in lines
    assert load_weights_file(result.weights)["about"]["fps"] == 20.0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["about"]["fps"] == 20.0


def test_lists_beside_their_clips_are_trained_and_tested(data, tmp_path):
    """A list for training and one for validation, whose names start with a folder of another machine."""
    lists = tmp_path / "lists"
    lists.mkdir()
    for split in ("train", "val"):
        names = sorted(path.relative_to(data).as_posix() for path in (data / split).rglob("*.mp4"))
        (lists / f"my-{split}.txt").write_text("".join(f"/else/{name} {name.split('/')[1]}\n" for name in names))
    places = {"val": str(lists / "my-val.txt"), "root": str(data), "prefix": "/else"}
    result, lines = train(lists / "my-train.txt", tmp_path / "run", dataclasses.replace(SETTINGS, **places))
    assert any("4 training clips, 4 validation clips" in line for line in lines)
    assert not {"val", "root", "prefix", "fold", "group"} & set(load_weights_file(result.weights)["about"])
    options = {"views": 1, "crops": 1, "workers": 0, "root": str(data), "prefix": "/else"}
    tested = evaluate(result.weights, lists / "my-val.txt", **options)
    assert [clip.label for clip in tested.clips.clips] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="the weights were trained on all 4 clips"):
        evaluate(result.weights, lists / "my-train.txt", **options)
