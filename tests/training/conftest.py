"""These tests compare numbers bit for bit, which only CPUs guarantee."""

import os

import pytest
import torch

os.environ["ACCELERATE_USE_CPU"] = "1"


@pytest.fixture(autouse=True)
def _one_thread():
    """The computations are so small that several threads would only slow them down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
