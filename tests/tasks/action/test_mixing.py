"""Mixup, cutmix and dropout: pixels and targets agree, and values follow from the random state."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torch_nonlocal.tasks.action.dropout import add_dropout
from torch_nonlocal.tasks.action.losses import ClassLoss, accuracy
from torch_nonlocal.tasks.action.mixing import Mixed, Mixing


def clips(batch=6):
    """Clips whose every pixel is their number."""
    return torch.arange(float(batch)).view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 10, 12).clone()


def mixed_with(mixing, seed=0, batch=6):
    torch.manual_seed(seed)
    return mixing(clips(batch))


def test_mixup_blends_by_the_share_of_the_target():
    mixed = mixed_with(Mixing(mixup=0.4))
    assert mixed.partner.tolist() == [1, 2, 3, 4, 5, 0]
    assert len(set(mixed.share.tolist())) == 6, "each clip has a share of its own"
    expected = mixed.share * torch.arange(6.0) + (1 - mixed.share) * mixed.partner
    torch.testing.assert_close(mixed.clips, expected.view(-1, 1, 1, 1, 1).expand_as(mixed.clips))


def test_shares_follow_the_beta_distribution():
    torch.manual_seed(0)
    shares = Mixing(mixup=0.4)(torch.zeros(20_000, 1, 1, 1, 1)).share
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(shares.var()) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.005)


def test_cutmix_pastes_one_rectangle_into_all_frames_and_counts_its_pixels():
    seen = set()
    for seed in range(20):
        mixed = mixed_with(Mixing(cutmix=1.0), seed)
        for own, (clip, partner, share) in enumerate(zip(*mixed, strict=True)):
            inside = clip[0, 0] == partner
            assert torch.equal(clip, torch.where(inside, partner, own).float().expand(3, 2, -1, -1))
            assert float(share) == pytest.approx(1 - float(inside.float().mean()))
            rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
            assert int(inside.sum()) == len(rows) * len(columns)
            assert not len(rows) or len(rows) == rows[-1] - rows[0] + 1
            assert not len(columns) or len(columns) == columns[-1] - columns[0] + 1
            seen.add(int(inside.sum()))
    assert len(seen) > 20


def test_the_random_state_decides():
    both = Mixing(mixup=0.4, cutmix=1.0)
    for seed in range(3):
        assert all(
            torch.equal(one, other) for one, other in zip(mixed_with(both, seed), mixed_with(both, seed), strict=True)
        )
    kinds = [bool((mixed_with(both, seed).clips % 1).any()) for seed in range(40)]
    assert 8 < sum(kinds) < 32, "blended in about half of the batches"
    assert not Mixing()


def test_a_single_clip_is_its_own_partner():
    assert torch.equal(mixed_with(Mixing(mixup=1.0), batch=1).clips, clips(1))


def test_loss_of_mixed_clips_equals_that_of_mixed_targets():
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(3, 4, generator=generator), torch.tensor([2, 0, 3])
    mixed = Mixed(torch.empty(0), torch.tensor([1, 2, 0]), torch.tensor([0.9, 0.25, 0.5]))
    share = mixed.share[:, None]
    targets = F.one_hot(labels, 4) * share + F.one_hot(labels[mixed.partner], 4) * (1 - share)
    torch.testing.assert_close(ClassLoss()(logits, labels, mixed), F.cross_entropy(logits, targets))
    smoothed = F.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(ClassLoss(smoothing=0.1)(logits, labels, mixed), smoothed)
    weights = torch.tensor([1.0, 2, 3, 4])
    weighted = -(targets * weights * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(ClassLoss(False, weights)(logits, labels, mixed), weighted)
    several = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [1, 1, 0, 0]])
    targets = several * share + several[mixed.partner] * (1 - share)
    expected = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(ClassLoss(True)(logits, several, mixed), expected)


def test_accuracy_of_mixed_clips_counts_the_share_of_the_predicted_one():
    logits = F.one_hot(torch.tensor([2, 3, 1]), 4).float()
    mixed = Mixed(torch.empty(0), torch.tensor([1, 2, 0]), torch.tensor([0.9, 0.25, 0.5]))
    assert float(accuracy(logits, torch.tensor([2, 0, 3]), mixed)) == pytest.approx((0.9 + 0.75 + 0) / 3)
    assert float(accuracy(logits, torch.tensor([2, 0, 3]))) == pytest.approx(1 / 3)


def test_dropout_of_the_last_layer_keeps_names_weights_and_evaluation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(4, 8)
    before, names, state = model(x), list(model.state_dict()), torch.get_rng_state()
    add_dropout(model, 0.5)
    assert torch.equal(torch.get_rng_state(), state), "no random numbers are drawn"
    assert list(model.state_dict()) == names
    assert torch.equal(model(x), before)
    model.train()
    torch.manual_seed(1)
    found = model(x)
    torch.manual_seed(1)
    hidden = F.dropout(F.relu(model[1](x)), 0.5)
    assert (hidden == 0).float().mean() > (F.relu(model[1](x)) == 0).float().mean()
    torch.testing.assert_close(found, F.linear(hidden, model[3].weight, model[3].bias))
