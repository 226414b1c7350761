"""Moving digits as clips of a data set: training and testing take them as they take videos.

Like a video's, a clip's pixels are uint8, and what is drawn for an item depends on the seed, the epoch and the item's
index alone. Unlike a video, an item is another clip in every epoch: the data never repeat.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from torch_nonlocal.data.clip_list import Clip, ClipList
from torch_nonlocal.data.dataset import item_generator
from torch_nonlocal.data.moving_digits import RELATIONS, MovingDigits

_ROOT = Path("moving-digits")


class DigitClips(Dataset[tuple[Tensor, int, int]]):
    """Moving digits by index: (clip, label, index), the clip (channels, T, H, W) uint8.

    Args:
        source: draws the clips.
        length: clips of an epoch, at least 1.
        channels: 1 for grey, 3 for networks that take colours: all alike.
        seed: another seed draws other clips.

    Raises:
        ValueError: if length is below 1 or channels is neither 1 nor 3.
    """

    def __init__(self, source: MovingDigits, length: int, *, channels: int = 1, seed: int = 0) -> None:
        if length < 1:
            raise ValueError(f"length: got {length}, expected at least 1 clip")
        if channels not in (1, 3):
            raise ValueError(f"channels: got {channels}, expected 1 or 3")
        self.source, self.length, self.channels, self.seed = source, length, channels, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Draw other clips from now on."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """A clip, its label (an index into `RELATIONS`) and its own index."""
        if not 0 <= index < self.length:
            raise IndexError(f"index: got {index}, expected 0 <= index < {self.length}")
        drawn = self.source.batch(1, item_generator(self.seed, self.epoch, index))
        clip_1THW = (drawn.clips[0] * 255).round().to(torch.uint8)
        return clip_1THW.expand(self.channels, -1, -1, -1).contiguous(), int(drawn.labels[0]), index

    def clip_list(self) -> ClipList:
        """The clips of the present epoch as a list: names such as "test/17" and labels; there are no files."""
        folder = _ROOT / self.source.split
        clips = tuple(Clip(folder / str(index), self[index][1]) for index in range(self.length))
        return ClipList(_ROOT, RELATIONS, clips)
