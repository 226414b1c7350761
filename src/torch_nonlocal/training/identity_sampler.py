"""Batches of P identities with K items each (PK sampling), stateless as those of `sampler`."""

from collections.abc import Sequence

import torch

from torch_nonlocal._common.seeds import mix_seed
from torch_nonlocal.training.sampler import Item


class IdentityBatches:
    """Batches of P identities with K items each, for losses that compare items of a batch.

    Each identity occurs once in an epoch, in random order; identities that do not fill a batch are dropped, others in
    each epoch. The K items of an identity come from as many groups (cameras) as possible, and within a group in random
    order. An identity with fewer than K items repeats some, with other random draws. The items of an identity are
    neighbors, so that parts of a batch on several processes hold whole identities.

    Args:
        identities: identity of each item.
        groups: group of each item, such as its camera.
        per_identity: K, items of an identity in a batch.
        batch_size: items per batch, P K.
        seed: seed of the draws and of the items' random draws.

    Raises:
        ValueError: the batch size is no multiple of K, there are fewer identities than P, or groups of other items.
    Reference: Hermans et al., In defense of the triplet loss for person re-identification, 2017, section 2.
    """

    def __init__(
        self, identities: Sequence[int], groups: Sequence[int], *, per_identity: int, batch_size: int, seed: int
    ) -> None:
        if per_identity < 1 or batch_size < 1 or batch_size % per_identity:
            raise ValueError(
                f"batch_size={batch_size}: expected a multiple of per_identity={per_identity}, both from 1"
            )
        if len(groups) != len(identities):
            raise ValueError(
                f"groups of {len(groups)} items, expected those of {len(identities)}, one for each identity"
            )
        members: dict[int, dict[int, list[int]]] = {}
        for index, (identity, group) in enumerate(zip(identities, groups, strict=True)):
            members.setdefault(identity, {}).setdefault(group, []).append(index)
        count = batch_size // per_identity
        if len(members) < count:
            raise ValueError(
                f"batch_size={batch_size}, per_identity={per_identity}: a batch has {count} identities, the training "
                f"data have {len(members)}; expected batch_size={len(members) * per_identity} or less"
            )
        self.items, self.batch_size, self.seed = len(identities), batch_size, seed
        self.steps_per_epoch = len(members) // count
        self._members, self._per_identity, self._count = list(members.values()), per_identity, count
        self._epoch, self._order = -1, [0]

    def batch(self, step: int) -> list[Item]:
        """The items of a step, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(len(self._members), generator=generator).tolist()
        chosen = self._order[position * self._count : (position + 1) * self._count]
        return [item for identity in chosen for item in self._draw(epoch, identity)]

    def _draw(self, epoch: int, identity: int) -> list[Item]:
        """The items of one identity."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, identity, 1))
        groups = list(self._members[identity].values())
        order = torch.randperm(len(groups), generator=generator).tolist()
        shuffled = [[group[i] for i in torch.randperm(len(group), generator=generator).tolist()] for group in groups]
        longest = max(map(len, shuffled))
        once = [shuffled[group][turn] for turn in range(longest) for group in order if turn < len(shuffled[group])]
        indices = [once[number % len(once)] for number in range(self._per_identity)]
        return [
            Item(epoch, index, mix_seed(self.seed, epoch, index, number // len(once)))
            for number, index in enumerate(indices)
        ]
