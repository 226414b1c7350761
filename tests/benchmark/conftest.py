"""The scripts of the folder benchmarks as modules."""

import importlib
from pathlib import Path

import pytest
import torch


@pytest.fixture
def scripts(monkeypatch):
    """A function that imports a script by its name."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield importlib.import_module
    torch.set_num_threads(threads)


@pytest.fixture
def study(scripts):
    return scripts("study")
