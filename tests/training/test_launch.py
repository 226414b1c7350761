"""`nonlocal train action` in two processes, started by torchrun and by accelerate launch."""

import json
import os
import subprocess
import sys

import pytest

for module, extra in {
    "tyro": "cli", "accelerate": "train", "tensorboard": "train", "torchmetrics": "train", "sklearn": "demo",
}.items():  # fmt: skip
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from torch_nonlocal.cli import main  # noqa: E402 (after the skips)

pytestmark = pytest.mark.slow

# In several processes batch norms see a part of each batch only, so they are frozen to get equal curves.
TINY = (
    "train", "action", "--steps", "4", "--batch-size", "8", "--log-every", "1", "--workers", "0", "--non-local", "none",
    "--freeze-bn", "--attention-items", "0",
)  # fmt: skip
LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "torch_nonlocal"),
    "accelerate launch": (
        "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision",
        "no", "--dynamo_backend", "no", "-m", "torch_nonlocal",
    ),
}  # fmt: skip


def curve(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in found if line["kind"] == "train"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """Losses of a run in one process."""
    folder = tmp_path_factory.mktemp("one")
    main([*TINY, "--out", str(folder)])
    return curve(folder)


@pytest.mark.parametrize(
    "launcher",
    ["torchrun", pytest.param("accelerate launch", marks=pytest.mark.extended)],  # sets the same variables
)
def test_two_processes_have_the_losses_of_one(launcher, one_process, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "COLUMNS": "200"}
    environment["PYTHONFAULTHANDLER"] = "1"  # says where a process aborts
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", *LAUNCHERS[launcher], *TINY, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "environment.json").read_text())["starts"][0]["processes"] == 2
    assert len(one_process) == 4
    assert curve(tmp_path) == pytest.approx(one_process, abs=1e-5)
    assert done.stdout.count("finished after 4") == 1, "only the main process prints"
