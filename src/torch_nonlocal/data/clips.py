"""Clips of a dataset and their splits: `find_clips`, `available_splits` and `train_and_test`."""

from torch_nonlocal.data.find import available_splits, find_clips
from torch_nonlocal.data.splits import train_and_test

__all__ = ["available_splits", "find_clips", "train_and_test"]
