"""Places: the modules that the blocks of a file follow."""

import re
from collections.abc import Callable, Collection
from typing import NamedTuple

_CHILD = re.compile(r"(non_?local|nl)(_?block|_?layer)?_?\d*", re.IGNORECASE)


class Place(NamedTuple):
    """Name of the module that a block follows, and a note for the user.

    Attributes:
        name: the module in the network of torch-nonlocal, or in the user's network.
        note: a sentence for the user.
        alias: the module in the source's own network, if it has another name there.
    """

    name: str
    note: str | None = None
    alias: str | None = None


Placing = Callable[[str, Collection[str], Collection[str]], Place]
"""Maps a block's name, the names of all blocks and all keys of the file to a place."""


def follow(block: str, blocks: Collection[str], keys: Collection[str]) -> Place:
    """Place of a block that is a module of its network.

    A child with a non-local name follows its parent: "layer2.1.nl" follows "layer2.1". A block among the residual
    blocks of a Sequential follows the residual block before it, counted without the non-local blocks: "layer2.2"
    follows "layer2.1". Any other name is its own place, because the file does not determine what runs before it.
    """
    if not block:
        return Place(
            "", "the only block of the file has no name: it follows the whole network; '=NAME' places it elsewhere"
        )
    parent, _, last = block.rpartition(".")
    if parent and _CHILD.fullmatch(last):
        return Place(parent)
    if parent and last.isdigit():
        index, start = int(last), f"{parent}."
        own = {int(tail) for tail in (one[len(start) :] for one in blocks if one.startswith(start)) if tail.isdigit()}
        heads = {key[len(start) :].partition(".")[0] for key in keys if key.startswith(start)}
        before = [one for one in range(index) if str(one) in heads and one not in own]
        if before:
            return Place(f"{parent}.{len(before) - 1}")
    return Place(
        block, f"{block!r} is used as place: the file does not determine the module it follows; '{block}=NAME' sets it"
    )
