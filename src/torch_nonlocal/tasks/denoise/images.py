"""Clean images of the denoising task: photographs of scikit-image, or a folder. They are held in memory with 8 bits.

Shapes: C channels, H height, W width.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.optional import require
from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.media.stills import SUFFIXES, read_still
from torch_nonlocal.tasks.base import OnError
from torch_nonlocal.tasks.denoise.settings import LEVELS, DenoiseSettings

TRAINING_PHOTOGRAPHS = ("astronaut", "coffee", "rocket", "motorcycle_left", "coins", "brick", "grass", "gravel")
HELD_OUT_PHOTOGRAPHS = ("camera", "chelsea")
"""Photographs of scikit-image that choose the best weights and are tested on. None is in Set12 or BSD68."""
_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""
_FIFTH = 5


@dataclass(frozen=True)
class Images:
    """Images in memory.

    Attributes:
        pixels: (C, H, W) uint8 by name.
    """

    pixels: Mapping[str, Tensor]

    @property
    def names(self) -> Sequence[str]:
        """The names in their order."""
        return list(self.pixels)

    def digest(self, name: str) -> str:
        """A hash of the gray values of an image, whatever its file is called."""
        levels = _levels(gray(self.pixels[name].float().div(LEVELS)))
        return hashlib.sha256(repr(tuple(levels.shape)).encode() + levels.numpy().tobytes()).hexdigest()

    def fingerprint(self) -> dict[str, Any]:
        """The size and the hash of each image by its name."""
        return {name: [*one.shape, self.digest(name)] for name, one in self.pixels.items()}

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class Source:
    """Training images, validation images, and how they were found.

    Attributes:
        training: images that crops are taken from.
        validation: images that choose the best weights; there may be none.
        summary: one line with the numbers of images.
        left_out: one line for each image that is smaller than a crop.
    """

    training: Images
    validation: Images
    summary: str
    left_out: tuple[str, ...] = ()


def gray(image_CHW: Tensor) -> Tensor:
    """The luma of an image with one or three channels, (1, H, W)."""
    if len(image_CHW) == 1:
        return image_CHW
    return torch.einsum("c,chw->hw", image_CHW.new_tensor(_LUMA), image_CHW)[None]


def _levels(image_CHW: Tensor) -> Tensor:
    return image_CHW.mul(LEVELS).round().byte().contiguous()


def with_channels(image_CHW: Tensor, channels: int) -> Tensor:
    """An image with one or three channels."""
    return gray(image_CHW) if channels == 1 else image_CHW.expand(3, -1, -1)


def _read(path: Path, channels: int) -> Tensor:
    return _levels(with_channels(read_still(path).pixels, channels))


def photographs(names: Sequence[str], channels: int) -> Images:
    """Photographs of scikit-image by name. They are files of its package; nothing is downloaded.

    Raises:
        ImportError: scikit-image is not installed.
    """
    folder = Path(require("skimage.data", extra="denoise").__file__).parent
    files = {name: next(folder.glob(f"{name}.*g")) for name in names}
    return Images({name: _read(path, channels) for name, path in files.items()})


def find_images(folder: Path) -> list[Path]:
    """The image files of a folder and the folders inside, sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is a file, or has no images.
    """
    if not folder.exists():
        raise FileNotFoundError(f"no folder {folder}")
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of images")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise ValueError(f"{folder}: no images in this folder; expected names that end in {', '.join(SUFFIXES)}")
    return files


def read_images(
    folder: Path, files: Sequence[Path], channels: int, *, on_error: OnError, broken: BrokenClips
) -> Images:
    """Read images; those that cannot be read are reported to `broken`.

    Raises:
        BrokenVideoError: one cannot be read, with on_error="fail", or none can.
    """
    found = {}
    for path in files:
        try:
            found[str(path.relative_to(folder))] = _read(path, channels)
        except BrokenVideoError as error:
            if on_error == "fail":
                raise
            broken.add(path, error)
    if not found:
        first = broken.entries()[0]
        raise BrokenVideoError(f"none of the {counted(len(files), 'image')} can be read; the first: {first.reason}")
    return Images(found)


def source(data: Path | None, settings: DenoiseSettings, on_error: OnError, broken: BrokenClips) -> Source:
    """Find and read the images of a run.

    `settings.val` has the validation images. Without it, a folder with the folders train and val is split as they are,
    and of any other folder every fifth image in the order of the names is held out.

    Args:
        data: folder of images; None for photographs of scikit-image.
        settings: colors, size of a crop, folder of the validation images.
        on_error: "skip" or "fail" for images that cannot be read.
        broken: receives the images that cannot be read.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: there are no images, or none can be read or is as large as a crop.
        ImportError: a package is not installed; the message names the extra.
    """
    channels = settings.channels
    if data is None:
        if settings.val is not None:
            raise ValueError(f"val={settings.val!r}: photographs of scikit-image have validation images; expected data")
        training, held_out = (photographs(names, channels) for names in (TRAINING_PHOTOGRAPHS, HELD_OUT_PHOTOGRAPHS))
        names = f"{', '.join(training.names)}; held out: {', '.join(held_out.names)}"
        images = Source(training, held_out, f"photographs of scikit-image: {names}")
    else:
        images = _of_folder(data, settings, on_error, broken)
    kept, left_out = {}, []
    for name, one in images.training.pixels.items():
        if min(one.shape[1:]) >= settings.crop:
            kept[name] = one
        else:
            left_out.append(f"{name}: {one.shape[1]} x {one.shape[2]} pixels, smaller than a crop of {settings.crop}")
    if not kept:
        raise ValueError(f"no training image is as large as a crop: {listed(left_out, most=3)}; lower the crop")
    return Source(Images(kept), images.validation, images.summary, tuple(left_out))


def _of_folder(data: Path, settings: DenoiseSettings, on_error: OnError, broken: BrokenClips) -> Source:
    options: dict[str, Any] = {"on_error": on_error, "broken": broken}
    files = find_images(data)
    if settings.val is not None:
        of = Path(settings.val)
        held_out = read_images(of, find_images(of), settings.channels, **options)
        others = [path for path in files if not path.resolve().is_relative_to(of.resolve())]
        if not others:
            raise ValueError(f"{data}: all images are in val={settings.val}; expected others to train on")
        training = read_images(data, others, settings.channels, **options)
        how = f"in {of}"
    elif (data / "train").is_dir() and (data / "val").is_dir():
        training, held_out = (
            read_images(data, find_images(data / split), settings.channels, **options) for split in ("train", "val")
        )
        how = "as in the folders"
    else:
        every = read_images(data, files, settings.channels, **options)
        names = every.names
        chosen = set(names[_FIFTH // 2 :: _FIFTH])
        training = Images({name: one for name, one in every.pixels.items() if name not in chosen})
        held_out = Images({name: one for name, one in every.pixels.items() if name in chosen})
        how = "every fifth held out" if chosen else "too few to hold any out"
    numbers = f"{counted(len(training), 'training image')}, {counted(len(held_out), 'validation image')} ({how})"
    return Source(training, held_out, f"{data}: {numbers}")
