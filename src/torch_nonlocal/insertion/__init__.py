"""Insertion of non-local blocks into any network, removal, and block files.

`targets` resolves names, globs and modules to places; `presets` holds the paper's placements; `probe` finds the shape
and, with `axes` and `resized`, the layout of a place's output; `insert` changes the network; `block_files` reads and
writes block weights.
"""

from torch_nonlocal.insertion.block_files import load_blocks, save_blocks
from torch_nonlocal.insertion.insert import blocks, insert, remove
from torch_nonlocal.insertion.targets import Places

__all__ = ["Places", "blocks", "insert", "load_blocks", "remove", "save_blocks"]
