"""Data sets."""

from torch_nonlocal.data.moving_digits import RELATIONS, Clips, MovingDigits, MovingDigitsDataset

__all__ = ["RELATIONS", "Clips", "MovingDigits", "MovingDigitsDataset"]
