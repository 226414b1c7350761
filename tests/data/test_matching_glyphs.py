"""Matching glyphs: labels, balance, places, determinism, and independence of the label from a single frame or place."""

import pytest
import torch

from torch_nonlocal.data.matching_glyphs import GLYPH_SIZE, IGNORED, GlyphClips, MatchingGlyphs


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells_of(drawn: GlyphClips) -> torch.Tensor:
    """The 16 pixels of each cell: (B, 2, rows, columns, 16)."""
    return drawn.clips[:, 0].unfold(2, GLYPH_SIZE, GLYPH_SIZE).unfold(3, GLYPH_SIZE, GLYPH_SIZE).flatten(-2)


def test_train_and_test_share_no_pattern():
    train, test = MatchingGlyphs("train").patterns, MatchingGlyphs("test").patterns
    assert (len(train), len(test)) == (10296, 2574)
    assert (torch.cat((train, test)).sum(dim=1) == 8).all()
    assert len(torch.cat((train, test)).unique(dim=0)) == 12870


@pytest.mark.parametrize(("glyphs", "size"), [(1, 8), (8, 24), (12, 20), (18, 24)])
def test_labels_match_the_pixels(glyphs, size):
    drawn = MatchingGlyphs("test", glyphs=glyphs, size=size).batch(50, seeded(1))
    assert drawn.clips.shape == (50, 1, 2, size, size)
    assert drawn.labels.shape == (50, 2, size // GLYPH_SIZE, size // GLYPH_SIZE)
    pixels = cells_of(drawn)
    filled = (pixels != 0.5).all(dim=-1)
    assert (pixels[~filled] == 0.5).all()
    assert (filled == (drawn.labels != IGNORED)).all()
    assert (filled.sum(dim=(2, 3)) == glyphs).all()
    assert not (filled[:, 0] & filled[:, 1]).any(), "no place is used in both frames"
    for pixels_FRCP, filled_FRC, labels_FRC in zip(pixels, filled, drawn.labels, strict=True):
        frames = [pixels_FRCP[frame][filled_FRC[frame]] for frame in (0, 1)]
        assert all(len(frame.unique(dim=0)) == glyphs for frame in frames), "the glyphs of a frame differ"
        equal = (frames[0].unsqueeze(1) == frames[1]).all(dim=-1)
        assert equal.any(dim=1).long().tolist() == labels_FRC[0][filled_FRC[0]].tolist()
        assert equal.any(dim=0).long().tolist() == labels_FRC[1][filled_FRC[1]].tolist()


def test_indices_and_cells_describe_the_clip():
    source = MatchingGlyphs("train", glyphs=3, size=12)
    drawn = source.batch(20, seeded(2))
    pixels = cells_of(drawn).flatten(2, 3)
    shown = pixels.gather(2, drawn.cells.unsqueeze(-1).expand(-1, -1, -1, 16))
    assert torch.equal(shown, source.patterns[drawn.glyphs])


def test_labels_are_balanced_and_independent_of_each_other():
    drawn = MatchingGlyphs(glyphs=4, size=12).batch(4000, seeded(3))
    labels_BG = (drawn.glyphs[:, 0] == drawn.glyphs[:, 1]).float()
    deviation = 0.5 / 4000**0.5
    assert ((labels_BG.mean(dim=0) - 0.5).abs() < 4 * deviation).all()
    products = torch.corrcoef(labels_BG.T) - torch.eye(4)
    assert products.abs().max() < 4 / 4000**0.5


def test_the_same_state_gives_the_same_clips():
    source = MatchingGlyphs()
    first, second, other = source.batch(6, seeded(4)), source.batch(6, seeded(4)), source.batch(6, seeded(5))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.clips, other.clips)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split: got 'val', expected 'train' or 'test'"),
        ({"glyphs": 0}, "glyphs: got 0, expected at least 1"),
        ({"size": 22}, "size: got 22, expected a multiple of 4"),
        ({"glyphs": 9, "size": 16}, "size: got 16, .* at least 2 \\* glyphs = 18 cells"),
    ],
)
def test_wrong_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        MatchingGlyphs(**options)


def test_an_empty_batch_raises():
    with pytest.raises(ValueError, match="n: got 0, expected at least 1 clip"):
        MatchingGlyphs().batch(0, seeded())
