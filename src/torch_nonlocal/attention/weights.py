"""Rows, columns and tiles of the weights of a block, from theta and phi (or a and b): exact, in O(rows * M) memory.

| form                           | weight of key j for query i        | sum over keys j                         |
|--------------------------------|------------------------------------|-----------------------------------------|
| Gaussian, embedded Gaussian    | exp(scale theta_i . phi_j) / sum_j | 1                                       |
| the same, normalize="queries"  | exp(scale theta_i . phi_j) / sum_i | any; the sum over queries i is 1        |
| dot product                    | theta_i . phi_j / M                | any; weights are signed                 |
| the same, normalize="queries"  | theta_i . phi_j / N                | any; weights are signed                 |
| concatenation                  | ReLU(a_i + b_j) / M                | any; weights are nonnegative            |

If the block is causal over frames, or attends within windows or to rows and columns, weights of keys that a query does
not see are zero, sums run over those that it sees, and M and N are their numbers. The same holds for keys that are not
selected, by a query or for a whole group.

Shapes: G groups (see `torch_nonlocal.layers.groups`), N queries and M keys per group, D inner width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torch_nonlocal._common.top_indices import top_indices
from torch_nonlocal.functional import CausalFrames
from torch_nonlocal.layers.visibility import Visibility

TILE_BYTES = 32 * 2**20  # size of one tile of weights


@dataclass
class PairWeights:
    """The weights of one block in one run, stored as theta and phi.

    Args:
        pairwise: form of the block.
        query: theta (G, N, D), or a (G, N) for concatenation.
        key: phi (G, M, D), or b (G, M) for concatenation.
        scale: factor of the logits in the softmax forms.
        normalize: "keys" or "queries", the axis of the softmax, or what the dot product is divided by the number of.
        frames: which frames a query sees, if the block is causal; None for all.
        sees: which keys a query sees in windows, or in its row and column; None for all.
        kept: number of keys of a query that have a weight, those with the largest logits; None for all. 1 if the block
            has hard attention.
        regions: which keys of a group have a weight for every query, (G, M); None for all.
    """

    pairwise: str
    query: Tensor
    key: Tensor
    scale: float = 1.0
    normalize: str = "keys"
    frames: CausalFrames | None = None
    sees: Visibility | None = None
    kept: int | None = None
    regions: Tensor | None = None
    _log_sums: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def queries(self) -> int:
        """N, the number of queries per group."""
        return self.query.shape[1]

    @property
    def keys(self) -> int:
        """M, the number of keys per group."""
        return self.key.shape[1]

    @property
    def is_softmax(self) -> bool:
        """True for the Gaussian forms, whose weights are a softmax."""
        return self.pairwise in ("gaussian", "embedded_gaussian")

    @property
    def selects(self) -> bool:
        """Whether some keys that a query sees have no weight: those that are not selected."""
        return self.kept is not None or self.regions is not None

    def rows(self, group: int, index_Q: Tensor) -> Tensor:
        """Return the weights of some queries over all keys of their group: (Q, M), float32 or better."""
        scores_QM = self._scores(self.query[group, index_Q], self.key[group])
        self._hide_(scores_QM, group, index_Q, self._numbers(self.keys))
        self._narrow_(scores_QM)
        if not self.is_softmax:
            return scores_QM
        if self.normalize == "keys":
            return torch.softmax(scores_QM, dim=-1)
        return torch.exp(scores_QM - self.log_sum(group))

    def columns(self, group: int, index_K: Tensor) -> Tensor:
        """Return the weights of some keys for all queries of their group: (K, N), float32 or better."""
        if self.kept is not None:  # the keys of a query depend on all its logits
            return torch.cat([weights_RM[:, index_K] for _, weights_RM in self.tiles(group, reuse=True)]).mT
        scores_NK = self._scores(self.query[group], self.key[group, index_K])
        self._hide_(scores_NK, group, self._numbers(self.queries), index_K)
        scores_KN = scores_NK.mT
        if not self.is_softmax:
            return scores_KN
        if self.normalize == "queries":
            return torch.softmax(scores_KN, dim=-1)
        return torch.exp(scores_KN - self.log_sum(group))

    def tiles(self, group: int, *, reuse: bool = False) -> Iterator[tuple[int, Tensor]]:
        """Yield all rows of a group in tiles: (index of the first query, weights (R, M)).

        Args:
            group: index of the group.
            reuse: each tile may overwrite the previous one, which avoids allocations.
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
        """As `tiles`, but yield logits in the softmax forms; the other forms yield weights."""
        key = _at_least_float32(self.key[group])
        rows = min(self.queries, max(1, tile_bytes // (key.element_size() * self.keys)))
        buffer = key.new_empty(rows, self.keys) if reuse else None
        for start in range(0, self.queries, rows):
            query = self.query[group, start : start + rows]
            scores_RM = self._scores(query, key, None if buffer is None else buffer[: len(query)])
            self._hide_(scores_RM, group, self._numbers(self.queries)[start : start + rows], self._numbers(self.keys))
            self._narrow_(scores_RM)
            yield start, scores_RM

    def log_sum(self, group: int) -> Tensor:
        """Log of the softmax denominator, per query (N,) or with normalize="queries" per key (M,); cached."""
        if group not in self._log_sums:
            tiles = (scores for _, scores in self.score_tiles(group, reuse=True))
            if self.normalize == "keys":
                total = torch.cat([torch.logsumexp(scores, dim=-1) for scores in tiles])
            else:
                total = torch.stack([torch.logsumexp(scores, dim=0) for scores in tiles]).logsumexp(dim=0)
            self._log_sums[group] = total
        return self._log_sums[group]

    def lowest_logits(self, group: int) -> Tensor:
        """The lowest logit of each query that has a weight, (N,)."""
        lowest = [
            scores_RM.masked_fill(scores_RM == torch.finfo(scores_RM.dtype).min, torch.inf).amin(1)
            for _, scores_RM in self.score_tiles(group, reuse=True)
        ]
        return torch.cat(lowest)

    def seen_keys(self, index_Q: Tensor) -> Tensor:
        """The number of keys that some queries see, and with `kept` select, (Q,)."""
        seen_Q = self._all_seen_keys(index_Q)
        return seen_Q if self.kept is None else seen_Q.clamp(max=self.kept)

    def _all_seen_keys(self, index_Q: Tensor) -> Tensor:
        if self.regions is not None:
            return torch.full_like(index_Q, int(self.regions[0].sum()))
        if self.frames is None:
            return torch.full_like(index_Q, self.keys) if self.sees is None else self.sees.seen_keys(index_Q)
        seen_Q = self.frames.seen_keys(index_Q, self.queries, self.keys)
        return seen_Q if self.sees is None else seen_Q * self.sees.seen_keys(index_Q) // self.keys

    def seen_queries(self, index_Q: Tensor) -> Tensor:
        """The number of queries that see the same keys as some queries, (Q,)."""
        return torch.full_like(index_Q, self.queries) if self.sees is None else self.sees.seen_queries(index_Q)

    def visible(self, index_Q: Tensor, index_K: Tensor) -> Tensor | None:
        """Whether some queries see some keys, (Q, K); None if every query sees every key."""
        found_QK = None if self.sees is None else self.sees.visible(index_Q, index_K)
        if self.frames is None:
            return found_QK
        in_frames_QK = self.frames.visible(index_Q, index_K, self.queries, self.keys)
        return in_frames_QK if found_QK is None else in_frames_QK & found_QK

    def _numbers(self, count: int) -> Tensor:
        return torch.arange(count, device=self.query.device)

    def _hide_(self, scores_QK: Tensor, group: int, index_Q: Tensor, index_K: Tensor) -> None:
        """Set the scores of keys that a query does not see to zero, and divide the others by the number of keys seen.

        In the softmax forms, logits become the lowest finite value, whose exponential is zero.
        """
        visible_QK = self.visible(index_Q, index_K) if self.regions is None else self.regions[group, index_K][None]
        if visible_QK is None:
            return
        if self.is_softmax:
            scores_QK.masked_fill_(~visible_QK, torch.finfo(scores_QK.dtype).min)
            return
        if self.normalize == "queries":
            all_count, seen_Q = self.queries, self.seen_queries(index_Q)
        else:
            all_count, seen_Q = self.keys, self.seen_keys(index_Q)
        share_Q = all_count / seen_Q.to(scores_QK.dtype)
        scores_QK.masked_fill_(~visible_QK, 0.0).mul_(share_Q[:, None])

    def _narrow_(self, scores_RM: Tensor) -> None:
        """Set the logits of keys that a query does not select to the lowest finite value."""
        if self.kept is None:
            return
        index_RK = top_indices(scores_RM, min(self.kept, self.keys))
        logits_RK = scores_RM.gather(1, index_RK)
        scores_RM.fill_(torch.finfo(scores_RM.dtype).min).scatter_(1, index_RK, logits_RK)

    def _scores(self, query: Tensor, key: Tensor, out: Tensor | None = None) -> Tensor:
        """Return logits in the softmax forms and weights in the others: (Q, M), written to `out` if given."""
        query, key = _at_least_float32(query), _at_least_float32(key)
        if self.pairwise == "concatenation":
            return torch.add(query[:, None], key[None, :], out=out).relu_().div_(self.keys)
        pairs = torch.mm(query, key.mT, out=out)
        if self.is_softmax:
            return pairs.mul_(self.scale)
        return pairs.div_(self.queries if self.normalize == "queries" else self.keys)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
