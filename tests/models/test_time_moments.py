"""The global pool that keeps the course of features over time."""

import numpy as np
import pytest
import torch
from torch import nn

from torch_nonlocal.models.time_moments import TimeMoments, moment_classifier


def by_loops(x: np.ndarray) -> np.ndarray:
    """The moments of a map (B, C, T, H, W), value by value."""
    batch, channels, frames, _, _ = x.shape
    found = np.zeros((batch, 3, channels))
    times = np.linspace(-1, 1, frames) if frames > 1 else np.zeros(1)
    curves = [(3 * t**2 - 1) / 2 for t in times]
    for number, (t, curve) in enumerate(zip(times, curves, strict=True)):
        mean = x[:, :, number].mean((-2, -1))
        found[:, 0] += mean / frames
        found[:, 1] += 3 * t * mean / frames
        found[:, 2] += 5 * (curve - sum(curves) / frames) * mean / frames
    return found.reshape(batch, -1)


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 33])
def test_moments_equal_their_definition(frames):
    x = torch.randn(2, 5, frames, 3, 4, dtype=torch.float64)
    assert TimeMoments()(x).numpy() == pytest.approx(by_loops(x.numpy()), abs=1e-12)
    still = x[:, :, :1].expand_as(x)
    assert TimeMoments()(still)[:, 5:].abs().max() < 1e-12


def test_the_order_of_frames_changes_the_sign_of_the_trend_only():
    x = torch.randn(2, 5, 8, 3, 4, dtype=torch.float64)
    forwards, backwards = TimeMoments()(x), TimeMoments()(x.flip(2))
    signs = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64).repeat_interleave(5)
    torch.testing.assert_close(backwards, signs * forwards)


def test_the_classifier_starts_as_one_behind_global_average_pooling():
    x = torch.randn(2, 5, 8, 3, 4)
    layer = moment_classifier(5, 3)
    average = nn.Linear(5, 3)
    average.weight.data, average.bias.data = layer.weight[:, :5].detach(), layer.bias.detach()
    torch.testing.assert_close(layer(TimeMoments()(x)), average(x.mean((-3, -2, -1))))
    assert layer.weight[:, :5].abs().sum() > 0


def test_an_exported_program_takes_clips_of_any_length():
    sizes = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("frames")},)
    program = torch.export.export(TimeMoments(), (torch.randn(2, 4, 8, 3, 3),), dynamic_shapes=sizes).module()
    x = torch.randn(3, 4, 5, 3, 3)
    torch.testing.assert_close(program(x), TimeMoments()(x))
