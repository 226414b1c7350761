"""`nonlocal train` is interrupted as a whole process group, and refuses a folder that is in use."""

import os
import signal
import subprocess
import sys
import time

import pytest

for module, extra in {"tyro": "cli", "accelerate": "train", "torchmetrics": "train", "sklearn": "demo"}.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

OPTIONS = ("--steps", "500", "--batch-size", "8", "--workers", "2", "--eval-every", "7", "--log-every", "1")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_group_signal_stops_with_a_checkpoint_and_a_second_training_is_refused(tmp_path):
    command = [sys.executable, "-m", "torch_nonlocal", "train", "action", *OPTIONS, "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    first = subprocess.Popen(command, start_new_session=True, **options)
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 3:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = subprocess.run(command, timeout=120, check=False, **options)
    os.killpg(first.pid, signal.SIGTERM)
    out, errors = first.communicate(timeout=120)
    assert second.returncode == 2
    assert f"is in use by another training: process {first.pid} on " in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert first.returncode == 75, out + errors
    assert "Traceback" not in out + errors
    assert "interrupted; checkpoint saved after" in errors
    assert (tmp_path / "run" / "checkpoints" / "last.pt").exists()
    assert not (tmp_path / "run" / "run.lock").exists()
