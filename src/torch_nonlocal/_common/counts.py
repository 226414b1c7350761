"""Checks of options that are numbers of things."""

from typing import Any


def is_count(value: Any, *, least: int = 1) -> bool:
    """Return whether a value is a whole number, not a bool, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
