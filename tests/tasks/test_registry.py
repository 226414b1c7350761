"""A task defined outside the library trains, resumes and is tested through the registry and the command line."""

import json
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")

from torch_nonlocal.tasks import Recipe, TaskSpec, base, get_task, register, task_names
from torch_nonlocal.training import Item, Metric, Task, TrainConfig, checkpoint, fit, load_weights_file

STEPS = 12


@dataclass(frozen=True)
class ToySettings:
    """Settings of the toy task.

    Attributes:
        slope: slope of the line to fit.
    """

    slope: float = 2.0


@dataclass(frozen=True)
class ToyTestOptions:
    """Options of the toy test.

    Attributes:
        points: number of points to test.
    """

    points: int = 5


class Line(torch.utils.data.Dataset):
    """Points (x, slope * x + noise)."""

    def __init__(self, slope):
        self.x, self.slope = torch.linspace(-1, 1, 20), slope

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index, None], self.slope * self.x[index, None] + 0.01 * torch.randn(1)


class PairedBatches:
    """Batches of mirrored pairs: item i is always with item 19 - i, so a batch repeats no point and has mean 0."""

    items, batch_size, steps_per_epoch = 20, 4, 5

    def __init__(self, seed):
        self.seed = seed

    def batch(self, step):
        epoch, position = divmod(step, self.steps_per_epoch)
        order = torch.randperm(10, generator=torch.Generator().manual_seed(1000 * self.seed + epoch)).tolist()
        first, second = order[2 * position : 2 * position + 2]
        return [Item(epoch, index, 100 * epoch + index) for index in (first, 19 - first, second, 19 - second)]


class ToyTask(Task):
    metric = Metric("error", higher_is_better=False)

    def __init__(self, settings, on_evaluate=lambda: None):
        torch.manual_seed(0)
        super().__init__(nn.Linear(1, 1), Line(settings.slope), about={"task": "toy", "slope": settings.slope})
        self.on_evaluate = on_evaluate

    def sampler(self, batch_size, seed):
        return PairedBatches(seed)

    def loss(self, model, batch):
        x, y = batch
        return {"loss": F.mse_loss(model(x), y)}

    def evaluate(self, model):
        self.on_evaluate()
        return {"error": float((model(self.data.x[:, None])[:, 0] - self.data.slope * self.data.x).abs().mean())}


class Killed(BaseException):
    """Ends a run like the end of the process."""


class ToySpec(TaskSpec[ToySettings]):
    name, summary = "toy", "Fit a line."
    settings, test_options = ToySettings, ToyTestOptions
    requires = ("accelerate",)

    def __init__(self):
        self.evaluations, self.kill_in_evaluation = 0, 0

    def recipes(self):
        config = TrainConfig(steps=STEPS, batch_size=4, lr=0.2, eval_every=4, workers=0, attention_items=0)
        return {
            "steep": Recipe(ToySettings(5.0), config, "a steep line"),
            "flat": Recipe(ToySettings(), config, "flat"),
        }

    def default_recipe(self, data):
        return "flat", self.recipes()["flat"]

    def train(self, data, run_dir, settings, config, *, on_error="skip", log=None):
        return fit(ToyTask(settings, self._evaluating), config, run_dir, log=log)

    def test(self, checkpoint, data, out, options, *, on_progress=None, log=print):
        weights = load_weights_file(checkpoint)
        model = nn.Linear(1, 1)
        model.load_state_dict(weights["model"])
        x = torch.linspace(0, 1, options.points)
        with torch.no_grad():
            error = float((model(x[:, None])[:, 0] - weights["about"]["slope"] * x).abs().mean())
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.json").write_text(json.dumps({"error": error}))
        log(f"error {error:.4f}")
        return {"error": error}

    def _evaluating(self):
        self.evaluations += 1
        if self.evaluations == self.kill_in_evaluation:
            raise Killed


@pytest.fixture
def toy(monkeypatch):
    """The toy task, registered for one test."""
    monkeypatch.setattr(base, "_registered", {})
    register(ToySpec())
    return get_task("toy")


