"""Live attention: what a position of the newest frame of a running video attends to.

Shapes: T frames that a block keeps, H height, W width.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal._common.capture import clip_features
from torch_nonlocal._common.files import replacing
from torch_nonlocal._common.optional import is_installed, require
from torch_nonlocal.insertion import blocks, load_blocks
from torch_nonlocal.layers import NonLocal3d
from torch_nonlocal.media import write_mp4
from torch_nonlocal.models.build import PACKAGED, build
from torch_nonlocal.models.inputs import inputs_of
from torch_nonlocal.streaming import stream
from torch_nonlocal.tasks.viewing import PACKAGED_AT, runs_on
from torch_nonlocal.view.live import live_picture
from torch_nonlocal.view.look import look

_PICTURE_SECONDS = 0.5  # between two versions of latest.png


@dataclass(frozen=True)
class Followed:
    """What `follow` wrote.

    Attributes:
        film: the video of the pictures.
        latest: the last picture.
        frames: number of frames.
        block: the block that is shown.
    """

    film: Path
    latest: Path
    frames: int
    block: str


class SimilarFeatures(nn.Module):
    """A 2D network on every frame, and a block without parameters: the similarity of its features, causal over frames.

    Args:
        network: a 2D network in eval mode.
        at: the module whose features are compared.
        window: number of frames that a position attends to.
        temperature: softmax temperature; smaller is sharper.
    """

    def __init__(self, network: nn.Module, at: str, *, window: int, temperature: float) -> None:
        super().__init__()
        self.network, self.at = network, at
        self.inputs = inputs_of(network)
        channels = self._features(torch.zeros(1, 3, *(self.inputs.size or (224, 224)))).shape[1]
        options: dict[str, Any] = {"pairwise": "gaussian", "scale": 1 / temperature, "inner_channels": 1, "norm": None}
        self.similarity = NonLocal3d(channels, causal="frames", window_frames=window, **options).eval()

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return the features that are compared, (1, C, T, H', W')."""
        return self.similarity(self._features(clip_BCTHW[0].transpose(0, 1)))

    @torch.no_grad()
    def _features(self, frames_TCHW: Tensor) -> Tensor:
        """The normalized features, (1, C, T, H', W')."""
        return F.normalize(clip_features(self.network, self.at, frames_TCHW), dim=1)


def live_network(
    model: str, *, checkpoint: Path | None, at: str, temperature: float, window: int, pretrained: bool
) -> nn.Module:
    """Build a network for `follow`.

    Args:
        model: a name that `models.build.build` takes.
        checkpoint: a file of `nl.save_blocks` with causal blocks; None for a block without parameters.
        at: the module whose features the block without parameters compares; "" takes the default of "packaged".
        temperature: of that block.
        window: frames that it attends to.
        pretrained: load pretrained weights of torchvision or timm.

    Raises:
        ValueError: an option is missing or wrong, or the file has no causal block.
    """
    network = build(model, pretrained=pretrained).eval()
    if checkpoint is not None:
        load_blocks(network, checkpoint)
        if not any(block.causal for block in blocks(network).values()):
            raise ValueError(f"{checkpoint}: its blocks attend to all frames; expected blocks with causal='frames'")
        return network
    at = at or (PACKAGED_AT if model == PACKAGED else "")
    if not at:
        raise ValueError(f"--at is required without a checkpoint: the module of {model} whose features are compared")
    if window < 1:
        raise ValueError(f"--window {window}: expected at least 1 frame")
    return SimilarFeatures(network, at, window=window, temperature=temperature)


