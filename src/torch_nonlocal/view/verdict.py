"""What the statistics of a block mean, given what is known about its network."""

from __future__ import annotations

from typing import NamedTuple

from torch_nonlocal.attention import Statistics
from torch_nonlocal.attention.statistics import UNIFORM as UNIFORM_FROM

ADDS_NOTHING = 1e-6  # of the norm of a block's input
ADDS_LITTLE = 0.01
_ALONE = 0.99  # as in `attention.statistics`, which names the blocks beyond it
_NEARLY = 0.95
_SIMILAR = 0.9
_SINGLE = 0.05

ADDS = "Untrained: the block adds nothing to its input. Its attention then has no meaning."
NETWORK = "Untrained: the network has random weights or is no better than chance. Its attention then has no meaning."
ALIKE = "Collapsed: all positions have nearly the same weights, which then say little about what a position shows."
ON_ONE_KEY = "Collapsed: each position has nearly all of its weight on one key, so the block copies single positions."
UNIFORM = "Uniform: all keys have about the same weight, so the largest weights mean nothing in particular."
SELECTIVE = "Selective: weights differ between keys and between positions (entropy below 0.95, where 1 is uniform)."


class Verdict(NamedTuple):
    """A judgment of a block.

    Attributes:
        text: a sentence; it says first whether the block is untrained, since weights then mean nothing.
        meaning: definition of the term that the sentence uses; "" if it explains itself.
        is_warning: whether the weights should not be interpreted.
    """

    text: str
    meaning: str
    is_warning: bool


def judge(statistics: Statistics, *, added: float | None = None, untrained: str = "") -> Verdict:
    """Judge a block.

    Args:
        statistics: statistics of the weights.
        added: norm of what the block adds relative to its input; None if unknown.
        untrained: why the network counts as untrained; "" if it does not.
    """
    if added is not None and added < ADDS_NOTHING:
        text = (
            "untrained: the block adds nothing to its input, so its weights have no effect on the network; "
            f"they are as initialized (entropy {statistics.entropy:.3f} of 1)"
        )
        return Verdict(text, ADDS, is_warning=True)
    if untrained:
        text = f"{untrained}, so its weights need not mean anything (entropy {statistics.entropy:.3f} of 1)"
        return Verdict(text, NETWORK, is_warning=True)
    found = _of_weights(statistics)
    if added is None:
        return found
    little = "only " if added < ADDS_LITTLE else ""
    effect = ", so it changes the features little" if little else ""
    return found._replace(text=f"{found.text}; the block adds {little}{100 * added:.3g}% to its input{effect}")


def verdict(statistics: Statistics, *, added: float | None = None, untrained: str = "") -> str:
    """Return the sentence of `judge`."""
    return judge(statistics, added=added, untrained=untrained).text


def _of_weights(statistics: Statistics) -> Verdict:
    """Judge the weights alone."""
    text = statistics.verdict
    if statistics.not_finite or statistics.silent == 1 or statistics.keys == 1:
        return Verdict(text, "", is_warning=statistics.keys > 1)
    if statistics.on_itself >= _ALONE:
        return Verdict(text, "", is_warning=True)
    if statistics.alike >= _ALONE and statistics.entropy < UNIFORM_FROM:
        return Verdict(text, ALIKE, is_warning=True)
    if statistics.entropy < _ALONE and statistics.alike >= _SIMILAR:
        text = (
            f"collapsed: most positions have similar weights (cosine {statistics.alike:.3f}), whatever they show "
            f"(entropy {statistics.entropy:.3f} of 1)"
        )
        return Verdict(text, ALIKE, is_warning=True)
    if statistics.entropy <= _SINGLE:
        text = (
            f"collapsed: nearly all weight of each position is on a single key (entropy {statistics.entropy:.3f} of 1)"
        )
        return Verdict(text, ON_ONE_KEY, is_warning=True)
    is_uniform = statistics.entropy >= _NEARLY
    return Verdict(text, UNIFORM if is_uniform else SELECTIVE, is_warning=is_uniform)
