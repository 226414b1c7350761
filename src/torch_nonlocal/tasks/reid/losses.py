"""Losses of re-identification: cross-entropy over identities, and the batch-hard triplet loss."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal._common.optional import require
from torch_nonlocal.models.tracklet_net import TrainingOutput
from torch_nonlocal.tasks.reid.settings import ReidSettings


class ReidLoss(nn.Module):
    """Label-smoothed cross-entropy plus the batch-hard triplet loss of Euclidean distances.

    Args:
        settings: label smoothing, margin and weight of the triplet loss.

    Reference: Hermans et al., In defense of the triplet loss for person re-identification, 2017, equation 5 and
    section 2 (soft margin); Luo et al., Bag of tricks, CVPRW 2019.
    """

    def __init__(self, settings: ReidSettings) -> None:
        super().__init__()
        self._smoothing, self._weight = settings.label_smoothing, settings.triplet
        learning: Any = require("pytorch_metric_learning", extra="reid")
        losses, miners, distances, reducers = (
            require(f"{learning.__name__}.{name}", extra="reid")
            for name in ("losses", "miners", "distances", "reducers")
        )
        distance = distances.LpDistance(normalize_embeddings=False)
        soft = settings.margin is None
        margin: dict[str, Any] = {"margin": 0.0 if soft else settings.margin, "smooth_loss": soft}
        self._miner = miners.BatchHardMiner(distance=distance)
        # The mean over all anchors, as in the paper: the library's default leaves out triplets without loss.
        self._triplet = losses.TripletMarginLoss(distance=distance, reducer=reducers.MeanReducer(), **margin)

    def forward(self, output: TrainingOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss, its parts "cross_entropy" and "triplet", and "accuracy" over the training identities."""
        entropy = F.cross_entropy(output.logits, labels, label_smoothing=self._smoothing)
        features = output.features.to(torch.promote_types(output.features.dtype, torch.float32))  # squares need range
        triplet = self._triplet(features, labels, self._miner(features, labels))
        accuracy = (output.logits.detach().argmax(1) == labels).float().mean()
        loss = entropy + self._weight * triplet
        return {"loss": loss, "cross_entropy": entropy, "triplet": triplet, "accuracy": accuracy}
