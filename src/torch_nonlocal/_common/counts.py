"""Checks of options that are numbers of things."""

from typing import Any

import torch


def is_count(value: Any, *, least: int = 1) -> bool:
    """Return whether a value is a whole number, not a bool, of at least `least`."""
    return isinstance(value, int | torch.SymInt) and not isinstance(value, bool) and bool(value >= least)
