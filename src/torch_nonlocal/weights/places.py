"""Which module of a network a block of a file follows."""

import re
from collections.abc import Callable, Collection
from typing import NamedTuple

_CHILD = re.compile(r"(non_?local|nl)(_?block|_?layer)?_?\d*", re.IGNORECASE)


class Place(NamedTuple):
    """The module that a block follows, and what the user should know about it."""

    name: str
    note: str | None = None


Placing = Callable[[str, Collection[str], Collection[str]], Place]  # block, all blocks, all keys of the file -> place


def follow(block: str, blocks: Collection[str], keys: Collection[str]) -> Place:
    """Places of blocks that are modules of their network.

    "layer2.1.nl" follows "layer2.1": a child with a non-local name belongs to its parent. "layer2.2", among residual
    blocks of a Sequential, follows the one before it, counted without the blocks, as in the network without them. Any
    other name stays, since a file does not tell what runs before it.
    """
    if not block:
        return Place("", "the file's only block has no name: it goes behind the whole network; '=NAME' places it")
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
    return Place(block, f"{block!r} is its place: the file does not tell which module it follows; '{block}=NAME' does")
