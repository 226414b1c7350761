"""The pictures that `nonlocal view` writes: arrows, heatmaps, the evidence for the predicted class, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torch_nonlocal import view as drawing
from torch_nonlocal._common.text import counted
from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.tasks.footage import Footage
from torch_nonlocal.view.facts import BlockFacts
from torch_nonlocal.view.look import Look, look
from torch_nonlocal.view.placement import axis_centers, placed


@dataclass(frozen=True)
class Scene:
    """A block on some footage.

    Attributes:
        footage: the frames.
        record: record of the block.
        facts: what is known about the block.
        other: name and record of the block to compare with, if any.
        smooth: interpolate weights between the centers of the cells.
    """

    footage: Footage
    record: BlockRecord
    facts: BlockFacts
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
        """Lines above a picture: what it shows, and what was predicted."""
        lines = [f"{self.footage.file}: {what} of {name}"]
        if self.facts.network:
            lines.append(f"network {self.facts.network}")
        if self.facts.classes:
            scores = ", ".join(f"{label} {score:.2f}" for label, score in self.facts.classes[:3])
            lines.append(f"predicted class: {self.facts.prediction} (scores: {scores})")
        if self.facts.untrained:
            lines.append(f"caution: {self.facts.untrained}")
        return "\n".join(lines)


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
    query = f"query: {scene.footage.describe(seen.query)} (ring)"
    common = {"labels": labels, "caption": query}
    heat = drawing.heatmap(
        clip, seen.weights, query=seen.query, vmax=seen.brightest, title=scene.head("attention", name), **common
    )
    saved = [heat.save(stem.with_name(f"{stem.name}-heatmap.png"))]
    if seen.links:
        title = scene.head("strongest links", name)
        caption = f"{counted(len(seen.links), 'strongest link')} from {scene.footage.describe(seen.query)} (ring)"
        frames = heat.frames if len({link.target_pixel[0] for link in seen.links}) > 1 else None
        arrows = drawing.arrows(
            clip, seen.links, k=len(seen.links), frames=frames if len(clip) <= 8 else None, title=title,
            labels=labels, caption=caption,
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
        title=scene.head(f"evidence for {label} (gradient \u00d7 activation at the output)", name),
        caption=f"ring: {scene.footage.describe(query)}", quantity="evidence",
    )  # fmt: skip
    return picture.save(path)
