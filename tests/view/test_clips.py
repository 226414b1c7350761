"""All documented layouts are accepted; errors for other layouts suggest a conversion."""

import pytest
import torch

np = pytest.importorskip("numpy", reason="drawing needs it: pip install 'torch-nonlocal[view]'")

from torch_nonlocal.view.clips import (  # noqa: E402 (after the skip)
    as_clip,
    as_query,
    as_row,
    choose_frames,
    nearest_frame,
    temporal_cell,
)

COLOR = torch.randint(0, 256, (5, 7, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
GRAY = COLOR[..., 0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (COLOR, COLOR),
        (COLOR.numpy(), COLOR),
        (COLOR.float() / 255, COLOR),
        ((COLOR.double() / 255).numpy(), COLOR),
        (COLOR[2], COLOR[2:3]),
        (GRAY, GRAY[..., None].expand(-1, -1, -1, 3)),
        (GRAY[..., None], GRAY[..., None].expand(-1, -1, -1, 3)),
        (GRAY[0], GRAY[:1, ..., None].expand(-1, -1, -1, 3)),
        (torch.ones(4, 6, dtype=torch.bfloat16), torch.full((1, 4, 6, 3), 255)),
        (torch.ones(2, 4, 6, 3, requires_grad=True), torch.full((2, 4, 6, 3), 255)),
    ],
    ids=["THWC", "numpy", "float", "double", "HWC", "THW", "THW1", "HW", "bfloat16", "grad"],
)
def test_every_layout_becomes_thwc_uint8(given, expected):
    clip = as_clip(given)
    assert clip.dtype == np.uint8
    np.testing.assert_array_equal(clip, expected.numpy())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(3, 32, 40), r"channels first: pass image\.permute\(1, 2, 0\)"),
        (torch.zeros(8, 3, 32, 40), r"\(T, C, H, W\): pass clip\.permute\(0, 2, 3, 1\)"),
        (torch.zeros(3, 8, 32, 40), r"\(C, T, H, W\): pass clip\.permute\(1, 2, 3, 0\)"),
        (torch.zeros(2, 3, 8, 32, 40), r"a batch: pass one of its clips, such as clips\[0\]"),
        (torch.zeros(8, 32, 40, 4), r"\(8, 32, 40, 4\) is no clip"),
        (torch.zeros(8), r"\(8,\) is no clip"),
        (torch.zeros(0, 8, 8, 3), "empty"),
        (torch.full((4, 4, 3), 200.0), r"looks like \[0, 255\], divide it by 255"),
        (torch.randn(4, 4, 3) * 2 - 1, "looks normalized"),
        (torch.full((4, 4, 3), float("nan")), "not finite"),
        (torch.zeros(4, 4, 3, dtype=torch.int64), "int64"),
    ],
)
def test_errors_for_other_layouts_suggest_a_conversion(given, message):
    with pytest.raises(ValueError, match=message):
        as_clip(given)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (torch.zeros(2, 4, 4, 4), r"pass rows\[0\]"),
        (torch.zeros(4, 4), r"\(T', H', W'\)"),
        (torch.zeros(6, 4, 4), "row of 6 frames: expected at most 5"),
        (torch.full((5, 4, 4), float("inf")), "not finite"),
    ],
)
def test_invalid_rows_raise(row, message):
    with pytest.raises(ValueError, match=message):
        as_row(row, as_clip(COLOR))


@pytest.mark.parametrize("query", [(5, 0, 0), (0, 7, 0), (0, 0, -1), (0, 0)])
def test_query_outside_the_clip_raises(query):
    with pytest.raises(ValueError, match=r"outside the clip: expected 0 to|\(frame, y, x\)"):
        as_query(query, as_clip(COLOR))


def test_frames_divide_evenly_among_temporal_cells():
    assert [temporal_cell(t, 8, 4) for t in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [temporal_cell(t, 5, 5) for t in range(5)] == [0, 1, 2, 3, 4]
    assert [temporal_cell(t, 9, 3) for t in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [nearest_frame(frame, 8) for frame in (-0.4, 0.5, 2.6, 7.9)] == [0, 0, 3, 7]


def test_long_clips_show_eight_frames_including_that_of_the_query():
    assert choose_frames(None, 8) == list(range(8))
    chosen = choose_frames(None, 250, keep=101)
    assert len(chosen) == 8
    assert 101 in chosen
    assert (chosen[0], chosen[-1]) == (0, 249)
    assert chosen == sorted(chosen)
    assert choose_frames([6, 2], 8) == [6, 2]


@pytest.mark.parametrize(
    ("frames", "message"), [([8], "clip of 8 frames: expected 0 to 7"), ([], "frames is empty"), ([2, 2], "duplicates")]
)
def test_invalid_frames_raise(frames, message):
    with pytest.raises(ValueError, match=message):
        choose_frames(frames, 8)
