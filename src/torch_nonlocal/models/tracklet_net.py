"""Networks that embed tracklets: a backbone, a pool over space and time, and a batch norm before the classifier.

Shapes: B batch, C channels, T frames, H height, W width, E embedding width, K identities.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class TrainingOutput(NamedTuple):
    """What a `TrackletNet` returns in train mode.

    Attributes:
        features: (B, E) before the batch norm, for the triplet loss.
        logits: (B, K) scores of the identities.
    """

    features: Tensor
    logits: Tensor


class AveragePool(nn.Module):
    """Average over space and time: (B, C, T, H, W) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the averages."""
        return x.mean((-3, -2, -1))

    def weights(self, x: Tensor) -> Tensor:
        """Return the weight of each position, (B, T, H, W); the output is the weighted sum of all positions."""
        return torch.full_like(x[:, 0], 1 / x[0, 0].numel())


class AttentionPool(nn.Module):
    """Average over space, then a weighted average over time: (B, C, T, H, W) -> (B, C).

    The weight of a frame is the softmax over time of a linear map of its features. It starts as the plain average.

    Args:
        channels: C.

    Reference: Gao and Nevatia, Revisiting temporal modeling for video-based person ReID, 2018, section 3 (temporal
    attention), with one linear map in place of two convolutions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Linear(channels, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted averages."""
        features_BTC = x.mean((-2, -1)).transpose(1, 2)
        weights_BT1 = self.score(features_BTC).softmax(1)
        return (weights_BT1 * features_BTC).sum(1)

    def weights(self, x: Tensor) -> Tensor:
        """Return the weight of each position, (B, T, H, W); the output is the weighted sum of all positions."""
        weights_BT1 = self.score(x.mean((-2, -1)).transpose(1, 2)).softmax(1)
        return (weights_BT1[..., None] / x[0, 0, 0].numel()).expand_as(x[:, 0])


class TrackletNet(nn.Module):
    """A network that embeds tracklets.

    In eval mode, clips (B, 3, T, H, W), normalized by `inputs`, -> embeddings (B, E). In train mode the same clips ->
    `TrainingOutput`.

    Args:
        backbone: clips (B, 3, T, H, W) -> maps (B, C, T', H', W').
        channels: C, which is also the width E of the embedding.
        identities: number of identities of the training tracklets.
        pooling: "average" or "attention" over time.

    Reference: Luo et al., Bag of tricks and a strong baseline for deep person re-identification, CVPRW 2019, section
    3.6 (BNNeck: the triplet loss acts before a batch norm without a trained shift, the classifier after it).
    """

    def __init__(self, backbone: nn.Module, channels: int, identities: int, *, pooling: str = "average") -> None:
        super().__init__()
        self.inputs: Any = getattr(backbone, "inputs", None)
        self.backbone = backbone
        self.pool = AttentionPool(channels) if pooling == "attention" else AveragePool()
        self.neck = nn.BatchNorm1d(channels)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(channels, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, clips: Tensor) -> Any:
        """Clips -> embeddings (B, E) in eval mode, `TrainingOutput` in train mode."""
        features = self.pool(self.backbone(clips))
        embeddings = self.neck(features)
        if not self.training:
            return embeddings
        return TrainingOutput(features, self.classifier(embeddings))


class FactorizedConv(nn.Sequential):
    """A convolution of each frame, then one over time: 1 x 3 x 3, then 3 x 1 x 1 with all channels.

    The convolution over time starts as the identity, so the network returns what it returned before.

    Args:
        space: convolution of each frame, with `out_channels`.

    Reference: Qiu et al., Learning spatio-temporal representation with pseudo-3D residual networks, ICCV 2017; Liao et
    al., Video-based person re-identification via 3D convolutional networks and non-local attention, ACCV 2018.
    """

    def __init__(self, space: Any) -> None:
        width = space.out_channels
        time = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), bias=False)
        nn.init.dirac_(time.weight)
        super().__init__()
        self.space, self.time = space, time


def factorize(backbone: nn.Module) -> int:
    """Add a convolution over time after the 3 x 3 convolution of each bottleneck of a ResNet for clips, in place.

    Args:
        backbone: an inflated ResNet with bottlenecks (`conv2`).

    Returns:
        Number of convolutions added.
    """
    bottlenecks = [
        module
        for module in backbone.modules()
        if isinstance(getattr(module, "conv2", None), nn.Conv3d) and hasattr(module, "conv3")
    ]
    for one in bottlenecks:
        one.conv2 = FactorizedConv(one.conv2)
    return len(bottlenecks)


__all__ = ["AttentionPool", "AveragePool", "FactorizedConv", "TrackletNet", "TrainingOutput", "factorize"]
