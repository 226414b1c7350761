"""The number of threads of a command, and how they wait."""

import os
import subprocess
import sys

import pytest
import torch

from torch_nonlocal.cli import threads

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "WORLD_SIZE", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.fixture
def machine(monkeypatch):
    """Four cores without other work; torch has four threads."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(threads, "busy_cores", lambda seconds: 0)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield monkeypatch
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("usable", "busy", "number", "lines"),
    [
        (4, 0, 4, []),
        (4, 1, 3, ["3 threads: 4 CPU cores, 1 in use by other work"]),
        (4, 4, 1, ["1 thread: 4 CPU cores, 4 in use by other work"]),
        (1, 0, 1, ["1 thread: 1 CPU core, 0 in use by other work"]),
        (8, 1, 4, []),
    ],
)
def test_busy_cores_are_left_to_the_other_work(machine, usable, busy, number, lines):
    machine.setattr(threads, "usable_cores", lambda: usable)
    machine.setattr(threads, "busy_cores", lambda seconds: busy)
    shown = []
    threads.use_free_cores(shown.append)
    assert (torch.get_num_threads(), shown) == (number, lines)


def test_a_run_that_resumes_keeps_its_number_of_threads(machine):
    machine.setattr(threads, "busy_cores", lambda seconds: 3)
    shown = []
    threads.use_free_cores(shown.append, kept=2)
    assert torch.get_num_threads() == 2
    assert shown == ["2 threads: as before; OMP_NUM_THREADS sets another number"]


@pytest.mark.parametrize(("name", "value"), [("OMP_NUM_THREADS", "4"), ("MKL_NUM_THREADS", "4"), ("WORLD_SIZE", "2")])
def test_numbers_that_others_chose_are_not_changed(machine, name, value):
    machine.setenv(name, value)
    machine.setattr(threads, "busy_cores", lambda seconds: 3)
    threads.use_free_cores(print, kept=2)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "100"}, {"GOMP_SPINCOUNT": "100"}),
    ],
)
def test_commands_let_threads_sleep_unless_the_environment_says_otherwise(given, expected):
    code = (
        "import os, sys; from torch_nonlocal.cli import main; main(['--version']); main(['train', 'action', '--recipe',"
        f"'list']); print([os.environ.get(name) for name in {VARIABLES}])"
    )
    rest = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run([sys.executable, "-c", code], env={**rest, **given}, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == str([expected.get(name) for name in VARIABLES]), done.stderr
