"""A trained denoising network in use: `nl.load` returns it, `nonlocal denoise --checkpoint` runs it.

Shapes: B batch, C channels, T frames, H height, W width.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import evaluating
from torch_nonlocal._common.plain_values import settings_from, shown
from torch_nonlocal.media.stills import read_still
from torch_nonlocal.tasks.denoise.files import Strength, noise_of
from torch_nonlocal.tasks.denoise.network import FACTOR, trained_network, with_noise_map
from torch_nonlocal.tasks.denoise.settings import LEVELS, TILE, DenoiseSettings, check_tile
from torch_nonlocal.tasks.denoise.tiles import in_tiles
from torch_nonlocal.tasks.trained_files import read_trained_file, weights_path


class TrainedDenoiser(nn.Module):
    """A trained denoising network with its settings.

    As a module it is the network: noisy images with a noise map as the last channel, (B, C + 1, H, W) -> (B, C, H, W).

    Args:
        network: the network.
        settings: its settings.
    """

    task = "denoise"

    def __init__(self, network: nn.Module, settings: DenoiseSettings) -> None:
        super().__init__()
        self.network, self.settings = network, settings

    def forward(self, x: Tensor) -> Tensor:
        """Noisy images and noise map (B, C + 1, H, W) -> denoised images (B, C, H, W)."""
        return self.network(x)

    @property
    def overlap(self) -> int:
        """Pixels that neighboring tiles share: three times as far as the convolutions see."""
        return 3 * FACTOR * self.settings.depth

    def check_tile(self, tile: int) -> None:
        """Check the side length of tiles.

        Raises:
            ValueError: it is odd or less than twice the overlap.
        """
        check_tile(tile)
        if 0 < tile < 2 * self.overlap:
            raise ValueError(f"tile={tile}: expected at least {2 * self.overlap} pixels for this network, or 0")

    @torch.no_grad()
    def denoise(
        self, image: Tensor | str | os.PathLike[str], *, sigma: float | None = None, tile: int = TILE
    ) -> Tensor:
        """Denoise an image of any size.

        A gray network denoises the channels of a color image one by one; a color network treats a gray image as a
        color image.

        Args:
            image: an image file, or an image with values in [0, 1] or of uint8 in [0, 255]: (H, W), or (C, H, W) with
                one or three channels.
            sigma: standard deviation of the noise, for values in [0, 1], such as 25 / 255; None estimates it.
            tile: side length of the overlapping tiles that larger images are denoised in, in pixels, even; 0 for the
                whole image at once. A non-local block sees one tile.

        Returns:
            An image of the shape of the input, floating-point with values in [0, 1], on the device of the network.

        Raises:
            BrokenVideoError: (a ValueError) the file cannot be read.
            ValueError: another shape, values that are not finite, or sigma or the tile is out of range.
            TypeError: the dtype is neither floating-point nor uint8.
        """
        given = image if isinstance(image, Tensor) else read_still(image).pixels
        pixels_CHW = _checked(given)
        self.check_tile(tile)
        if sigma is None:
            sigma = noise_of(pixels_CHW)
        elif not 0 <= sigma <= 1:
            raise ValueError(f"sigma={sigma}: expected a number from 0 to 1 for values in [0, 1], such as 25 / 255")
        return self.denoised(pixels_CHW, sigma, tile).clamp(0, 1).reshape(given.shape)

    @torch.no_grad()
    def denoised(self, image_CHW: Tensor, sigma: float, tile: int = TILE) -> Tensor:
        """Denoise an image (C, H, W) without limiting the result to [0, 1]; see `denoise`."""
        parameter = next(self.network.parameters())
        images = image_CHW.to(parameter)
        channels = len(images)
        is_gray = self.settings.channels == 1
        planes = [plane[None] for plane in images] if is_gray else [images.expand(3, -1, -1)]

        def run(x: Tensor) -> Tensor:
            return self.network(with_noise_map(x, sigma))

        with evaluating(self.network):
            clean = torch.cat([in_tiles(run, plane, tile=tile, overlap=self.overlap) for plane in planes])
        return clean if len(clean) == channels else clean.mean(0, keepdim=True)


def _checked(image: Tensor) -> Tensor:
    """An image as floating-point (C, H, W)."""
    if image.dtype == torch.uint8:
        image = image.float().div(LEVELS)
    if not image.is_floating_point():
        raise TypeError(f"image: expected a floating-point tensor or uint8, got {image.dtype}")
    image_CHW = image[None] if image.ndim == 2 else image
    if image_CHW.ndim != 3 or len(image_CHW) not in (1, 3) or image_CHW.numel() == 0:
        raise ValueError(f"image: expected (H, W), (1, H, W) or (3, H, W), got {tuple(image.shape)}")
    if not bool(image_CHW.isfinite().all()):
        raise ValueError("image: expected finite values, got NaN or infinite ones")
    return image_CHW


class Trained(NamedTuple):
    """A trained network, and the content of its file."""

    model: TrainedDenoiser
    content: Mapping[str, Any]


def read_trained(weights: Path) -> Trained:
    """Read a trained network.

    Args:
        weights: checkpoints/best.pt of a run, or the folder of the run.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not hold weights of this task, or its settings and tensors do not fit. The message
            names what reads a file of another kind.
    """
    path = weights_path(weights)
    content = read_trained_file(path, "denoise")
    return Trained(denoiser_of(path, content), content)


def denoiser_of(path: Path, content: Mapping[str, Any]) -> TrainedDenoiser:
    """The trained network of a file, in eval mode, on the CPU.

    Raises:
        ValueError: its settings and tensors do not fit.
    """
    about = {name: value for name, value in content["about"].items() if name != "task"}
    try:
        settings = settings_from(DenoiseSettings, about)
        model = trained_network(settings, content["model"], "its tensors")
    except Exception as error:  # settings of a file can cause any error
        raise ValueError(f"{path}: {shown(error)}") from error
    return TrainedDenoiser(model, settings).eval()


@dataclass(frozen=True)
class NetworkDenoiser:
    """Options with which a network denoises files; see `files.ClipDenoiser`.

    Attributes:
        model: the network.
        sigma: standard deviation of the noise for pixels in [0, 1]; None estimates it for each file.
        tile: side length of tiles in pixels; 0 for whole images.
        frames: frames that are denoised together: one.
    """

    model: TrainedDenoiser
    sigma: float | None = None
    tile: int = TILE
    frames: int = 1

    def strength(self, clip_CTHW: Tensor) -> Strength:
        """The noise of the frames of a file."""
        sigma = noise_of(clip_CTHW) if self.sigma is None else self.sigma
        return Strength(sigma, sigma)

    def denoise(self, clip_CTHW: Tensor, strength: Strength) -> Tensor:
        """The denoised frames, on the CPU."""
        if strength.h == 0:
            return clip_CTHW
        frames = [self.model.denoised(frame_CHW, strength.sigma, self.tile) for frame_CHW in clip_CTHW.unbind(1)]
        return torch.stack(frames, 1).cpu()

    def words(self, strength: Strength) -> str:
        """What a file was denoised with."""
        if strength.h == 0:
            return "unchanged, no noise found"
        low, high = self.model.settings.sigma
        sigma = strength.sigma * LEVELS
        outside = f"; the network was trained for {low:g} to {high:g}" if not low <= sigma <= high else ""
        return f"noise {sigma:.1f} of {LEVELS} levels{outside}"
