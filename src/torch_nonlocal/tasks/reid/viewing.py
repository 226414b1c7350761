"""A trained network of re-identification on a tracklet, for `nonlocal view`: its blocks, on the frames that it embeds.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from torch_nonlocal.attention import added_magnitudes, watch
from torch_nonlocal.data.tracklets.files import FileTracklets
from torch_nonlocal.data.tracklets.given import given_tracklet
from torch_nonlocal.insertion import blocks
from torch_nonlocal.media.sampling import uniform_clips
from torch_nonlocal.media.transforms import View
from torch_nonlocal.tasks.footage import Choice, Footage, ViewOf, evenly
from torch_nonlocal.tasks.reid.trained import TrackletEmbedder
from torch_nonlocal.tasks.viewing import Attended, runs_on
from torch_nonlocal.view.facts import BlockFacts


@dataclass(frozen=True)
class ViewedEmbedder:
    """A network of `nonlocal train reid` that is looked at; see `trained_viewing.Viewed`.

    Attributes:
        name: the file, as the user named it.
        model: the network.
    """

    name: str
    model: TrackletEmbedder

    @property
    def length(self) -> int:
        """Number of frames of a clip."""
        return self.model.settings.schedule.length

    @property
    def view_of(self) -> ViewOf:
        """What it sees of frames of a size: all of them, resized."""
        return lambda height, width: View(((0, 0, height, width),), self.model.settings.size, False)

    def frames(self, path: Path | None, *, frames: int, start: int, stride: int) -> Choice:
        """Choose the frames of one clip of the tracklet; other numbers than 0 overrule that."""
        if start or stride or frames:
            return evenly(frames or self.length, start=start, stride=stride)
        return lambda total: uniform_clips(total, *self.model.settings.schedule, 1)[0]

    def attend(self, footage: Footage, path: Path | None = None) -> Attended:
        """Run the network on the frames.

        Args:
            footage: the frames.
            path: their file; unused.

        Raises:
            BrokenVideoError: (a ValueError) the file cannot be read.
        """
        network, height, width = self.model.network, *self.model.settings.size
        clip_CTHW = self.read(footage)
        parameter = next(network.parameters())
        clip_BCTHW = self.model.inputs.normalize(clip_CTHW[None].to(parameter.device)).to(parameter.dtype)
        inserted = blocks(network)
        with (
            runs_on(network, clip_CTHW.permute(1, 2, 3, 0)),
            torch.no_grad(),
            watch(network) as seen,
            added_magnitudes(inserted) as added,
        ):
            network(clip_BCTHW)
        described = f"The network saw whole frames, resized to {width} \u00d7 {height} pixels."
        facts = {name: BlockFacts(self.name, added=added.get(name), seen=described) for name in seen}
        return Attended(dict(seen), facts)

    def read(self, footage: Footage) -> Tensor:
        """The frames as the network embeds them, each resized from its own size: (3, T, H, W) uint8."""
        size = self.model.settings.size
        source = FileTracklets([given_tracklet(path) for path in footage.sources], size)
        if len(footage.sources) == 1:
            return source.read(0, footage.numbers)
        return torch.cat([source.read(index, [0]) for index in range(len(footage.sources))], 1)
