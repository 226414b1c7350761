"""These tests hold numbers to the bit, which only CPUs promise."""

import os

import pytest
import torch

os.environ["ACCELERATE_USE_CPU"] = "1"


@pytest.fixture(autouse=True)
def _one_thread():
    """So little to compute that threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
