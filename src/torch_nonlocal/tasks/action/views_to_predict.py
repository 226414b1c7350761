"""The views of clips to predict: those of `nonlocal test`, from files, folders of frames, or frames in memory.

Networks for moving digits see whole frames, as in training; a network of one channel sees gray values of RGB clips.
Shapes: T frames, H height, W width, V crops.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from torch_nonlocal._common.text import counted
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.clip_list import Clip, ClipList, OnError
from torch_nonlocal.data.dataset import ViewDataset, check_frames
from torch_nonlocal.data.moving_digits import RELATIONS
from torch_nonlocal.media.sampling import uniform_clips
from torch_nonlocal.media.transforms import EvalTransform, View
from torch_nonlocal.models.inputs import Inputs
from torch_nonlocal.tasks.action.clip_span import repeat_rule
from torch_nonlocal.tasks.action.settings import ActionSettings

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class WholeFrame:
    """Transform that resizes whole frames to a square, for moving digits."""

    crop: int

    def view(self, height: int, width: int) -> View:
        """The crop of frames of a size, in pixels: all of it."""
        return View(((0, 0, height, width),), (self.crop, self.crop), False)


@dataclass(frozen=True)
class ViewOptions:
    """How clips are read for a trained network.

    Attributes:
        settings: settings of the network.
        classes: class names of the network.
        views: clips per video, evenly spaced.
        crops: 1, 3, or "full".
    """

    settings: ActionSettings
    classes: tuple[str, ...]
    views: int = 10
    crops: Any = 3

    @property
    def transform(self) -> EvalTransform | WholeFrame:
        """Crops of frames; moving digits are not cropped."""
        if self.classes == RELATIONS:
            return WholeFrame(self.settings.crop)
        return EvalTransform(crop=self.settings.crop, crops=self.crops)

    def note(self, total: int) -> str:
        """What to know about a prediction from so many frames: whether frames repeat; "" if not."""
        schedule, fps = self.settings.schedule, self.settings.fps
        if total >= schedule.length:
            return ""
        rate = "" if fps is None else f" at {fps:g} fps"
        return f"{counted(total, 'frame')}{rate}, the network takes {schedule.length}: {repeat_rule(schedule)}"


class FileViews(ViewDataset):
    """Views of files and folders of frames. The label of a view is the number of frames it was taken from.

    Args:
        paths: the clips, at least one.
        options: how they are read.
        on_error: "skip", or "fail" to raise for a broken clip.
        broken: report of broken clips.
    """

    def __init__(self, paths: Sequence[Path], options: ViewOptions, on_error: OnError, broken: BrokenClips) -> None:
        clips = ClipList(Path(), options.classes, tuple(Clip(path, 0) for path in paths))
        sample, transform = options.settings.schedule, options.transform
        reading: dict[str, Any] = {"on_error": on_error, "broken": broken, "fps": options.settings.fps}
        super().__init__(clips, sample, transform, views=options.views, **reading)  # pyright: ignore[reportArgumentType]
        self._frames: dict[int, int] = {}

    def _label(self, video: int) -> int:
        return self._frames[video]

    def _read(
        self, video: int, choose: Callable[[int], Sequence[int]], view_of: Callable[[int, int], View]
    ) -> Tensor | None:
        def chosen(total: int) -> Sequence[int]:
            self._frames[video] = total
            return choose(total)

        return super()._read(video, chosen, view_of)


class FrameViews(Dataset[Any]):
    """Views of clips in memory.

    Args:
        clips: each (T, H, W, 3) RGB uint8, or gray (T, H, W) or (T, H, W, 1), at the frame rate of the training.
        options: how they are read.

    Raises:
        ValueError: a clip of another shape or dtype, or a single frame.
    """

    def __init__(self, clips: Sequence[Tensor], options: ViewOptions) -> None:
        self._clips = [_rgb(clip) for clip in clips]
        self._options = options
        for clip in self._clips:
            check_frames(len(clip), "the clip")

    def __len__(self) -> int:
        return len(self._clips) * self._options.views

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Crops of a clip (V, 3, T, H, W) uint8, the number of frames it was taken from, and the index of the clip."""
        number, view = divmod(index, self._options.views)
        clip_THWC = self._clips[number]
        sample = self._options.settings.schedule
        chosen = uniform_clips(len(clip_THWC), *sample, self._options.views)[view]
        cuts = self._options.transform.view(*clip_THWC.shape[1:3])
        return cuts.finish(torch.stack([cuts.cut(frame) for frame in clip_THWC[chosen]])), len(clip_THWC), number


def preparation(inputs: Inputs, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The function that makes a network's input of a batch of views (B, 3, T, H, W), uint8."""

    def prepare(views: Tensor) -> Tensor:
        if inputs.channels == 1:
            luma = torch.tensor(_LUMA, device=views.device).view(1, 3, 1, 1, 1)
            views = (views * luma).sum(1, keepdim=True).round().to(torch.uint8)
        return inputs.normalize(views).to(dtype)

    return prepare


def _rgb(clip: Tensor) -> Tensor:
    gray = clip[..., None] if clip.ndim == 3 else clip
    if gray.ndim != 4 or gray.shape[3] not in (1, 3) or clip.dtype != torch.uint8:
        got = f"{tuple(clip.shape)} {str(clip.dtype).removeprefix('torch.')}"
        raise ValueError(f"clip: got {got}, expected frames (T, H, W, 3) RGB or (T, H, W) gray, uint8 in [0, 255]")
    return gray.expand(-1, -1, -1, 3)
