"""Digests of deleted names: a repeated build does not store again what was deleted. Names themselves are not kept."""

import hashlib
from collections.abc import Collection, Iterable, Sequence

from torch_nonlocal.gallery.table import Entry


def of_names(names: Iterable[str]) -> set[str]:
    """Digests of names of tracklets."""
    return {_digest("tracklet", name) for name in names}


def of_identities(identities: Iterable[str]) -> set[str]:
    """Digests of names of identities."""
    return {_digest("identity", name) for name in identities}


def positions_kept(entries: Sequence[Entry], positions: Sequence[int], deleted: Collection[str]) -> list[int]:
    """The positions whose tracklet and identity were not deleted."""
    found = set(deleted)
    if not found:
        return list(positions)
    return [
        position
        for position in positions
        if _digest("tracklet", entries[position].name) not in found
        and _digest("identity", entries[position].identity) not in found
    ]


def without(deleted: Collection[str], entries: Sequence[Entry]) -> tuple[str, ...]:
    """The digests that are left when entries are added again."""
    added = of_names(one.name for one in entries) | of_identities({one.identity for one in entries})
    return tuple(sorted(set(deleted) - added))


def _digest(kind: str, name: str) -> str:
    return hashlib.blake2b(f"{kind}:{name}".encode(errors="surrogateescape"), digest_size=12).hexdigest()
