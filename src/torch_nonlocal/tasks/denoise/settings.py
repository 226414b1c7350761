"""Settings of the denoising task and options of its test: plain values. Importing this module does not import torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch_nonlocal.tasks.base import OnError

TILE = 128
"""Side length of tiles in pixels, unless another one is given. The time of a block grows with the pixels of a tile."""
NonLocal = Literal["none", "one"]
Colors = Literal["gray", "color"]
LEVELS = 255
_MOST_CROP, _MOST_WIDTH, _MOST_DEPTH = 1024, 512, 64

PLACES = ("val",)
"""Fields that tell where the images are. They are not saved with the weights."""


@dataclass(frozen=True)
class DenoiseSettings:
    """Model and data options. They are saved with the weights, without those that tell where the images are.

    Attributes:
        sigma: range of the standard deviation of the noise, in levels of 255. One network is trained for the whole
            range: the noise of each crop is drawn from it, and given to the network.
        crop: side length of training crops, in pixels, even.
        width: channels of the network.
        depth: convolutions of the network, even.
        non_local: one inserts a non-local block in the middle of the network; none inserts 1 x 1 convolutions with the
            same number of parameters in its place.
        colors: gray trains on gray images, and denoises color channels one by one; color trains on RGB images.
        val: folder of the validation images, if they are not in the folder val of the data.
    """

    sigma: tuple[float, float] = (5.0, 55.0)
    crop: int = 64
    width: int = 48
    depth: int = 8
    non_local: NonLocal = "one"
    colors: Colors = "gray"
    val: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a value is out of range.
        """
        object.__setattr__(self, "sigma", tuple(self.sigma))  # a file holds a list
        low, high = self.sigma if len(self.sigma) == 2 else (0.0, 0.0)
        if not 0 <= low <= high or not 0 < high <= LEVELS:
            given = " ".join(f"{one:g}" for one in self.sigma)
            raise ValueError(f"sigma={given}: expected the lowest and the highest noise in levels of {LEVELS}: 5 55")
        for name, least, most in (("crop", 8, _MOST_CROP), ("width", 2, _MOST_WIDTH), ("depth", 4, _MOST_DEPTH)):
            value = getattr(self, name)
            if not least <= value <= most or value % 2:
                raise ValueError(f"{name}={value}: expected an even number from {least} to {most:,}")
        for name, kind in (("non_local", NonLocal), ("colors", Colors)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {' or '.join(get_args(kind))}")

    @property
    def channels(self) -> int:
        """Channels of an image: 1 or 3."""
        return 1 if self.colors == "gray" else 3


@dataclass(frozen=True)
class DenoiseTestOptions:
    """Noise is added to the images, and the denoised images are compared with them.

    Attributes:
        sigma: standard deviations of the noise, in levels of 255.
        seed: seed of the noise.
        tile: side length of the tiles that large images are denoised in, in pixels; 0 for whole images.
        whole: also test on images that the weights were trained on.
        on_error: skip images that cannot be read (scores.json lists them), or fail.
    """

    sigma: tuple[float, ...] = (15.0, 25.0, 50.0)
    seed: int = 0
    tile: int = TILE
    whole: bool = False
    on_error: OnError = "skip"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a value is out of range.
        """
        if not self.sigma or not all(0 < one <= LEVELS for one in self.sigma):
            given = " ".join(f"{one:g}" for one in self.sigma)
            raise ValueError(f"--sigma {given}: expected numbers above 0 and at most {LEVELS}, such as 15 25 50")
        check_tile(self.tile)


def check_tile(tile: int) -> None:
    """Check the side length of tiles.

    Raises:
        ValueError: it is neither 0 nor an even number.
    """
    if tile < 0 or tile % 2:
        raise ValueError(f"tile={tile}: expected an even number of pixels, or 0 for whole images")
