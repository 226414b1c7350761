"""What is known about a clip and its networks beside their weights. The page and the pictures state it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class BlockFacts:
    """Facts about a block and its network.

    Attributes:
        network: name of the network.
        classes: class names with their scores for the clip, highest first; empty for a network without classes.
        evidence: contribution of each position of the block's output to the score of the first class, such as gradient
            times activation: (T', H', W') on the block's grid, or None.
        added: norm of what the block adds relative to its input; None if unknown.
        untrained: why the network counts as untrained, such as "the network has random weights"; "" if it does not.
        scored: what the scores were computed from, a sentence.
        seen: which region of the frames the network saw, and at which size, a sentence.
    """

    network: str = ""
    classes: Sequence[tuple[str, float]] = ()
    evidence: Any = None
    added: float | None = None
    untrained: str = ""
    scored: str = ""
    seen: str = ""

    @property
    def has_evidence(self) -> bool:
        """Whether the evidence tells where to look: the network is trained, and some position contributes."""
        return self.evidence is not None and not self.untrained and float(self.evidence.max()) > 0

    @property
    def contribution(self) -> str:
        """What the evidence means and its sum, as a sentence; "" without evidence."""
        if self.evidence is None:
            return ""
        score = f"the score (logit) of {self.classes[0][0]}" if self.classes else "the score (logit)"
        return (
            f"Red raises and blue lowers {score}, to first order: gradient \u00d7 activation at each position. "
            f"Sum of all positions: {float(self.evidence.sum()):+.3g} logit."
        )

    @property
    def prediction(self) -> str:
        """The first class and its score, such as "walking (0.83)"; "" for a network without classes."""
        return f"{self.classes[0][0]} ({self.classes[0][1]:.2f})" if self.classes else ""


@dataclass(frozen=True)
class Facts:
    """Facts about a clip and the blocks that ran on it.

    Attributes:
        file: name of the file.
        labels: text of each frame of the clip, such as "frame 93, 3.10 s"; empty for "frame 0", "frame 1", ...
        size: height and width in pixels of the file, in which positions are stated, of the region that the clip shows;
            None for those of the clip.
        why: why the first query was chosen, a sentence; "" for the reason of `Page`.
        beside: name of the block that the page first shows beside the first one; "" shows the evidence of the first.
        blocks: facts about each block by name.
        origin: top and left pixel in the file of the region that the clip shows.
    """

    file: str = ""
    labels: Sequence[str] = ()
    size: tuple[int, int] | None = None
    why: str = ""
    beside: str = ""
    blocks: Mapping[str, BlockFacts] = field(default_factory=dict)
    origin: tuple[int, int] = (0, 0)

    def of(self, block: str) -> BlockFacts:
        """Facts about a block."""
        return self.blocks.get(block, BlockFacts())
