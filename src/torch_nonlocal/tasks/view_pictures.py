"""The pictures that `nonlocal view` writes: arrows, heatmaps, the evidence for the predicted class, and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torch_nonlocal import view as drawing
from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.tasks.footage import Footage
from torch_nonlocal.tasks.viewing import Attended
from torch_nonlocal.view.colors import has_signs
from torch_nonlocal.view.facts import BlockFacts
from torch_nonlocal.view.look import Look, look
from torch_nonlocal.view.placement import axis_centers, placed
from torch_nonlocal.view.verdict import Verdict, judge


@dataclass(frozen=True)
class Block:
    """A block that is drawn.

    Attributes:
        name: its name.
        record: its record.
        facts: what is known about it.
        judged: what its statistics mean.
    """

    name: str
    record: BlockRecord
    facts: BlockFacts
    judged: Verdict

    @staticmethod
    def of(name: str, attended: Attended) -> Block:
        """A block of those that ran on a clip."""
        record, facts = attended.records[name], attended.facts[name]
        judged = judge(record.statistics(), added=facts.added, untrained=facts.untrained)
        return Block(name, record, facts, judged)

    def lines(self) -> list[str]:
        """What was predicted, how good the block is, and what its network saw, each in a line."""
        facts, lines = self.facts, []
        if facts.classes:
            (label, score), *following = facts.classes[:3]
            rest = ", ".join(f"{other} {value:.1%}" for other, value in following)
            predicted = f"Predicted class: {label} {score:.1%}{f' (then {rest})' if rest else ''}."
            lines.append(f"{predicted} {facts.scored}".strip())
        lines.append(f"{'Caution, ' if self.judged.is_warning else ''}{self.name}: {self.judged.text}.")
        if facts.network:
            lines.append(f"Network: {facts.network}. {facts.seen}".strip())
        return lines


@dataclass(frozen=True)
class Scene:
    """A block on some footage.

    Attributes:
        footage: the frames.
        block: the block.
        why: why the query was chosen, a sentence.
        other: the block to compare with, if any.
        smooth: interpolate weights between the centers of the cells.
    """

    footage: Footage
    block: Block
    why: str
    other: Block | None = None
    smooth: bool = False

    @property
    def clip(self) -> np.ndarray:
        """The frames, (T, H, W, 3) uint8."""
        return self.footage.clip.numpy()

    def look(self, point: Sequence[float], k: int) -> Look:
        """The weights of the cell at a point, and its strongest links."""
        return look(self.block.record, point, self.clip, k=k, smooth=self.smooth)

    def head(self, what: str) -> str:
        """Lines above a picture: what it shows, and `Block.lines`."""
        return "\n".join([f"{self.footage.file}: {what} {self.block.name}", *self.block.lines()])

    def foot(self, query: Sequence[float]) -> str:
        """Lines below a picture: the query, why it was chosen, and what the terms of the verdicts mean."""
        blocks = [self.block, self.other] if self.other else [self.block]
        meanings = dict.fromkeys(one.judged.meaning for one in blocks)
        place = f"{self.footage.describe(query)} (in pixels of the file, from 0 at its top left)"
        lines = [f"Ring: the query, {place}. {self.why}", *meanings]
        return "\n".join(line for line in lines if line)

    @property
    def ends(self) -> str:
        """Where arrows end if the keys are coarser than the queries, a sentence; "" if they are not."""
        geometry = self.block.record.geometry
        if geometry.key_grid == geometry.grid:
            return ""
        keys, queries = (" \u00d7 ".join(map(str, grid)) for grid in (geometry.key_grid, geometry.grid))
        return f"Arrows end at the centers of the keys' cells, which are coarser ({keys} keys, {queries} queries)."


def save_pictures(scene: Scene, seen: Look, stem: Path, *, film: bool) -> list[Path]:
    """Save the pictures of one query.

    Args:
        scene: the block and the frames.
        seen: the query's weights.
        stem: path of the files without "-heatmap.png".
        film: also write the heatmap as a video.

    Returns:
        The paths.
    """
    clip, labels = scene.clip, scene.footage.labels
    foot = scene.foot(seen.query)
    if not seen.links:
        groups, grid = scene.block.record.groups, scene.block.record.geometry.grid
        where = "in other frames" if len(grid) == 3 and grid[0] > 1 and groups.spans_time else "on other positions"
        foot += f"\nPractically no weight {where}: each is at most 1% of a uniform one."
    common = {"labels": labels, "caption": foot}
    heat = drawing.heatmap(
        clip, seen.weights, query=seen.query, vmax=seen.brightest, title=scene.head("attention of"), **common
    )
    saved = [heat.save(stem.with_name(f"{stem.name}-heatmap.png"))]
    if not seen.links:
        stem.with_name(f"{stem.name}-arrows.png").unlink(missing_ok=True)  # of an earlier run
    else:
        title = scene.head("strongest links of")
        frames = heat.frames if len({link.target_pixel[0] for link in seen.links}) > 1 else None
        arrows = drawing.arrows(
            clip, seen.links, k=len(seen.links), frames=frames if len(clip) <= 8 else None, title=title,
            labels=labels, caption="\n".join(filter(None, (foot, scene.ends))), vmax=seen.brightest,
            signed=has_signs(seen.row),
        )  # fmt: skip
        saved.append(arrows.save(stem.with_name(f"{stem.name}-arrows.png")))
    if scene.other:
        other = look(scene.other.record, seen.query, clip, k=1, smooth=scene.smooth)
        looks = {scene.block.name: seen, scene.other.name: other}
        title = [f"{scene.footage.file}: the same query in two blocks", f"{scene.block.name}:"]
        title += [*scene.block.lines(), f"{scene.other.name}:", *scene.other.lines()]
        picture = drawing.compare(
            clip,
            {name: one.weights for name, one in looks.items()},
            query=seen.query,
            vmax={name: one.brightest for name, one in looks.items()},
            title="\n".join(title),
            **common,
        )
        saved.append(picture.save(stem.with_name(f"{stem.name}-compare.png")))
    if film:
        path = stem.with_name(f"{stem.name}.mp4")
        saved.append(
            drawing.video(path, clip, seen.weights, query=seen.query, fps=4, vmax=seen.brightest, labels=labels)
        )
    return saved


def save_evidence(scene: Scene, path: Path, query: Sequence[float]) -> Path:
    """Save what contributes to the predicted class at the output of the block, with the query's ring.

    Args:
        scene: a block with evidence.
        path: the file.
        query: the query, in pixels of the clip.
    """
    clip = scene.clip
    grid = scene.block.record.geometry.grid
    evidence_THW = np.asarray(scene.block.facts.evidence).reshape((1,) * (3 - len(grid)) + grid)
    centers, _ = axis_centers(scene.block.record.geometry, clip.shape)
    values = placed(evidence_THW, centers, clip.shape, smooth=scene.smooth)
    label = scene.block.facts.classes[0][0]
    picture = drawing.heatmap(
        clip, values, query=query, vmax=float(np.abs(values).max()) or None, labels=scene.footage.labels,
        title=scene.head(f"contribution to {label} (gradient \u00d7 activation) at the output of"),
        caption=f"{scene.block.facts.contribution}\n{scene.foot(query)}", quantity="logit",
    )  # fmt: skip
    return picture.save(path)
