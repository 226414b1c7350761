"""Criss-cross attention: a position attends to the positions of its row and of its column, itself counted once.

The softmax is joint over the H + W - 1 keys; dot products and concatenations are divided by their number. There are
N (H + W) weights, not N^2. algorithm="dense" is the definition, with a mask of all N x N pairs.

Shapes: B' batch times frames, N = H W positions of a frame, D inner width, V value width.

Reference: Huang et al., CCNet: Criss-Cross Attention for Semantic Segmentation, ICCV 2019, whose second application
reaches every position: two blocks in sequence.
"""

from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.layers.options import SOFTMAX_FORMS


def criss_cross(
    options: Any, query: Tensor, key: Tensor, g_BNV: Tensor, size: tuple[int, int], *, dense: bool = False
) -> Tensor:
    """Return the weighted sums y (B', N, V).

    Args:
        options: a `NonLocal` or a `Computed`: the pairwise form and its scale.
        query: theta (B', N, D), or a (B', N) of the concatenation form.
        key: phi (B', N, D), or b (B', N).
        g_BNV: values, (B', N, V).
        size: (H, W).
        dense: compute the definition.
    """
    if options.pairwise == "concatenation":
        query, key = query.unsqueeze(2), key.unsqueeze(2)
    hidden_value = float("-inf") if options.pairwise in SOFTMAX_FORMS else 0.0
    keys = sum(size) - 1
    if dense:
        scores_BNN = _scores(options, query, key)
        hidden_NN = ~on_one_line(torch.arange(size[0] * size[1], device=query.device), size)
        return _normalized(options, scores_BNN.masked_fill(hidden_NN, hidden_value), keys) @ g_BNV
    query_BHWD, key_BHWD, g_BHWV = (one.unflatten(1, size) for one in (query, key, g_BNV))
    in_row_BHWX = _scores(options, query_BHWD, key_BHWD)
    in_column_BWHY = _scores(options, query_BHWD.transpose(1, 2), key_BHWD.transpose(1, 2))
    itself_HY = query.new_ones(size[0]).diag().bool()  # torch.fx does not record torch.eye
    in_column_BHWY = in_column_BWHY.masked_fill(itself_HY, hidden_value).transpose(1, 2)
    weights = _normalized(options, torch.cat([in_row_BHWX, in_column_BHWY], 3), keys)
    row_BHWX, column_BHWY = weights.split([size[1], size[0]], 3)
    from_column_BWHV = column_BHWY.transpose(1, 2) @ g_BHWV.transpose(1, 2)
    return (row_BHWX @ g_BHWV + from_column_BWHV.transpose(1, 2)).flatten(1, 2)


def on_one_line(position_N: Tensor, size: tuple[int, int]) -> Tensor:
    """Return whether two positions of a frame are in one row or one column, (N, N), from all their numbers."""
    row_N, column_N = position_N // size[1], position_N % size[1]
    return (row_N[:, None] == row_N) | (column_N[:, None] == column_N)


def _scores(options: Any, query: Tensor, key: Tensor) -> Tensor:
    """Return scores (..., N, M) of queries (..., N, D) and keys (..., M, D): logits in the softmax forms."""
    if options.pairwise == "concatenation":
        return torch.relu(query + key.mT)
    scores = query @ key.mT
    return scores * options.scale if options.pairwise in SOFTMAX_FORMS and options.scale != 1.0 else scores


def _normalized(options: Any, scores: Tensor, keys: int) -> Tensor:
    return torch.softmax(scores, -1) if options.pairwise in SOFTMAX_FORMS else scores / keys
