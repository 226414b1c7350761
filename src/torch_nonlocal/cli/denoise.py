"""`nonlocal denoise`: images, folders of images and videos, by non-local means or a trained network."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from torch_nonlocal._common.files import check_folder, check_new_file, printable
from torch_nonlocal._common.progress import ProgressBar
from torch_nonlocal._common.terminal import print_errors, print_lines
from torch_nonlocal._common.text import counted
from torch_nonlocal.cli import needs
from torch_nonlocal.cli.threads import use_free_cores
from torch_nonlocal.tasks.denoise.settings import LEVELS, TILE

if TYPE_CHECKING:
    from torch_nonlocal.tasks.denoise.files import Averaged, ClipDenoiser

_VIDEOS = (".mp4", ".gif")
_OF_MEANS = {"h": "auto", "patch": 5, "window": "21", "frames": 1, "show": ""}
"""Options of non-local means, which a trained network does not have, and their defaults."""

_SHOWN = 720  # pixels of the longer side of the picture of weights


def denoise(
    in_: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    *,
    sigma: str = "auto",
    h: str = "auto",
    patch: int = 5,
    window: str = "21",
    frames: int = 1,
    show: Annotated[str, tyro.conf.arg(metavar="Y,X")] = "",
    checkpoint: Path | None = None,
    tile: int = TILE,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    overwrite: bool = False,
) -> None:
    """Denoise an image, the images of a folder, or a video by non-local means, or by a trained network.

    Without --checkpoint, no training is needed: each pixel becomes a mean of the pixels around it, weighted by the
    similarity of the patches around them. Images keep their 8 or 16 bits, gray or color, and alpha. Videos are written
    without sound. Images of a folder that cannot be denoised are named and skipped; the exit code is 1 if there are
    any.

    Example: nonlocal denoise noisy.png clean.png

    Example: nonlocal denoise photos/ clean/ --sigma 25

    Example: nonlocal denoise film.mp4 clean.mp4 --frames 3

    Example: nonlocal denoise noisy.png clean.png --checkpoint runs/denoise/checkpoints/best.pt

    Args:
        in_: an image (.png, .tif, .jpg, .webp, .bmp, .ppm), a folder of images, or a video.
        out: the image to write; if IN is a folder, a folder, in which the images keep their names; if IN is a video, an
            .mp4 or .gif file.
        sigma: standard deviation of the noise in levels of 255, also for 16 bits; auto estimates it for each file.
        h: filter strength in levels of 255; larger values smooth more. auto is 0.7 times the noise.
        patch: side of a patch in pixels, odd. 5 suits photographs with noise up to 30 levels, 7 stronger noise.
        window: side of the window in pixels, odd, or global for the whole image: slower, and blurrier for photographs.
        frames: number of frames of a video that the window extends over, odd.
        show: also draw the weights with which this pixel of the image was averaged, to a PNG file beside OUT.
        checkpoint: denoise with this network: best.pt of nonlocal train denoise, or the folder of its run. --h,
            --patch, --window, --frames and --show do not apply to it.
        tile: side length in pixels, even, of the overlapping tiles in which the network denoises larger images; 0 for
            whole images.
        device: where to compute; auto selects cuda if a CUDA device is available.
        overwrite: replace files that exist.
    """
    needs.check("denoise", packages=["matplotlib"] if show else [], extras=["view"] if show else [])
    _check_options(checkpoint, {"h": h, "patch": patch, "window": window, "frames": frames, "show": show}, tile)
    options = {"sigma": _level("sigma", sigma, 0), "h": _level("h", h, 1e-6)}
    if options["sigma"] == 0 and options["h"] is None and checkpoint is None:
        raise ValueError("--sigma 0 --h auto: h is a multiple of the noise; expected a number for --h")
    for name, value in (("patch", patch), ("frames", frames)):
        _check_odd(name, value)
    from torch_nonlocal.media.stills import SUFFIXES

    is_folder = in_.is_dir()
    is_image = not is_folder and in_.suffix.lower() in SUFFIXES
    at = _pixel(show) if show else None
    if at is not None and not is_image:
        raise ValueError(f"--show {show}: expected one image, got {in_}")
    picture = out.with_name(f"{out.stem}-weights.png") if at is not None else None
    pairs = _pairs(in_, out, SUFFIXES) if is_folder else [(in_, out)]
    for _, target in pairs if not is_folder or out.is_dir() else []:
        check_new_file(target, "OUT", overwrite=overwrite)
    if picture is not None:
        check_new_file(picture, "--show", overwrite=overwrite)
    if not (is_image or is_folder) and out.suffix.lower() not in _VIDEOS:
        raise ValueError(f"OUT {out}: expected a name that ends in {' or '.join(_VIDEOS)} for the video {in_}")
    if is_image and out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"OUT {out}: expected a name that ends in {', '.join(SUFFIXES)}")
    use_free_cores(print_errors)
    used = _device(device)
    if checkpoint is None:
        denoiser = _means(options, patch, _window(window), frames, used)
    else:
        denoiser = _network(checkpoint, options["sigma"], tile, used)
    if is_folder:
        out.mkdir(parents=True, exist_ok=True)
    if is_image or is_folder:
        _images(pairs, denoiser, at, picture, may_skip=is_folder)
    else:
        _video(in_, out, denoiser)


def _check_options(checkpoint: Path | None, of_means: Mapping[str, str | int], tile: int) -> None:
    if checkpoint is None:
        if tile != TILE:
            raise ValueError(f"--tile {tile}: an option of trained networks; expected --checkpoint")
        return
    for name, value in of_means.items():
        if value != _OF_MEANS[name]:
            raise ValueError(
                f"--{name} {printable(str(value))}: an option of non-local means; expected no --checkpoint"
            )


def _device(device: str) -> str:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available; expected cpu or auto")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _means(
    options: dict[str, float | None], patch: int, window: int | None, frames: int, device: str
) -> "ClipDenoiser":
    from torch_nonlocal.tasks.denoise.files import Denoiser

    return Denoiser(**options, patch=patch, window=window, frames=frames, device=device)


def _network(checkpoint: Path, sigma: float | None, tile: int, device: str) -> "ClipDenoiser":
    from torch_nonlocal.tasks.denoise.trained import NetworkDenoiser, read_trained

    model = read_trained(checkpoint).model.to(device)
    model.check_tile(tile)
    return NetworkDenoiser(model, sigma, tile)


def _images(
    pairs: list[tuple[Path, Path]],
    denoiser: "ClipDenoiser",
    at: tuple[int, int] | None,
    picture: Path | None,
    *,
    may_skip: bool,
) -> None:
    from torch_nonlocal.media import BrokenVideoError
    from torch_nonlocal.tasks.denoise.files import denoise_image

    lines, broken = [], []
    with ProgressBar("denoise", len(pairs), unit="images") as bar:
        for source, target in pairs:
            try:
                strength, averaged = denoise_image(source, target, denoiser, at)
            except ValueError as error:
                if not may_skip:
                    raise
                broken.append(f"{error.kind}: {error}" if isinstance(error, BrokenVideoError) else f"{source}: {error}")
            else:
                lines.append(f"{target}: {denoiser.words(strength)}")
                if at is not None and averaged is not None and picture is not None:
                    _draw(averaged, at, picture)
                    lines.append(f"{picture}: the weights of pixel {at[0]},{at[1]}")
            bar.advance()
    for line in [*lines, *broken]:
        print_lines(line)
    if broken:
        print_lines(f"{len(broken)} of {counted(len(pairs), 'image')} skipped")
        sys.exit(1)


def _video(source: Path, target: Path, denoiser: "ClipDenoiser") -> None:
    from torch_nonlocal.tasks.denoise.files import denoise_video

    with ProgressBar("denoise", unit="frames") as bar:
        strength = denoise_video(source, target, denoiser, bar.update)
    print_lines(f"{target}: {denoiser.words(strength)}")


def _draw(averaged: "Averaged", at: tuple[int, int], picture: Path) -> None:
    """Draw the pixels with weights and some around them, enlarged."""
    from torch_nonlocal import view

    parts, ends = [], []
    for size, seen in zip(averaged.weights.shape, averaged.weights.nonzero().unbind(1), strict=True):
        first, last = int(seen.min()), int(seen.max())
        margin = (last - first + 1) // 2
        parts.append(slice(max(first - margin, 0), min(last + 1 + margin, size)))
        ends.append(f"{parts[-1].start} to {parts[-1].stop - 1}")
    shown_HWC, row_HW = averaged.image[:, *parts].permute(1, 2, 0).clamp(0, 1), averaged.weights[*parts]
    factor = max(_SHOWN // max(row_HW.shape), 1)
    enlarged = shown_HWC.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    query = [(one - part.start) * factor + factor // 2 for one, part in zip(at, parts, strict=True)]
    view.heatmap(
        enlarged,
        row_HW[None],
        query=query,
        title=f"what pixel {at[0]},{at[1]} was averaged from",
        caption=f"ring: y {at[0]}, x {at[1]}; shown: y {ends[0]}, x {ends[1]} of the image",
    ).save(picture)


def _pairs(folder: Path, out: Path, suffixes: tuple[str, ...]) -> list[tuple[Path, Path]]:
    """The images of a folder, and where they are written."""
    check_folder(out, "OUT")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    if not files:
        raise ValueError(f"IN {folder}: no images in this folder; expected names that end in {', '.join(suffixes)}")
    return [(path, out / path.name) for path in files]


def _level(name: str, text: str, least: float) -> float | None:
    """A number of levels for pixels in [0, 1]; None for auto."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        bound = "0 or more" if least == 0 else "above 0"
        raise ValueError(f"--{name} {printable(text)}: expected auto or a number, {bound}, in levels of {LEVELS}")
    return value / LEVELS


def _window(text: str) -> int | None:
    if text == "global":
        return None
    if not text.isdecimal():
        raise ValueError(f"--window {printable(text)}: expected an odd number of pixels, or global")
    _check_odd("window", int(text))
    return int(text)


def _check_odd(name: str, value: int) -> None:
    if value < 1 or value % 2 == 0:
        raise ValueError(f"--{name} {value}: expected an odd number, 1 or more")


def _pixel(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--show {printable(text)}: expected y,x in pixels, such as 120,200")
    return int(parts[0]), int(parts[1])
