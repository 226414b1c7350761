"""Matching glyphs: synthetic clips of two frames; which glyphs of a frame appear again in the other one?

Each frame shows random binary patterns of 4x4 pixels at random places. No place is used in both frames, so the answer
needs a comparison of contents between arbitrary places of different frames: neither a single frame nor a single place
over time contains it. Test clips use patterns that never occur in training, so memorizing patterns does not help.

Shape suffixes: B clips, F the two frames, G glyphs of a frame, K cells of a frame, P the 16 pixels of a glyph, H
height, W width.
"""

from itertools import combinations
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from torch_nonlocal.data.fixed_split import fixed_split

GLYPH_SIZE: Final = 4
"""Side of a glyph and of a cell in pixels."""

IGNORED: Final = -100
"""Label of an empty cell, which the cross-entropy of PyTorch ignores."""

_PIXELS: Final = GLYPH_SIZE**2
_EMPTY: Final = 0.5  # between the two values of a glyph's pixels
_SPLIT_SEED: Final = 12870


class GlyphClips(NamedTuple):
    """A batch of clips and their ground truth.

    Attributes:
        clips: (B, 1, 2, H, W), float32: 0 and 1 inside glyphs, 0.5 elsewhere.
        labels: (B, 2, rows, columns), int64, one label per cell: 1 if its glyph appears in the other frame too, 0 if it
            does not, `IGNORED` if the cell is empty.
        glyphs: (B, 2, G), int64, indices of the patterns in the split, for each frame. The glyphs of a frame differ.
        cells: (B, 2, G), int64, the place of each glyph: row * (cells per row) + column. All places of a clip differ.
    """

    clips: Tensor
    labels: Tensor
    glyphs: Tensor
    cells: Tensor


class MatchingGlyphs:
    """Generator of clips of two frames with random glyphs.

    A glyph is a pattern of 4x4 pixels, 8 of them 1 and 8 of them 0: 12,870 patterns, one in five reserved for the test
    split. The glyphs of a frame are at different cells of a grid with cells of 4x4 pixels. Each glyph of the first
    frame appears in the second frame with probability 1/2, independently of the others.

    Args:
        split: "train" or "test", the patterns to use.
        glyphs: G, glyphs per frame, at least 1.
        size: H = W in pixels, a multiple of 4 with at least 2 * glyphs cells.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, split: Literal["train", "test"] = "train", *, glyphs: int = 8, size: int = 24) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split: got {split!r}, expected 'train' or 'test'")
        if glyphs < 1:
            raise ValueError(f"glyphs: got {glyphs}, expected at least 1 per frame")
        if size % GLYPH_SIZE or (size // GLYPH_SIZE) ** 2 < 2 * glyphs:
            raise ValueError(
                f"size: got {size}, expected a multiple of {GLYPH_SIZE} pixels with at least "
                f"2 * glyphs = {2 * glyphs} cells of {GLYPH_SIZE}x{GLYPH_SIZE} pixels"
            )
        self.split = split
        self.glyphs = glyphs
        self.size = size
        self.patterns = _patterns(split)
        """Patterns of the split: (patterns, 16), float32, 0 or 1."""

    def batch(self, n: int, generator: torch.Generator) -> GlyphClips:
        """Draw n clips; the same generator state gives the same clips.

        Args:
            n: number of clips, at least 1.
            generator: a CPU generator; it is advanced.

        Raises:
            ValueError: n is below 1.
        """
        if n < 1:
            raise ValueError(f"n: got {n}, expected at least 1 clip")
        glyphs_BFG = self._different_glyphs(n, generator)
        matches_BG = torch.randint(0, 2, (n, self.glyphs), generator=generator)
        glyphs_BFG[:, 1] = torch.where(matches_BG == 1, glyphs_BFG[:, 0], glyphs_BFG[:, 1])
        across = self.size // GLYPH_SIZE
        order_BK = torch.rand(n, across**2, generator=generator).argsort(dim=1)
        cells_BFG = order_BK[:, : 2 * self.glyphs].view(n, 2, self.glyphs)
        labels_BFK = torch.full((n, 2, across**2), IGNORED)
        labels_BFK.scatter_(2, cells_BFG, matches_BG.unsqueeze(1).expand_as(cells_BFG))
        return GlyphClips(
            self._render(glyphs_BFG, cells_BFG), labels_BFK.view(n, 2, across, across), glyphs_BFG, cells_BFG
        )

    def _different_glyphs(self, n: int, generator: torch.Generator) -> Tensor:
        """Indices (n, 2, G), all different within a clip: clips with equal ones are drawn again."""
        drawn = torch.randint(0, len(self.patterns), (n, 2 * self.glyphs), generator=generator)
        while (equal_B := (drawn.sort(dim=1).values.diff(dim=1) == 0).any(dim=1)).any():
            shape = (int(equal_B.sum()), 2 * self.glyphs)
            drawn[equal_B] = torch.randint(0, len(self.patterns), shape, generator=generator)
        return drawn.view(n, 2, self.glyphs)

    def _render(self, glyphs_BFG: Tensor, cells_BFG: Tensor) -> Tensor:
        n, across = len(glyphs_BFG), self.size // GLYPH_SIZE
        ink_BFGP = self.patterns[glyphs_BFG]
        by_cell = torch.full((n, 2, across**2, _PIXELS), _EMPTY)
        by_cell.scatter_(2, cells_BFG.unsqueeze(-1).expand_as(ink_BFGP), ink_BFGP)
        rows_and_columns = by_cell.view(n, 2, across, across, GLYPH_SIZE, GLYPH_SIZE).transpose(3, 4)
        return rows_and_columns.reshape(n, 1, 2, self.size, self.size)


def _patterns(split: str) -> Tensor:
    """The patterns of a split: (patterns, 16), float32, eight pixels 1 and eight 0."""
    on = torch.tensor(list(combinations(range(_PIXELS), _PIXELS // 2)))
    patterns = torch.zeros(len(on), _PIXELS).scatter_(1, on, 1.0)
    return fixed_split(patterns, split, _SPLIT_SEED)
