"""2D networks as 3D networks for clips, weights kept."""

from torch_nonlocal.inflation.inflate import inflate

__all__ = ["inflate"]
