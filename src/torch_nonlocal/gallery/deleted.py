"""Digests of deleted names: a repeated build does not store again what was deleted. Names themselves are not kept."""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from torch_nonlocal.gallery.parts import Part, open_array, write_array
from torch_nonlocal.gallery.table import Entry

_BYTES = 12


def read_deleted(folder: Path, part: Part | None) -> set[bytes]:
    """The digests of a gallery.

    Raises:
        DamagedGalleryError: the file is missing or damaged.
    """
    return set() if part is None else {row.tobytes() for row in open_array(folder, part, _BYTES, "|u1")}


def write_deleted(folder: Path, name: str, deleted: Collection[bytes]) -> Part | None:
    """Write digests to an array (count, 12) of bytes; None if there are none."""
    if not deleted:
        return None
    return write_array(folder, name, np.frombuffer(b"".join(sorted(deleted)), np.uint8).reshape(-1, _BYTES))


def of_names(names: Iterable[str]) -> set[bytes]:
    """Digests of names of tracklets."""
    return {_digest("tracklet", name) for name in names}


def of_identities(identities: Iterable[str]) -> set[bytes]:
    """Digests of names of identities."""
    return {_digest("identity", name) for name in identities}


def positions_kept(entries: Sequence[Entry], positions: Sequence[int], deleted: Collection[bytes]) -> list[int]:
    """The positions whose tracklet and identity were not deleted."""
    if not deleted:
        return list(positions)
    return [
        position
        for position in positions
        if _digest("tracklet", entries[position].name) not in deleted
        and _digest("identity", entries[position].identity) not in deleted
    ]


def without(deleted: Collection[bytes], entries: Sequence[Entry]) -> set[bytes]:
    """The digests that are left when entries are added again."""
    return set(deleted) - of_names(one.name for one in entries) - of_identities({one.identity for one in entries})


def _digest(kind: str, name: str) -> bytes:
    return hashlib.blake2b(f"{kind}:{name}".encode(), digest_size=_BYTES).digest()
