"""A task of another kind through `fit`, defined here alone: regression, lower is better, with a sampler of its own.

Run as a script, `python test_toy_task.py FOLDER`, it trains once without interruption and once with a SIGKILL at each
of several moments.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
import torch
from tiny_training import last, plain_config, same_state
from torch import nn
from torch.nn import functional as F

from torch_nonlocal._common import files
from torch_nonlocal._common.seeds import mix_seed
from torch_nonlocal.training import Item, Metric, Task, fit, load_weights_file

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")

IDENTITIES, PER_IDENTITY, FEATURES = 10, 3, 6
STEPS = 12
MOMENTS = ("read 1", "read 9", "write 7", "evaluate 5", "read 30", "write 12", "evaluate 11")
"""When a run is killed: in its n-th read or file write, or in the evaluation after step n."""


class Measurements:
    """Noisy features of identities with a value to predict: dicts of "x" (6,), "y" () and "identity"."""

    def __init__(self, on_read=lambda: None):
        generator = torch.Generator().manual_seed(1)
        self.features = torch.randn(IDENTITIES * PER_IDENTITY, FEATURES, generator=generator)
        self.targets = self.features @ torch.linspace(-1, 1, FEATURES) + 0.5
        self.on_read = on_read

    def __len__(self):
        return len(self.features)

    def __getitem__(self, index):
        self.on_read()
        noise = 0.1 * torch.randn(FEATURES)
        return {"x": self.features[index] + noise, "y": self.targets[index], "identity": index // PER_IDENTITY}


class IdentityBatches:
    """P identities per batch with K items each, drawn with replacement (PK sampling)."""

    def __init__(self, batch_size, seed, per_identity=4):
        self.items, self.batch_size, self.seed = IDENTITIES * PER_IDENTITY, batch_size, seed
        self.per_identity, self.identities = per_identity, batch_size // per_identity
        self.steps_per_epoch = IDENTITIES // self.identities

    def batch(self, step):
        epoch, position = divmod(step, self.steps_per_epoch)
        order = torch.randperm(IDENTITIES, generator=torch.Generator().manual_seed(mix_seed(self.seed, epoch)))
        items = []
        for identity in order[position * self.identities : (position + 1) * self.identities].tolist():
            generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, identity))
            drawn = torch.randint(PER_IDENTITY, (self.per_identity,), generator=generator).tolist()
            for occurrence, number in enumerate(drawn):
                seed = mix_seed(self.seed, epoch, identity, occurrence)
                items.append(Item(epoch, identity * PER_IDENTITY + number, seed))
        return items


class ToyTask(Task):
    """Predicts the value of a measurement, alike for all measurements of an identity."""

    metric = Metric("rmse", higher_is_better=False)

    def __init__(self, on_read=lambda: None, on_evaluate=lambda: None):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1))
        super().__init__(model, Measurements(on_read), about={"task": "toy"})
        self.on_evaluate = on_evaluate

    def sampler(self, batch_size, seed):
        return IdentityBatches(batch_size, seed)

    def prepare(self, batch):
        return {**batch, "x": batch["x"] * 2}

    def inputs(self, batch):
        return batch["x"]

    def loss(self, model, batch):
        predicted = model(batch["x"]).squeeze(1)
        residual = predicted - batch["y"]
        same = batch["identity"][:, None] == batch["identity"]
        spread = (residual[:, None] - residual)[same].square().mean()
        squared = F.mse_loss(predicted, batch["y"])
        return {"loss": squared + 0.1 * spread, "mse": squared, "spread": spread}

    def evaluate(self, model):
        self.on_evaluate()
        error = model(self.data.features * 2).squeeze(1) - self.data.targets
        return {"mae": float(error.abs().mean()), "rmse": float(error.square().mean().sqrt())}

    def optimizer(self, model):
        return torch.optim.AdamW(
            [
                {"params": model[0].parameters()},
                {"params": [*model[1].parameters(), *model[3].parameters()], "lr_scale": 3},
            ]
        )


def toy_config(**changes):
    settings = {
        "steps": STEPS,
        "batch_size": 8,
        "lr": 0.3,
        "milestones": (),
        "eval_every": 1,
        "checkpoint_minutes": 0.0,
    }
    return plain_config(**{**settings, **changes})


def lines(folder, kind):
    found = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def run(folder, moment=None):
    """Train; with a moment, kill this process there."""
    torch.set_num_threads(1)
    kind, number = moment.split() if moment else ("", "0")
    counts = {"read": 0, "write": 0}
    fsync = os.fsync

    def count(what):
        counts[what] += 1
        if what == kind and counts[what] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    def counted_fsync(handle):
        count("write")
        fsync(handle)

    def on_evaluate():
        if kind == "evaluate" and last(folder)["progress"]["step"] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    files.os.fsync = counted_fsync
    fit(ToyTask(lambda: count("read"), on_evaluate), toy_config(), folder, log=lambda text: None)


def main(folder):
    # Imported once here instead of after each fork.
    for module in ("accelerate", "torch.distributed.tensor", "torch.utils.tensorboard"):
        with suppress(ImportError):
            import_module(module)
    fork = multiprocessing.get_context("fork")
    for name, moments in {"whole": [None], "killed": [*MOMENTS, None]}.items():
        for moment in moments:
            process = fork.Process(target=run, args=(Path(folder) / name, moment))
            process.start()
            process.join()
            assert process.exitcode == (0 if moment is None else -signal.SIGKILL), (name, moment, process.exitcode)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_runs_end_with_the_same_bits(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    starts = [start["from_step"] for start in json.loads((killed / "environment.json").read_text())["starts"]]
    assert len(starts) == len(MOMENTS) + 1
    assert len(set(starts)) > 3, "runs were killed at different steps"
    assert last(whole)["progress"]["step"] == STEPS
    assert same_state(last(whole), last(killed))
    best = [load_weights_file(one / "checkpoints" / "best.pt") for one in (whole, killed)]
    assert same_state(best[0], best[1])
    for kind in ("train", "validation"):
        values = [
            [(line["step"], line.get("loss"), line.get("rmse")) for line in lines(one, kind)] for one in (whole, killed)
        ]
        assert values[0] == values[1]


def test_best_weights_have_the_lowest_metric(tmp_path):
    task = ToyTask()
    result = fit(task, toy_config(steps=6), tmp_path, log=lambda text: None)
    rmse = [line["rmse"] for line in lines(tmp_path, "validation")]
    assert min(rmse) < min(rmse[0], rmse[-1]), "neither the first nor the last evaluation is the best"
    assert result.best == {"step": 1 + rmse.index(min(rmse)), "metric": "rmse", "value": min(rmse)}
    kept = load_weights_file(result.weights)
    assert (kept["step"], kept["metrics"]["rmse"], kept["about"]) == (result.best["step"], min(rmse), {"task": "toy"})
    task.model.load_state_dict(kept["model"])
    with torch.no_grad():
        assert task.evaluate(task.model.eval())["rmse"] == min(rmse)


def test_all_loss_entries_are_logged(tmp_path):
    fit(ToyTask(), toy_config(), tmp_path, log=lambda text: None)
    for line in lines(tmp_path, "train"):
        assert line["loss"] == pytest.approx(line["mse"] + 0.1 * line["spread"], rel=1e-5)
        assert "accuracy" not in line


def test_steps_use_the_items_of_the_tasks_sampler(tmp_path):
    """Batches with repeated identities and items, by hand: the first loss on the untrained weights."""
    config = toy_config(steps=1)
    fit(ToyTask(), config, tmp_path, log=lambda text: None)
    items = IdentityBatches(8, config.seed).batch(0)
    assert len({item.index for item in items}) < len(items), "an item is repeated"
    assert len({item.seed for item in items}) == len(items), "each occurrence has its own noise"
    task = ToyTask()
    read = []
    for item in items:
        torch.manual_seed(item.seed)
        read.append(task.data[item.index])
    batch = task.prepare(task.collate(read))
    torch.manual_seed(mix_seed(config.seed, 0, 0, 1))
    loss = task.loss(task.model.train(), batch)["loss"]
    assert lines(tmp_path, "train")[0]["loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_number_of_workers_does_not_matter(tmp_path):
    for workers in (0, 1):
        fit(ToyTask(), toy_config(workers=workers, eval_every=6), tmp_path / str(workers), log=lambda text: None)
    assert same_state(last(tmp_path / "0"), last(tmp_path / "1"))


if __name__ == "__main__":
    main(sys.argv[1])
