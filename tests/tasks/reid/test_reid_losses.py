"""The loss of re-identification beside a plain program, its gradients, and large distances."""

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("pytorch_metric_learning", reason="pip install 'torch-nonlocal[reid]'")

from torch_nonlocal.models.tracklet_net import TrainingOutput
from torch_nonlocal.tasks.reid.losses import ReidLoss
from torch_nonlocal.tasks.reid.settings import ReidSettings


def test_the_loss_is_smoothed_cross_entropy_plus_the_hardest_triplet_of_each_anchor():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 5, generator=generator)
    logits = torch.randn(8, 4, generator=generator)
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])  # the last one has no positive
    for margin in (0.3, None):
        settings = ReidSettings(margin=margin, triplet=0.7, label_smoothing=0.2)
        found = ReidLoss(settings)(TrainingOutput(features, logits), labels)
        distances = torch.cdist(features, features)
        losses = []
        for anchor in range(7):
            same = labels == labels[anchor]
            same[anchor] = False
            positive = distances[anchor][same].max()
            negative = distances[anchor][labels != labels[anchor]].min()
            gap = positive - negative
            losses.append(F.softplus(gap) if margin is None else (gap + margin).clamp_min(0))
        log_p = logits.log_softmax(1)
        entropy = -(0.8 * log_p[torch.arange(8), labels] + 0.2 * log_p.mean(1)).mean()
        triplet = torch.stack(losses).mean()
        torch.testing.assert_close(found["triplet"], triplet, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["loss"], entropy + 0.7 * triplet, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("margin", [0.3, None])
def test_gradients_of_the_loss_are_those_of_finite_differences(margin):
    generator = torch.Generator().manual_seed(0)
    features, logits = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    loss, labels = ReidLoss(ReidSettings(margin=margin)), torch.tensor([0, 0, 1, 1, 2, 2])

    def total(features, logits):
        return loss(TrainingOutput(features, logits), labels)["loss"]

    assert torch.autograd.gradcheck(total, (features.requires_grad_(), logits.requires_grad_()))


def test_the_soft_margin_does_not_overflow():
    features = torch.tensor([[0.0], [1e10], [1.0], [2e10]], requires_grad=True)
    output = TrainingOutput(features, torch.zeros(4, 2))
    found = ReidLoss(ReidSettings(margin=None))(output, torch.tensor([0, 0, 1, 1]))
    # hardest positives at 1e10, 1e10, 2e10, 2e10; nearest others at 1, 1e10, 1, 1e10
    assert found["triplet"].item() == pytest.approx((1e10 + 0 + 2e10 + 1e10) / 4)
    found["triplet"].backward()
    assert features.grad.isfinite().all()
