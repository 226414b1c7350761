"""Rows, columns and tiles of one block's weights, from theta and phi (or a and b): exact, O(rows * M) memory.

| form                        | weight of key j for query i        | row sum                      |
|-----------------------------|------------------------------------|------------------------------|
| gaussian, embedded gaussian | exp(scale theta_i . phi_j) / sum_j | 1                            |
| the same, over queries      | exp(scale theta_i . phi_j) / sum_i | any; each key's weights sum to 1 |
| dot product                 | theta_i . phi_j / M                | any, signed                  |
| concatenation               | ReLU(a_i + b_j) / M                | any, not negative            |

Shapes: G groups (frames with attend="space", pixels with attend="time", else the batch), N queries, M keys, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

TILE_BYTES = 32 * 2**20  # of one tile of weights while streaming over all queries


@dataclass
class PairWeights:
    """The weights of one block in one run, held as what they are made of.

    Args:
        pairwise: the form.
        query: theta (G, N, D), or a (G, N) for concatenation.
        key: phi (G, M, D), or b (G, M).
        scale: of the logits, softmax forms.
        normalize: "keys" or "queries", softmax forms.
    """

    pairwise: str
    query: Tensor
    key: Tensor
    scale: float = 1.0
    normalize: str = "keys"
    _log_sums: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def queries(self) -> int:
        """N, in a group."""
        return self.query.shape[1]

    @property
    def keys(self) -> int:
        """M, in a group."""
        return self.key.shape[1]

    @property
    def is_softmax(self) -> bool:
        """Whether weights are exponentials that sum to one."""
        return self.pairwise in ("gaussian", "embedded_gaussian")

    def rows(self, group: int, index_Q: Tensor) -> Tensor:
        """Weights of chosen queries over all keys: (Q, M), float32 or better."""
        scores_QM = self._scores(self.query[group, index_Q], self.key[group])
        if not self.is_softmax:
            return scores_QM
        if self.normalize == "keys":
            return torch.softmax(scores_QM, dim=-1)
        return torch.exp(scores_QM - self.log_sum(group))

    def columns(self, group: int, index_K: Tensor) -> Tensor:
        """Weights that all queries give to chosen keys: (K, N)."""
        scores_KN = self._scores(self.query[group], self.key[group, index_K]).mT
        if not self.is_softmax:
            return scores_KN
        if self.normalize == "queries":
            return torch.softmax(scores_KN, dim=-1)
        return torch.exp(scores_KN - self.log_sum(group))

    def tiles(self, group: int, *, reuse: bool = False) -> Iterator[tuple[int, Tensor]]:
        """All rows of a group, a tile at a time: (first query, weights (R, M)).

        Args:
            group: which.
            reuse: the next tile may overwrite this one: faster, nothing is allocated anew.
        """
        for start, scores_RM in self.score_tiles(group, reuse=reuse):
            if not self.is_softmax:
                yield start, scores_RM
            elif self.normalize == "keys":
                yield start, torch.softmax(scores_RM, dim=-1, out=scores_RM)
            else:
                yield start, scores_RM.sub_(self.log_sum(group)).exp_()

    def score_tiles(
        self, group: int, *, reuse: bool = False, tile_bytes: int = TILE_BYTES
    ) -> Iterator[tuple[int, Tensor]]:
        """As `tiles`, of logits in the softmax forms (and finished weights in the others)."""
        key = _at_least_float32(self.key[group])
        rows = min(self.queries, max(1, tile_bytes // (key.element_size() * self.keys)))
        buffer = key.new_empty(rows, self.keys) if reuse else None
        for start in range(0, self.queries, rows):
            query = self.query[group, start : start + rows]
            yield start, self._scores(query, key, None if buffer is None else buffer[: len(query)])

    def log_sum(self, group: int) -> Tensor:
        """log of the normalizer: per query (N,) or, normalized over queries, per key (M,); streamed once, kept."""
        if group not in self._log_sums:
            tiles = (scores for _, scores in self.score_tiles(group, reuse=True))
            if self.normalize == "keys":
                total = torch.cat([torch.logsumexp(scores, dim=-1) for scores in tiles])
            else:
                total = torch.stack([torch.logsumexp(scores, dim=0) for scores in tiles]).logsumexp(dim=0)
            self._log_sums[group] = total
        return self._log_sums[group]

    def _scores(self, query: Tensor, key: Tensor, out: Tensor | None = None) -> Tensor:
        """Logits of the softmax forms, finished weights of the others: (Q, M), into `out` where given."""
        query, key = _at_least_float32(query), _at_least_float32(key)
        if self.pairwise == "concatenation":
            return torch.add(query[:, None], key[None, :], out=out).relu_().div_(self.keys)
        pairs = torch.mm(query, key.mT, out=out)
        return pairs.mul_(self.scale) if self.is_softmax else pairs.div_(self.keys)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
