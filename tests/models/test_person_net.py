"""The network for handwritten persons: its maps, its receptive field, and what it does not see."""

import pytest
import torch

from torch_nonlocal.models.inputs import inputs_of
from torch_nonlocal.models.person_net import PersonNet


def test_maps_have_a_quarter_of_the_height_and_width_and_all_frames() -> None:
    net = PersonNet(4)
    assert net(torch.rand(2, 3, 5, 48, 24)).shape == (2, 8, 5, 12, 6)
    assert inputs_of(net).size == (48, 24)


def test_a_position_sees_17_by_17_pixels_of_its_own_frame() -> None:
    net = PersonNet(4).eval()
    net.light = torch.nn.Identity()
    clips = torch.rand(1, 3, 3, 48, 24, requires_grad=True)
    net(clips)[0, :, 1, 6, 3].sum().backward()
    assert clips.grad is not None
    seen_THW = clips.grad[0].abs().sum(0) > 0
    assert seen_THW.any((1, 2)).tolist() == [False, True, False]
    rows, columns = seen_THW[1].any(1).nonzero().flatten(), seen_THW[1].any(0).nonzero().flatten()
    assert (int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])) == (16, 32, 4, 20)


def test_the_gain_and_the_tint_of_a_camera_do_not_change_the_maps() -> None:
    net = PersonNet(4).eval()
    clips = torch.rand(2, 3, 4, 48, 24)
    tinted = clips * torch.tensor([0.5, 0.9, 0.7]).view(1, 3, 1, 1, 1) + 0.1
    assert torch.allclose(net(tinted), net(clips), atol=1e-3)


def test_a_width_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="channels: got 0, expected at least 1"):
        PersonNet(0)
