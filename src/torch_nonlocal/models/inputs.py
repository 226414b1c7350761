"""What a network takes: mean, standard deviation, size and frames, and the normalization that follows from them.

Every network of `models.build.build` and `create_model` carries its `Inputs` as the plain attribute `inputs`, which
`inputs_of` reads. An attribute, unlike a registry beside the networks, follows a network through `copy.deepcopy`,
`pickle`, `nl.insert` and `nl.inflate`; being neither a tensor nor a module, it leaves `state_dict`, `torch.export` and
`torch.compile` unaffected. No other file normalizes pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

_log = logging.getLogger("torch_nonlocal")
_COLOR_ORDERS = {1: "gray", 3: "RGB"}


@dataclass(frozen=True)
class Inputs:
    """Description of a network's inputs.

    Attributes:
        mean: mean of each channel, for values in [0, 1]; three channels are R, G and B.
        std: standard deviation of each channel, for values in [0, 1], more than 0.
        size: (height, width) in pixels that the weights were trained at; None if unknown or arbitrary.
        frames: frames per clip that the weights were trained at; None for images or if unknown.

    Raises:
        ValueError: `mean` and `std` differ in length or are empty, a `std` is not positive, or a size is below 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(
                f"mean, std: got {self.mean} and {self.std}, expected one number per channel each, std more than 0"
            )
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size: got {self.size}, expected (height, width) of at least 1 pixel, or None")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"frames: got {self.frames}, expected at least 1, or None")

    @property
    def channels(self) -> int:
        """Number of channels, C."""
        return len(self.mean)

    @property
    def color_order(self) -> str | None:
        """Order of the channels: "RGB" for three, "gray" for one, else None."""
        return _COLOR_ORDERS.get(self.channels)

    def normalize(self, batch: Tensor) -> Tensor:
        """(values in [0, 1] - mean) / std, per channel, on the batch's device.

        Clips travel from a data loader to the device as uint8, a quarter of the bytes, and are normalized there.

        Args:
            batch: clips (B, C, T, H, W) or images (B, C, H, W), uint8 in [0, 255] or floating point in [0, 1]. It is
                not changed.

        Returns:
            The same shape; float32 for uint8, else the batch's dtype. With mean 0 and std 1, the values in [0, 1].

        Raises:
            ValueError: another number of dimensions or channels, or another dtype.
        """
        if batch.ndim not in (4, 5) or batch.shape[1] != self.channels:
            c = self.channels
            raise ValueError(
                f"batch: got {tuple(batch.shape)}, expected clips (B, {c}, T, H, W) or images (B, {c}, H, W)"
            )
        if batch.dtype != torch.uint8 and not batch.is_floating_point():
            raise ValueError(f"batch: got {batch.dtype}, expected torch.uint8 in [0, 255] or floating point in [0, 1]")
        white = 255 if batch.dtype == torch.uint8 else 1
        values = batch.float() if batch.dtype == torch.uint8 else batch.clone()
        if not any(self.mean) and set(self.std) == {1.0}:
            return values.div_(white)
        shape = (-1, *[1] * (batch.ndim - 2))
        mean, std = (
            torch.tensor(one, dtype=values.dtype, device=batch.device).view(shape) for one in (self.mean, self.std)
        )
        return values.mul_(1 / (white * std)).sub_(mean / std)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {**plain, "channels": self.channels, "color_order": self.color_order}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Inputs:
        """The description that `to_dict` wrote.

        Args:
            values: "mean" and "std" are required; "size", "frames", "channels" and "color_order" are optional.

        Raises:
            ValueError: a missing or unknown key, a value of another type, or another number or order of channels.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in ("mean", "std") if name not in values]
        unknown = [str(key) for key in values if key not in (*names, "channels", "color_order")]
        if missing or unknown:
            expected = "expected mean, std and optionally size, frames, channels, color_order"
            raise ValueError(f"input description: got keys {', '.join(map(str, values))}; {expected}")
        try:
            size, frames = values.get("size"), values.get("frames")
            inputs = cls(
                mean=tuple(float(value) for value in values["mean"]),
                std=tuple(float(value) for value in values["std"]),
                size=None if size is None else (int(size[0]), int(size[1])),
                frames=None if frames is None else int(frames),
            )
        except (TypeError, IndexError) as error:
            raise ValueError(f"input description: got {dict(values)}, expected lists of numbers") from error
        if values.get("channels", inputs.channels) != inputs.channels:
            raise ValueError(f"channels: got {values['channels']}, but mean has {inputs.channels} values")
        if values.get("color_order", inputs.color_order) != inputs.color_order:
            raise ValueError(f"color_order: got {values['color_order']!r}, expected {inputs.color_order!r}")
        return inputs


IMAGENET = Inputs(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""ImageNet's statistics in RGB, which torchvision's and timm's ImageNet weights and our own recipes use."""

CAFFE2 = Inputs(mean=(0.45,) * 3, std=(0.225,) * 3)
"""Inputs of video-nonlocal-net: 114.75 and 57.375 of 255."""

EFFICIENTNET_LITE0 = Inputs(mean=(0.498,) * 3, std=(0.502,) * 3, size=(224, 224))
"""Inputs of the packaged EfficientNet-Lite0 weights."""

GRAY = Inputs(mean=(0.0,), std=(1.0,))
"""One channel with values in [0, 1], such as moving digits."""

RGB = Inputs(mean=(0.0,) * 3, std=(1.0,) * 3)
"""Three channels with values in [0, 1], for networks that normalize by themselves."""


def inputs_of(model: nn.Module) -> Inputs:
    """The input description of a network.

    Args:
        model: its attribute `inputs` is an `Inputs` or a mapping that `Inputs.from_dict` takes. For a network without
            one, ImageNet's mean and std are assumed and a warning is logged.

    Raises:
        ValueError: the attribute is a mapping that does not describe inputs.
    """
    given = getattr(model, "inputs", None)
    if isinstance(given, Inputs):
        return given
    if isinstance(given, Mapping):
        return Inputs.from_dict(given)
    _log.warning(
        "%s has no attribute `inputs`: ImageNet's mean %s and std %s are assumed",
        type(model).__name__,
        IMAGENET.mean,
        IMAGENET.std,
    )
    return IMAGENET
