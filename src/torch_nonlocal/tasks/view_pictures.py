"""The pictures that `nonlocal view` writes: arrows, heatmaps, the evidence for the predicted class, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torch_nonlocal import view as drawing
from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.tasks.footage import Footage
from torch_nonlocal.view.facts import BlockFacts
from torch_nonlocal.view.look import Look, look
from torch_nonlocal.view.placement import axis_centers, placed
from torch_nonlocal.view.verdict import Verdict


@dataclass(frozen=True)
class Scene:
    """A block on some footage.

    Attributes:
        footage: the frames.
        record: record of the block.
        facts: what is known about the block.
        judged: what its statistics mean.
        why: why the query was chosen, a sentence.
        other: name and record of the block to compare with, if any.
        smooth: interpolate weights between the centers of the cells.
    """

    footage: Footage
    record: BlockRecord
    facts: BlockFacts
    judged: Verdict
    why: str
    other: tuple[str, BlockRecord] | None = None
    smooth: bool = False

    @property
    def clip(self) -> np.ndarray:
        """The frames, (T, H, W, 3) uint8."""
        return self.footage.clip.numpy()

    def look(self, point: Sequence[float], k: int) -> Look:
        """The weights of the cell at a point, and its strongest links."""
        return look(self.record, point, self.clip, k=k, smooth=self.smooth)

    def head(self, what: str, name: str) -> str:
        """Lines above a picture: what it shows, what was predicted, what the network saw, and how good the block is."""
        facts = self.facts
        lines = [f"{self.footage.file}: {what} {name}"]
        if facts.classes:
            (label, score), *following = facts.classes[:3]
            rest = ", ".join(f"{other} {100 * value:.1f} %" for other, value in following)
            predicted = f"Predicted class: {label} {100 * score:.1f} %{f' (then {rest})' if rest else ''}."
            lines.append(f"{predicted} {facts.scored}".strip())
        lines.append(f"{'Caution, ' if self.judged.is_warning else ''}{name}: {self.judged.text}.")
        if facts.network:
            lines.append(f"Network: {facts.network}. {facts.seen}".strip())
        return "\n".join(lines)

    def foot(self, query: Sequence[float]) -> str:
        """Lines below a picture: the query, why it was chosen, and what the term of the verdict means."""
        lines = [f"Ring: the query, {self.footage.describe(query)}. {self.why}", self.judged.meaning]
        return "\n".join(line for line in lines if line)


def save_pictures(scene: Scene, name: str, seen: Look, stem: Path, *, film: bool) -> list[Path]:
    """Save the pictures of one query.

    Args:
        scene: the block and the frames.
        name: name of the block.
        seen: the query's weights.
        stem: path of the files without "-heatmap.png".
        film: also write the heatmap as a video.

    Returns:
        The paths.
    """
    clip, labels = scene.clip, scene.footage.labels
    common = {"labels": labels, "caption": scene.foot(seen.query)}
    heat = drawing.heatmap(
        clip, seen.weights, query=seen.query, vmax=seen.brightest, title=scene.head("attention of", name), **common
    )
    saved = [heat.save(stem.with_name(f"{stem.name}-heatmap.png"))]
    if seen.links:
        title = scene.head("strongest links of", name)
        frames = heat.frames if len({link.target_pixel[0] for link in seen.links}) > 1 else None
        arrows = drawing.arrows(
            clip, seen.links, k=len(seen.links), frames=frames if len(clip) <= 8 else None, title=title,
            **common,
        )  # fmt: skip
        saved.append(arrows.save(stem.with_name(f"{stem.name}-arrows.png")))
    if scene.other:
        other_name, record = scene.other
        other = look(record, seen.query, clip, k=1, smooth=scene.smooth)
        looks: Mapping[str, Look] = {name: seen, other_name: other}
        rows = {key: one.weights for key, one in looks.items()}
        vmax = {key: one.brightest for key, one in looks.items()}
        picture = drawing.compare(
            clip,
            rows,
            query=seen.query,
            vmax=vmax,
            title=f"{scene.footage.file}: the same query in two blocks",
            **common,
        )
        saved.append(picture.save(stem.with_name(f"{stem.name}-compare.png")))
    if film:
        path = stem.with_name(f"{stem.name}.mp4")
        saved.append(
            drawing.video(path, clip, seen.weights, query=seen.query, fps=4, vmax=seen.brightest, labels=labels)
        )
    return saved


def save_evidence(scene: Scene, name: str, path: Path, query: Sequence[float]) -> Path:
    """Save what contributes to the predicted class at the output of the block, with the query's ring.

    Args:
        scene: a block with evidence.
        name: name of the block.
        path: the file.
        query: the query, in pixels of the clip.
    """
    clip = scene.clip
    grid = scene.record.geometry.grid
    evidence_THW = np.asarray(scene.facts.evidence).reshape((1,) * (3 - len(grid)) + grid)
    centers, _ = axis_centers(scene.record.geometry, clip.shape)
    values = placed(evidence_THW, centers, clip.shape, smooth=scene.smooth)
    label = scene.facts.classes[0][0]
    picture = drawing.heatmap(
        clip, values, query=query, vmax=float(np.abs(values).max()) or None, labels=scene.footage.labels,
        title=scene.head(f"contribution to {label} (gradient \u00d7 activation) at the output of", name),
        caption=f"Red raises the score (logit) of {label}, blue lowers it.\n{scene.foot(query)}", quantity="logit",
    )  # fmt: skip
    return picture.save(path)
