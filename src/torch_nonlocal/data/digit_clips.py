"""Moving digits as a dataset with the items of the video datasets.

As in the video datasets, clips are uint8, and the random draws of an item depend only on the seed, the epoch and the
item's index. Unlike a video, an item is a new clip in every epoch, so the data never repeat.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from torch_nonlocal.data.clip_list import Clip, ClipList
from torch_nonlocal.data.dataset import item_generator
from torch_nonlocal.data.moving_digits import RELATIONS, MovingDigits
from torch_nonlocal.media import write_mp4

_ROOT = Path("moving-digits")
_EXAMPLE_FPS = 8  # one clip of 8 frames lasts a second


class DigitClips(Dataset[tuple[Tensor, int, int]]):
    """Moving digits by index: (clip, label, index), the clip (channels, T, H, W) uint8.

    Args:
        source: generator of the clips.
        length: clips per epoch, at least 1.
        channels: 1 for gray clips; 3 repeats the gray values for networks that take RGB.
        seed: seed of the random draws.

    Raises:
        ValueError: `length` is below 1, or `channels` is neither 1 nor 3.
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

    def fingerprint(self) -> dict[str, Any]:
        """The parameters that determine the clips."""
        source = self.source
        field = {"frames": source.frames, "size": source.size, "speeds": source.speeds}
        digits = {"split": source.split, "digit images": len(source.digits)}
        return {**digits, **field, "clips": self.length, "channels": self.channels, "seed": self.seed}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the random draws."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """A clip, its label (an index into `RELATIONS`) and its index."""
        if not 0 <= index < self.length:
            raise IndexError(f"index: got {index}, expected 0 <= index < {self.length}")
        drawn = self.source.batch(1, item_generator(self.seed, self.epoch, index))
        clip_1THW = (drawn.clips[0] * 255).round().to(torch.uint8)
        return clip_1THW.expand(self.channels, -1, -1, -1).contiguous(), int(drawn.labels[0]), index

    def clip_list(self) -> ClipList:
        """The clips of the current epoch as a list of names such as "test/17" and labels; the files do not exist."""
        folder = _ROOT / self.source.split
        clips = tuple(Clip(folder / str(index), self[index][1]) for index in range(self.length))
        return ClipList(_ROOT, RELATIONS, clips)


def write_examples(folder: str | Path = ".") -> list[Path]:
    """Write two videos of digits that were not trained on: clip.mp4, one motion, and film.mp4, four, a second each.

    Raises:
        ValueError: the folder does not exist.
        ImportError: scikit-learn or PyAV is not installed.
    """
    digits = DigitClips(MovingDigits("test"), 4, channels=3)
    clips_THWC = [digits[number][0].permute(1, 2, 3, 0) for number in range(4)]
    return [
        write_mp4(Path(folder, "clip.mp4"), clips_THWC[0], _EXAMPLE_FPS),
        write_mp4(Path(folder, "film.mp4"), torch.cat(clips_THWC), _EXAMPLE_FPS),
    ]
