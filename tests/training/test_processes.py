"""Runs in two processes (gloo) compared with one process, and a restart by TorchElastic."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import TinyClips, last, network, plain_config, train

import torch_nonlocal as nl

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with the runs of distributed_runs.py, all from one start, since most of its time is imports."""
    folder = tmp_path_factory.mktemp("runs")
    script = Path(__file__).with_name("distributed_runs.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    done = subprocess.run(
        [*command, str(script), str(folder)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def curve(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["gradient_norm"]) for line in found if line["kind"] == "train"]


def assert_same_run(one, other):
    assert len(curve(one)) == 6
    for (loss, norm), (expected, expected_norm) in zip(curve(one), curve(other), strict=True):
        assert loss == pytest.approx(expected, abs=1e-5)
        assert norm == pytest.approx(expected_norm, rel=1e-4)
    state, expected = last(one), last(other)
    for part in ("model", "ema"):
        for name, tensor in (state[part] or {}).items():
            torch.testing.assert_close(tensor, expected[part][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ddp", {}),
        ("fsdp2", {"shard": True}),
        ("parts", {"accumulate": 2}),
        ("backbone", {"freeze_backbone": 1}),
        ("fsdp2-backbone", {"freeze_backbone": 1, "shard": True}),
    ],
)
def test_two_processes_have_the_losses_of_one(runs, tmp_path, name, changes):
    config = plain_config(clip_grad=0.5, ema=0.9, **changes)
    train(tmp_path, config, model=network("group", dropout=0.0), evaluate=None)
    assert_same_run(runs / name, tmp_path)


def test_patience_ends_both_processes_with_the_same_result(runs):
    expected = f"finished 3 {dict(step=1, metric='accuracy', value=0.5)}"
    assert [(runs / f"early-{rank}").read_text() for rank in range(2)] == [expected] * 2


def test_frozen_norms_give_the_same_run_in_two_processes(runs, tmp_path):
    frozen = nl.remove(network(dropout=0.0))
    train(tmp_path, plain_config(freeze_bn=True, shard=True), model=frozen, evaluate=None)
    assert_same_run(runs / "frozen", tmp_path)


def test_interrupted_sharded_run_resumes_in_one_process(runs, tmp_path):
    assert last(runs / "stopped")["progress"]["step"] == 4
    config = plain_config(steps=6, shard=True, checkpoint_minutes=0.0)
    train(runs / "stopped", config, model=network("group", dropout=0.0))
    train(tmp_path, config, model=network("group", dropout=0.0))
    assert_same_run(runs / "stopped", tmp_path)


def test_torchelastic_restarts_a_killed_process(runs, tmp_path):
    assert (runs / "died").exists()
    starts = json.loads((runs / "run" / "environment.json").read_text())["starts"]
    assert len(starts) == 2
    assert starts[1]["from_step"] in (2, 3), "the third checkpoint may not be complete"
    train(tmp_path / "one", plain_config(checkpoint_minutes=0.0), model=network("group", dropout=0.0), data=TinyClips())
    assert_same_run(runs / "run", tmp_path / "one")


@pytest.mark.parametrize("killed", ["0", pytest.param("1", marks=pytest.mark.extended)])
def test_process_that_loses_another_says_so_in_one_line(tmp_path, killed):
    script = Path(__file__).with_name("lost_process.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [*command, str(tmp_path), killed], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"rank {1 - int(killed)} of 2: ")]
    assert len(lines) == 1
    assert "connection to another process of this run is lost" in lines[0]
    assert "rerun to resume" in lines[0]
    assert 'lost_process.py", line' not in done.stderr, "no traceback of the process that is left"
    assert last(tmp_path)["progress"]["step"] >= 2