def follow(
    network: nn.Module,
    frames: Iterable[Tensor],
    out: Path,
    *,
    fps: float,
    point: tuple[str, str] = ("50%", "50%"),
    block: str = "",
    k: int = 20,
    window: bool = True,
) -> Followed:
    """Write the links of one position of the newest frame, frame by frame: live.mp4 and, while it runs, latest.png.

    Args:
        network: a network of `live_network`, or another one that `nl.stream` takes.
        frames: (H, W, 3) RGB uint8, one after another.
        out: an existing folder.
        fps: frames per second of the video that is written.
        point: y and x of the position, in pixels or as "50%".
        block: the causal block that is shown; "" for the first one.
        k: number of links.
        window: show the pictures in a window, where OpenCV and a display are available; Q or Escape ends.

    Raises:
        ValueError: no frames, a wrong point or block, or a network that mixes frames.
    """
    latest = out / "latest.png"
    screen = _Screen(latest, window=window)
    pictures = _Pictures(network, point, block, k)

    def drawn() -> Iterator[np.ndarray]:
        for picture_HWC in pictures.draw(frames):
            yield picture_HWC
            if not screen.show(picture_HWC):
                return

    try:
        film = write_mp4(out / "live.mp4", drawn(), fps)
    finally:
        screen.close()
    return Followed(film, latest, pictures.count, pictures.name)


class _Pictures:
    """Draws one picture a frame."""

    def __init__(self, network: nn.Module, point: tuple[str, str], block: str, k: int) -> None:
        self._network, self._point, self.name, self._k = network, point, block, k
        self.count = 0

    def draw(self, frames: Iterable[Tensor]) -> Iterator[np.ndarray]:
        inputs = inputs_of(self._network)
        kept: deque[Tensor] = deque()
        with stream(self._network, watch=True) as step:
            for frame_HWC in frames:
                clip_THWC = frame_HWC[None]
                with runs_on(self._network, clip_THWC):
                    step(inputs.normalize(clip_THWC.permute(0, 3, 1, 2)).transpose(0, 1)[None])
                record = self._record(step.seen)
                kept.append(frame_HWC)
                while len(kept) > record.geometry.grid[0]:
                    kept.popleft()
                yield self._picture(record, torch.stack(list(kept)).numpy())
                self.count += 1

    def _picture(self, record: Any, clip_THWC: np.ndarray) -> np.ndarray:
        y, x = (
            _pixel(text, name, size)
            for text, name, size in zip(self._point, ("y", "x"), clip_THWC.shape[1:3], strict=True)
        )
        looked = look(record, (len(clip_THWC) - 1, y, x), clip_THWC, k=self._k)
        return live_picture(clip_THWC, looked, title=self.name, label=f"frame {self.count}")

    def _record(self, seen: dict[str, Any]) -> Any:
        self.name = self.name or next(iter(seen), "")
        if self.name not in seen:
            raise ValueError(f"--block {self.name}: expected one of {', '.join(seen) or 'no causal block'}")
        return seen[self.name]


class _Screen:
    """Shows pictures in a file and, where there is a display, in a window."""

    def __init__(self, latest: Path, *, window: bool) -> None:
        self._latest, self._written = latest, -1.0
        self._last: np.ndarray | None = None
        self._cv2 = require("cv2") if window and _has_display() and is_installed("cv2") else None

    def show(self, picture_HWC: np.ndarray) -> bool:
        """Show a picture; False if the user has ended it in the window."""
        self._last = picture_HWC
        if time.monotonic() - self._written >= _PICTURE_SECONDS:
            self._write()
        if self._cv2 is None:
            return True
        self._cv2.imshow("nonlocal view", picture_HWC[..., ::-1])
        return self._cv2.waitKey(1) & 0xFF not in (ord("q"), 27)

    def close(self) -> None:
        """Write the last picture and close the window."""
        if self._last is not None:
            self._write()
        if self._cv2 is not None:
            self._cv2.destroyAllWindows()

    def _write(self) -> None:
        image = require("PIL.Image")
        with replacing(self._latest) as temporary:
            image.fromarray(self._last).save(temporary)
        self._written = time.monotonic()


def _has_display() -> bool:
    """Whether there is a display; without one, OpenCV's windows end the process on Linux."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _pixel(text: str, name: str, size: int) -> float:
    try:
        value = float(text[:-1]) / 100 * (size - 1) if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(f"--point: {name} is {text!r}, expected pixels or a percentage, such as 50%") from None
    if not -0.5 <= value <= size - 0.5:
        raise ValueError(f"--point: {name} is {text}, expected 0 to {size - 1}")
    return value
