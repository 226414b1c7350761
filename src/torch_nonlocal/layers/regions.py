"""A region mask that all queries share: the k most salient positions of a group are its keys.

A 1x1 convolution scores the positions. The sum runs over the k positions with the highest scores alone, so that its
time grows with N k. Their values are multiplied by the sigmoid of their score, which gives the scores a gradient.

Shapes: B' batch times groups, N queries, M keys, K selected keys, V width.

Reference: Gao and Ji, Graph U-Nets, ICML 2019, eq. 2 (gPool): top-k by a learned score, and a sigmoid gate.
"""

from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.layers.operands import Operands
from torch_nonlocal.layers.projection import project


def scores_of(block: Any, source: Tensor) -> Tensor:
    """Return the scores of the keys of each group, (B', M), from the map (B, C, *size) that keys are computed from."""
    if block.pools_first:
        (score,) = project(block.pool(source), [block.saliency])
    else:
        score = block.pool(project(source, [block.saliency])[0])
    return block.groups.to_positions(score).squeeze(2)


def keep_regions(block: Any, operands: Operands, source: Tensor) -> Operands:
    """Return the operands of a sum with the most salient keys only, their values gated.

    Args:
        block: a `NonLocal` with the option `regions`.
        operands: theta (B', N, D), phi (B', M, D) and g (B', M, V); a (B', N) and b (B', M) of the concatenation form.
        source: the map (B, C, *size) that the keys are computed from.
    """
    query, key, g_BMV = operands
    score_BK, index_BK = scores_of(block, source).topk(block.regions, dim=1)
    gated_BKV = _taken(g_BMV, index_BK) * torch.sigmoid(score_BK).unsqueeze(2)
    scalars = block.pairwise == "concatenation"  # torch.fx, which records, does not know the number of axes
    return query, key.gather(1, index_BK) if scalars else _taken(key, index_BK), gated_BKV


def region_mask(block: Any, source: Tensor) -> Tensor:
    """Return whether a key of a group is selected, (B', M)."""
    score_BM = scores_of(block, source)
    index_BK = score_BM.topk(block.regions, dim=1).indices
    return torch.zeros_like(score_BM, dtype=torch.bool).scatter(1, index_BK, True)


def saliency_map(block: Any, source: Tensor) -> Tensor:
    """Return the sigmoid of the score of every position of a map (B, C, *size): (B, *size)."""
    return torch.sigmoid(project(source, [block.saliency])[0][:, 0])


def _taken(keys_BMD: Tensor, index_BK: Tensor) -> Tensor:
    """Return some keys of each group, (B', K, D)."""
    return keys_BMD.gather(1, index_BK.unsqueeze(2).expand(-1, -1, keys_BMD.shape[2]))
