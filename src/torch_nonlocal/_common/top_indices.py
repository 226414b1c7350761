"""Indices of the largest values of each row of a matrix, faster than `torch.topk` for a few of many columns."""

import torch
from torch import Tensor

CHUNK = 64
"""Columns of a chunk. The k largest values lie in the k chunks with the largest maxima."""


def top_indices(values_RM: Tensor, k: int) -> Tensor:
    """Return the indices of the k largest values of each row, descending: (R, k), int64. NaN is the largest value.

    Which of equal values come first does not depend on chance.
    """
    if k == 1:
        return values_RM.argmax(1, keepdim=True)
    rows, columns = values_RM.shape
    whole = columns - columns % CHUNK
    chunks = whole // CHUNK
    if chunks < 4 * k:
        return values_RM.topk(k, dim=1).indices
    chunked = values_RM[:, :whole].unflatten(1, (chunks, CHUNK))
    best_RK = chunked.amax(2).topk(k, dim=1, sorted=False).indices
    index = (best_RK[:, :, None] * CHUNK + torch.arange(CHUNK, device=best_RK.device)).flatten(1)
    tail = torch.arange(whole, columns, device=index.device).expand(rows, -1)
    index = torch.cat([index, tail], dim=1)
    order = values_RM.gather(1, index).topk(k, dim=1).indices
    return index.gather(1, order)
