"""Networks that embed tracklets."""

import pytest
import torch
from torch import nn

from torch_nonlocal.inflation.inflate import inflate
from torch_nonlocal.models.tracklet_net import AttentionPool, AveragePool, FactorizedConv, TrackletNet, factorize

GENERATOR = torch.Generator().manual_seed(0)
CLIPS = torch.randn(3, 3, 4, 8, 6, generator=GENERATOR)


def test_attention_over_frames_starts_as_the_average_and_weighs_frames_by_their_features():
    maps = torch.randn(2, 5, 4, 3, 2, generator=GENERATOR, dtype=torch.float64)
    pool = AttentionPool(5).double()
    torch.testing.assert_close(pool(maps), AveragePool()(maps))
    nn.init.normal_(pool.score.weight)
    features = maps.mean((3, 4))  # (B, C, T)
    weights = torch.einsum("bct,c->bt", features, pool.score.weight[0]).softmax(1)
    torch.testing.assert_close(pool(maps), torch.einsum("bct,bt->bc", features, weights))


def test_training_returns_features_before_the_neck_and_scores_behind_it_and_eval_embeddings():
    model = TrackletNet(nn.Conv3d(3, 5, 1), 5, identities=7)
    output = model.train()(CLIPS)
    features = model.backbone(CLIPS).mean((2, 3, 4))
    torch.testing.assert_close(output.features, features)
    normalized = (features - features.mean(0)) / (features.var(0, unbiased=False) + model.neck.eps).sqrt()
    torch.testing.assert_close(output.logits, normalized @ model.classifier.weight.T)
    assert model.eval()(CLIPS).shape == (3, 5)
    torch.testing.assert_close(model(CLIPS), model.neck(features))
    assert not model.neck.bias.requires_grad
    assert model.classifier.bias is None


class Bottleneck(nn.Module):
    """A residual block as in ResNet-50, for images."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv3 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2)

    def forward(self, x):
        return x + self.conv3(self.conv2(self.conv1(x)).relu())


def test_the_convolution_over_time_starts_as_the_identity_and_then_mixes_frames():
    backbone = inflate(nn.Sequential(Bottleneck(), Bottleneck()), 1).eval()
    expected = backbone(CLIPS)
    assert factorize(backbone) == 2
    torch.testing.assert_close(backbone(CLIPS), expected)
    first = backbone[0].conv2
    assert isinstance(first, FactorizedConv)
    assert first.time.weight.shape == (4, 4, 3, 1, 1)
    nn.init.ones_(first.time.weight)
    changed = CLIPS.clone()
    changed[:, :, 0] += 1
    difference = (backbone(changed) - backbone(CLIPS)).abs().amax((0, 1, 3, 4))
    assert (difference[:2] > 0).all()
    assert not difference[2:].any()


@pytest.mark.parametrize("pooling", ["average", "attention"])
def test_frames_of_other_numbers_are_taken(pooling):
    model = TrackletNet(nn.Conv3d(3, 5, 1), 5, 2, pooling=pooling).eval()
    assert model(CLIPS[:, :, :1]).shape == model(CLIPS.repeat(1, 1, 3, 1, 1)).shape == (3, 5)
