"""What the statistics of a block mean, given what is known about its network."""

from __future__ import annotations

from torch_nonlocal.attention import Statistics

ADDS_NOTHING = 1e-6  # of the norm of a block's input
_ALONE = 0.99  # as in `attention.statistics`, which names the blocks beyond it
_SIMILAR = 0.9
_SINGLE = 0.05


def verdict(statistics: Statistics, *, added: float | None = None, untrained: str = "") -> str:
    """Return a sentence about a block; it says first whether the block is untrained, since weights then mean nothing.

    Args:
        statistics: statistics of the weights.
        added: norm of what the block adds relative to its input; None if unknown.
        untrained: why the network counts as untrained; "" if it does not.
    """
    if added is not None and added < ADDS_NOTHING:
        return (
            "untrained: the block adds nothing to its input, so its weights have no effect on the network; "
            f"they are as initialized (entropy {statistics.entropy:.3f} of 1)"
        )
    if untrained:
        return f"{untrained}, so its weights need not mean anything (entropy {statistics.entropy:.3f} of 1)"
    found = _collapsed(statistics) or statistics.verdict
    return found if added is None else f"{found}; the block adds {added:.1%} to its input"


def _collapsed(statistics: Statistics) -> str:
    """Say that the weights are neither uniform nor equal, but nearly so in another way; "" for other weights."""
    if statistics.keys == 1 or statistics.on_itself >= _ALONE:
        return ""
    if _SIMILAR <= statistics.alike < _ALONE and statistics.entropy < _ALONE:
        return (
            f"collapsed: most positions have similar weights (cosine {statistics.alike:.3f}), whatever they show "
            f"(entropy {statistics.entropy:.3f} of 1)"
        )
    if statistics.silent < 1 and statistics.entropy <= _SINGLE:
        return (
            f"collapsed: nearly all weight of each position is on a single key (entropy {statistics.entropy:.3f} of 1)"
        )
    return ""
