"""`nonlocal train --seeds`: a run for each seed, their mean and spread, and what is refused."""

import dataclasses
import json
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
pytest.importorskip("rich", reason="pip install 'torch-nonlocal[cli]'")

from torch_nonlocal.cli.entry import main
from torch_nonlocal.cli.train import INTERRUPTED
from torch_nonlocal.tasks.base import Recipe, TaskSpec
from torch_nonlocal.training.config import TrainConfig

VALUES = {5: 0.5, 6: 0.75, 7: 0.7}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings.

    Attributes:
        width: channels.
    """

    width: int = 8


class Toy(TaskSpec[Settings]):
    name, summary, settings, test_options = "toy", "Fit a line.", Settings, Settings

    def __init__(self):
        self.seeds, self.stop_at, self.metric = [], None, "accuracy"

    def recipes(self):
        return {"plain": Recipe(Settings(), TrainConfig(steps=10, batch_size=4), "built-in data")}

    def default_recipe(self, data):
        return "plain", self.recipes()["plain"]

    def train(self, data, run_dir, settings, config, *, on_error="skip", log=None):
        assert run_dir == Path("runs/toy") / f"seed-{config.seed}"
        assert settings == Settings(3)
        run_dir.mkdir(parents=True)
        (run_dir / "config.json").write_text("{}")
        self.seeds.append(config.seed)
        best = {"metric": self.metric, "value": VALUES[config.seed], "step": config.seed}
        status = "stopped" if config.seed == self.stop_at else "finished"
        return SimpleNamespace(status=status, step=10, seconds=1.0, best=best, weights=run_dir / "best.pt")


@pytest.fixture
def toy(register):
    """A registered task in an empty working folder, whose runs have known metrics."""
    return register(Toy())


COMMAND = ["train", "toy", "--width", "3", "--out", "runs/toy", "--seed", "5", "--seeds"]


def test_each_seed_has_a_run_and_the_metrics_are_summarized(toy, capsys):
    main([*COMMAND, "3"])
    assert toy.seeds == [5, 6, 7]
    saved = json.loads(Path("runs/toy/seeds.json").read_text())
    assert saved["metric"] == "accuracy"
    assert [(row["seed"], row["folder"], row["value"], row["step"]) for row in saved["runs"]] == [
        (5, "seed-5", 0.5, 5), (6, "seed-6", 0.75, 6), (7, "seed-7", 0.7, 7)
    ]  # fmt: skip
    assert saved["mean"] == pytest.approx(0.65)
    assert saved["std"] == pytest.approx(statistics.stdev([0.5, 0.75, 0.7]))
    assert (saved["min"], saved["max"]) == (0.5, 0.75)
    printed = capsys.readouterr().out
    assert "seed 6: finished after 10 steps, 1 s, best accuracy 0.750" in printed
    *lines, where, _ = printed.splitlines()[-7:]
    assert where == "metrics of all seeds: runs/toy/seeds.json"
    table = [line.split() for line in lines]
    assert table[0] == ["seed", "accuracy", "after", "step"]
    assert table[1:4] == [["5", "0.5000", "5"], ["6", "0.7500", "6"], ["7", "0.7000", "7"]]
    assert table[4][:5] == ["mean", "0.6500", "standard", "deviation", "0.1323,"]
    assert all(len(line) <= 80 for line in lines)


def test_interrupted_run_ends_the_command_without_a_summary(toy, capsys):
    toy.stop_at = 6
    with pytest.raises(SystemExit) as ended:
        main([*COMMAND, "3"])
    assert ended.value.code == INTERRUPTED
    assert toy.seeds == [5, 6]
    assert not Path("runs/toy/seeds.json").exists()
    assert "interrupted; rerun the command to resume" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("count", "message"),
    [("0", "--seeds 0: expected 1 or more runs"), ("2", "--seeds 2: runs/toy holds a single run; expected another")],
)
def test_what_does_not_fit_is_refused_before_training(toy, capsys, count, message):
    Path("runs/toy").mkdir(parents=True)
    Path("runs/toy/config.json").write_text("{}")
    with pytest.raises(SystemExit):
        main([*COMMAND, count])
    assert message in capsys.readouterr().err
    assert toy.seeds == []


def test_a_single_run_is_not_mixed_with_those_of_several_seeds(toy, capsys):
    main([*COMMAND, "2"])
    with pytest.raises(SystemExit):
        main([*COMMAND, "1"])
    assert "runs/toy holds the runs of several seeds: expected --seeds, or another folder" in capsys.readouterr().err
    assert toy.seeds == [5, 6]


def test_runs_without_a_metric_cannot_be_compared(toy, capsys):
    toy.metric = "step"
    with pytest.raises(SystemExit):
        main([*COMMAND, "3"])
    assert "the run in runs/toy/seed-5 has no metric to compare; expected validation data" in capsys.readouterr().err
    assert toy.seeds == [5]


def test_runs_that_are_compared_by_their_tests_need_no_metric(toy, capsys, monkeypatch):
    monkeypatch.setattr(Toy, "tests_seeds", True)
    monkeypatch.setattr(Toy, "has_metric", lambda *given, **options: False)
    toy.metric = "step"
    main([*COMMAND, "3"])
    assert toy.seeds == [5, 6, 7]
    assert not Path("runs/toy/seeds.json").exists()
    assert capsys.readouterr().out.splitlines()[-1] == "next: nonlocal test toy runs/toy"


def test_data_without_validation_clips_are_refused_before_the_first_run(tmp_path, monkeypatch, capsys):
    """A folder with a train split only: nothing can compare the runs."""
    for package in ("accelerate", "av", "timm", "torchmetrics", "torchvision"):
        pytest.importorskip(package, reason="pip install 'torch-nonlocal[train]'")
    import torch

    from torch_nonlocal.media import write_mp4

    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("red", "blue")):
        path = Path("films/train", name, "0.mp4")
        path.parent.mkdir(parents=True)
        write_mp4(path, torch.full((6, 32, 32, 3), 90 + 80 * number, dtype=torch.uint8), 10)
    monkeypatch.setattr("torch_nonlocal.tasks.action.task.fit", lambda *given: pytest.fail("training began"))
    with pytest.raises(SystemExit):
        main(["train", "action", "--data", "films", "--seeds", "2", "--out", "runs"])
    assert "--seeds 2: no validation data" in capsys.readouterr().err
    assert not Path("runs").exists()
