"""Inflation of 2D networks to 3D networks for clips, with their weights."""

from torch_nonlocal.inflation.inflate import inflate, inflate_weight

__all__ = ["inflate", "inflate_weight"]