def trained(spec, run_dir, **options):
    recipe = spec.recipe("steep")
    return spec.train(None, run_dir, recipe.settings, recipe.config, log=lambda line: None, **options)


def test_a_registered_task_trains_and_the_lowest_error_is_best(toy, tmp_path):
    assert task_names()[:4] == ("action", "denoise", "reid", "toy")
    result = trained(toy, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    errors = {line["step"]: line["error"] for line in lines if "error" in line}
    assert sorted(errors) == [4, 8, 12]
    assert result.best == {"step": min(errors, key=errors.get), "metric": "error", "value": min(errors.values())}


@pytest.mark.parametrize("evaluation", [1, 2, 3])
def test_a_killed_run_resumes_to_identical_weights(toy, tmp_path, evaluation):
    whole = trained(toy, tmp_path / "whole")
    toy.evaluations, toy.kill_in_evaluation = 0, evaluation
    with pytest.raises(Killed):
        trained(toy, tmp_path / "killed")
    resumed = trained(toy, tmp_path / "killed")
    assert resumed.status == "finished"
    assert resumed.best == whole.best
    first, second = (checkpoint.read(one.run_dir / "checkpoints" / "last.pt")["model"] for one in (whole, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_registered_task_is_tested(toy, tmp_path):
    result, lines = trained(toy, tmp_path / "run"), []
    metrics = toy.test(result.weights, None, tmp_path / "out", ToyTestOptions(points=3), log=lines.append)
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == metrics
    assert lines == [f"error {metrics['error']:.4f}"]


def test_the_command_line_trains_resumes_and_tests_a_registered_task(toy, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
    from torch_nonlocal.cli import main

    def nonlocal_command(*words):
        monkeypatch.setattr(sys, "argv", ["nonlocal", *map(str, words)])
        main()
        return capsys.readouterr().out

    command = "train", "toy", "--recipe", "steep", "--steps", "8", "--out", tmp_path / "run"
    toy.kill_in_evaluation = 2
    with pytest.raises(Killed):
        nonlocal_command(*command, "--slope", "3")
    assert "finished after 8 steps" in nonlocal_command(*command, "--slope", "3")
    weights = tmp_path / "run" / "checkpoints" / "best.pt"
    assert load_weights_file(weights)["about"] == {"task": "toy", "slope": 3.0}
    printed = nonlocal_command("test", "toy", weights, "--out", tmp_path / "out", "--points", "7")
    assert printed.splitlines()[0].startswith("error 0.")
    assert (tmp_path / "out" / "scores.json").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acton", "no task 'acton'; did you mean 'action'\\? tasks: action, denoise, reid, toy"),
        ("Toy", "no task 'Toy'; did you mean 'toy'\\?"),
        ("zzz", "no task 'zzz'; tasks: action, denoise, reid, toy"),
    ],
)
def test_an_unknown_task_suggests_the_nearest(toy, name, message):
    with pytest.raises(ValueError, match=message):
        get_task(name)


def test_an_unknown_recipe_suggests_the_nearest(toy):
    with pytest.raises(ValueError, match="no recipe 'steap'; did you mean 'steep'\\? --recipe list shows all 2"):
        toy.recipe("steap")


@pytest.mark.parametrize("name", ["", "action"])
def test_a_task_without_a_name_of_its_own_is_not_registered(name):
    spec = ToySpec()
    spec.name = name
    with pytest.raises(ValueError, match="expected a new name; built-in tasks: action, denoise"):
        register(spec)


def test_tasks_of_installed_packages_are_found(monkeypatch):
    class Point:
        name = "depth"

        def load(self):
            return "the spec"

    def entry_points(*, group, name="depth"):
        assert group == "torch_nonlocal.tasks"
        return [Point()] if name == "depth" else []

    monkeypatch.setattr(base, "entry_points", entry_points)
    assert "depth" in task_names()
    assert get_task("depth") == "the spec"
