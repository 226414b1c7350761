"""Color histograms: the bins of known colors, and that light is removed."""

import colorsys

import torch

from torch_nonlocal.tasks.reid.baseline import color_histogram, histogram_embeddings


def test_the_bins_of_a_clip_are_those_that_colorsys_gives() -> None:
    clip = torch.randint(0, 256, (3, 2, 6, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    values = clip.double() / 255
    spread, mean = values.std((1, 2, 3), correction=0, keepdim=True), values.mean((1, 2, 3), keepdim=True)
    values = ((values - mean) / spread * 0.2 + 0.5).clamp(0, 1)
    expected = torch.zeros(2, 12, 3)
    for frame in range(2):
        for row in range(6):
            for column in range(4):
                hue, saturation, _ = colorsys.rgb_to_hsv(*values[:, frame, row, column].tolist())
                expected[row // 3, int(hue * 12) % 12, min(int(saturation * 3), 2)] += 1 / 48
    assert torch.allclose(color_histogram(clip), expected.flatten().sqrt(), atol=1e-6)
    assert torch.isclose(color_histogram(clip).norm(), torch.tensor(1.0))


def test_a_histogram_does_not_depend_on_the_order_of_frames_but_on_the_halves() -> None:
    clip = torch.randint(0, 256, (3, 4, 6, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(color_histogram(clip.flip(1)), color_histogram(clip))
    swapped = color_histogram(clip.flip(2))
    assert torch.equal(swapped.view(2, -1).flip(0).flatten(), color_histogram(clip))
    assert not torch.equal(swapped, color_histogram(clip))


def test_a_gain_per_channel_changes_no_bin() -> None:
    clip = 2 * torch.randint(20, 100, (3, 4, 6, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    darker = clip // torch.tensor([2, 1, 2], dtype=torch.uint8).view(3, 1, 1, 1)
    assert torch.allclose(color_histogram(darker), color_histogram(clip), atol=0.05)


def test_a_clip_of_one_color_has_a_histogram() -> None:
    assert color_histogram(torch.full((3, 2, 4, 4), 7, dtype=torch.uint8)).isfinite().all()


def test_embeddings_are_histograms_of_all_frames() -> None:
    from torch_nonlocal.data.digit_persons import DigitPersons

    source = DigitPersons("test", identities=5)
    expected = torch.stack([color_histogram(source.read(at, range(16))) for at in (3, 1)])
    assert torch.equal(histogram_embeddings(source, [3, 1]), expected)
