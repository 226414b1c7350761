"""Denoise files of images and videos, by non-local means or another denoiser.

Shapes: C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from torch_nonlocal import functional
from torch_nonlocal.media import probe, write_gif, write_mp4
from torch_nonlocal.media.live import file_frames
from torch_nonlocal.media.stills import check_still, read_still, write_still
from torch_nonlocal.tasks.denoise.settings import LEVELS

STRENGTH = 0.7
"""h as a multiple of the noise; the best one on average for patches of 5 x 5 on Set12 with noise of 10 to 50 of 255."""
LEAST_NOISE = 1e-5
"""Less than one level of 16 bits; estimates below are rounding errors."""
_NOISE_FRAMES = 8
_LEAST_FRAMES = 8
"""Frames of a video that are denoised at a time, where the window extends over frames."""


class Strength(NamedTuple):
    """What a file was denoised with, in the unit of pixels in [0, 1]. With h = 0 it is unchanged."""

    sigma: float
    h: float


class ClipDenoiser(Protocol):
    """What denoises the frames of files: non-local means, or a trained network."""

    @property
    def frames(self) -> int:
        """Frames of a video that a denoised frame depends on, odd."""
        ...

    def strength(self, clip_CTHW: Tensor) -> Strength:
        """The noise and the filter strength for frames of a file."""
        ...

    def denoise(self, clip_CTHW: Tensor, strength: Strength) -> Tensor:
        """The denoised frames, on the CPU."""
        ...

    def words(self, strength: Strength) -> str:
        """What a file was denoised with, as text."""
        ...


@dataclass(frozen=True)
class Denoiser:
    """Options of non-local means.

    Attributes:
        sigma: the standard deviation of the noise for pixels in [0, 1]; None estimates it for each file.
        h: filter strength; None for `STRENGTH` times the noise.
        patch: side of a patch in pixels.
        window: side of the window in pixels; None for the whole image.
        frames: frames of a video that the window extends over, odd.
        device: where to compute.
    """

    sigma: float | None = None
    h: float | None = None
    patch: int = 5
    window: int | None = 21
    frames: int = 1
    device: str = "cpu"

    def strength(self, clip_CTHW: Tensor) -> Strength:
        """The noise and the filter strength for frames of a file."""
        sigma = noise_of(clip_CTHW) if self.sigma is None else self.sigma
        return Strength(sigma, STRENGTH * sigma if self.h is None else self.h)

    def denoise(self, clip_CTHW: Tensor, strength: Strength) -> Tensor:
        """The denoised frames, on the CPU."""
        if strength.h == 0:
            return clip_CTHW
        window = None if self.window is None else (self.frames, self.window, self.window)
        y = functional.non_local_means(
            clip_CTHW[None].to(self.device),
            patch=(1, self.patch, self.patch),
            window=window,
            h=strength.h,
            sigma=strength.sigma,
        )
        return y[0].cpu()

    def weights(self, image_CHW: Tensor, at: tuple[int, int], strength: Strength) -> Tensor:
        """The weights with which a pixel of an image was averaged, (H, W)."""
        return functional.non_local_means_weights(
            image_CHW, at, patch=self.patch, window=self.window, h=strength.h or LEAST_NOISE, sigma=strength.sigma
        )

    def words(self, strength: Strength) -> str:
        """What a file was denoised with."""
        if strength.h == 0:
            return "unchanged, no noise found"
        return f"noise {strength.sigma * LEVELS:.1f}, h {strength.h * LEVELS:.1f} of {LEVELS} levels"


def noise_of(image: Tensor) -> float:
    """The estimated noise of an image (C, H, W) or a clip (C, T, H, W); 0 if it is less than a rounding error."""
    sigma = float(functional.estimate_noise(image[None]).square().mean().sqrt())
    return sigma if sigma > LEAST_NOISE else 0.0


class Averaged(NamedTuple):
    """What one pixel was averaged from: the noisy image, (C, H, W), and the weights of its pixels, (H, W)."""

    image: Tensor
    weights: Tensor


def denoise_image(
    source: Path, target: Path, denoiser: ClipDenoiser, at: tuple[int, int] | None = None
) -> tuple[Strength, Averaged | None]:
    """Denoise an image file. Alpha, bits and metadata are kept.

    Args:
        source: an image.
        target: the image to write.
        denoiser: the options.
        at: the pixel (y, x) whose weights are returned, of non-local means.

    Raises:
        ValueError: the image cannot be read, is smaller than half a patch, `target` cannot hold its values, or
            the pixel is outside. No file is written.
    """
    still = read_still(source)
    check_still(target, still)
    strength = denoiser.strength(still.pixels.unsqueeze(1))
    averaged = None
    if at is not None and isinstance(denoiser, Denoiser):
        averaged = Averaged(still.pixels, denoiser.weights(still.pixels, at, strength))
    clean_CTHW = denoiser.denoise(still.pixels.unsqueeze(1), strength)
    write_still(target, still._replace(pixels=clean_CTHW[:, 0]))
    return strength, averaged


def denoise_video(
    source: Path,
    target: Path,
    denoiser: ClipDenoiser,
    on_frame: Callable[[int, int], object] = lambda done, total: None,
) -> Strength:
    """Denoise a video in the memory of a few frames. The noise is that of the first frames. Sound is not kept.

    Args:
        source: a video.
        target: the MP4 or GIF to write.
        denoiser: the options.
        on_frame: called with the number of frames done and of all.

    Raises:
        ValueError: the video cannot be read, or `target` cannot be written.
    """
    about = probe(source)
    stream = file_frames(source)
    first = list(islice(stream, _NOISE_FRAMES))
    strength = denoiser.strength(_to_clip(torch.stack(first)))

    def frames() -> Iterator[Tensor]:
        for number, frame_HWC in enumerate(denoise_frames(chain(first, stream), denoiser, strength), 1):
            yield frame_HWC
            on_frame(number, about.frames)

    (write_gif if target.suffix.lower() == ".gif" else write_mp4)(target, frames(), about.fps)
    return strength


def denoise_frames(frames: Iterable[Tensor], denoiser: ClipDenoiser, strength: Strength) -> Iterator[Tensor]:
    """Denoise the frames of a video one after another, each with the frames around it that its window contains.

    Args:
        frames: (H, W, 3) uint8.
        denoiser: the options.
        strength: the noise and the filter strength.

    Yields:
        (H, W, 3) uint8.
    """
    reach = denoiser.frames // 2
    stream, chunk = iter(frames), 1 if reach == 0 else max(_LEAST_FRAMES, 2 * reach)
    held: list[Tensor] = list(islice(stream, chunk + reach))  # frames before, of this chunk, and after it
    before = 0
    while before < len(held):
        count = min(chunk, len(held) - before)
        clean_CTHW = denoiser.denoise(_to_clip(torch.stack(held)), strength)
        clean_THWC = clean_CTHW[:, before : before + count].clamp(0, 1).mul(LEVELS).round().byte().permute(1, 2, 3, 0)
        yield from clean_THWC
        start = max(0, before + count - reach)
        before += count - start
        held = held[start:] + list(islice(stream, chunk))


def _to_clip(frames_THWC: Tensor) -> Tensor:
    return frames_THWC.permute(3, 0, 1, 2).float().div(LEVELS)
