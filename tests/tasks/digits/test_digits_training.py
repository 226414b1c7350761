"""The demo's training, at the edges."""

import math

import pytest

pytest.importorskip("sklearn", reason="pip install 'torch-nonlocal[demo]'")

from torch_nonlocal.data.moving_digits import MovingDigits
from torch_nonlocal.models.relation_net import RelationNet
from torch_nonlocal.tasks.digits.task import train


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11])
def test_any_number_of_steps_can_be_trained(steps):
    losses = train(RelationNet(4, hidden=4), MovingDigits(frames=2, size=16), steps=steps, batch=2)
    assert len(losses) == steps
    assert all(math.isfinite(loss) for loss in losses)
