"""A network and clips as small as possible for runs of action recognition."""

from pathlib import Path

import torch
from torch import nn

from torch_nonlocal.media import write_mp4
from torch_nonlocal.tasks.action import network
from torch_nonlocal.tasks.action import task as action
from torch_nonlocal.tasks.action.settings import ActionSettings
from torch_nonlocal.training import TrainConfig

SETTINGS = ActionSettings(frames="2x2", crop=16, non_local="none", flip=False)
CONFIG = TrainConfig(epochs=1, batch_size=2, lr=0.01, workers=0, attention_items=0)


def use_tiny_networks(patch):
    """Replace every network by the mean color of a clip and a linear layer."""
    patch.setattr(network, "_without_blocks", lambda settings, classes: Mean(classes))
    patch.setattr(action, "start_from", lambda model, settings, classes: "weights: tiny")


class Mean(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.last = nn.Linear(3, classes)

    def forward(self, clips):
        return self.last(clips.mean((2, 3, 4)))


def film(path: Path, seed: int, *, color: int = 0, frames: int = 6, rate: int = 25) -> Path:
    """A clip whose pixels depend on the seed, with one strong color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    still = torch.randint(0, 90, (4, 4, 3), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    clip = still.repeat_interleave(8, 0).repeat_interleave(8, 1).expand(frames, -1, -1, -1).clone()
    clip[..., color] += 150
    return write_mp4(path, clip, rate)


def film_classes(root: Path, clips: int = 6, *, seed: int = 0) -> Path:
    """A folder with two classes, blue and red."""
    for color, name in ((2, "blue"), (0, "red")):
        for number in range(clips):
            film(root / name / f"{number}.mp4", 100 * (seed + color) + number, color=color)
    return root


def train(data, folder, settings=SETTINGS, config=CONFIG, **options):
    """Train; returns the result and the lines of the log."""
    lines: list[str] = []
    return action.train(data, folder, settings, config, log=lines.append, **options), lines
