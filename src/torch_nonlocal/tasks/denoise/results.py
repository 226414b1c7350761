"""What `nonlocal test denoise` writes: scores.json and scores.csv, with PSNR and SSIM of each image and noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from torch_nonlocal._common.files import check_folder, spreadsheet_text, write_json
from torch_nonlocal._common.seeds import mix_seed
from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.tasks.denoise.images import HELD_OUT_PHOTOGRAPHS, Images, find_images, photographs, read_images
from torch_nonlocal.tasks.denoise.quality import SSIM_WINDOW, psnr, ssim, with_noise
from torch_nonlocal.tasks.denoise.settings import LEVELS, DenoiseTestOptions
from torch_nonlocal.tasks.denoise.trained import Trained, TrainedDenoiser, read_trained
from torch_nonlocal.tasks.tables import write_csv
from torch_nonlocal.tasks.trained_files import saved_texts

_MEASURES = ("noisy_psnr", "psnr", "noisy_ssim", "ssim")


def run_test(
    weights: Path,
    data: Path | None,
    out: Path,
    options: DenoiseTestOptions,
    *,
    on_progress: Callable[[int, int], None] | None,
    log: Callable[[str], None],
) -> dict[str, float]:
    """Test trained weights and write the results to a folder; arguments as in `TaskSpec.test`.

    Returns:
        "psnr_25", "ssim_25" and so on: means over the images.

    Raises:
        FileNotFoundError: the weights or the folder of images do not exist.
        ValueError: the weights are of another task, there are no images to test on, or `out` is a file.
        ImportError: a package is not installed.
    """
    check_folder(out)
    trained, broken = read_trained(weights), BrokenClips()
    trained.model.check_tile(options.tile)
    images, notes = _images(trained, weights, data, options, broken)
    began = time.monotonic()
    rows = _rows(trained.model, images, options, on_progress)
    seconds = time.monotonic() - began
    means = {sigma: _means(rows, sigma) for sigma in options.sigma}
    seams = _seams(trained.model, images, options)
    out.mkdir(parents=True, exist_ok=True)
    scores = {
        "sigma": {f"{sigma:g}": one for sigma, one in means.items()},
        "images": rows,
        "seams": seams,
        "not_read": [entry._asdict() for entry in broken.entries()],
        "notes": notes,
        "weights": str(weights),
        "data": _name(data),
        "tile": options.tile,
        "seed": options.seed,
        "seconds": seconds,
    }
    write_json(out / "scores.json", scores, indent=1)
    write_csv(out / "scores.csv", {name: [_cell(row[name]) for row in rows] for name in rows[0]})
    log(f"{counted(len(images), 'image')} of {scores['data']}; means, PSNR in dB")
    for note in notes:
        log(note)
    log(f"{'sigma':<8}{'noisy PSNR':<12}{'PSNR':<9}{'noisy SSIM':<12}SSIM")
    for sigma, one in means.items():
        noisy, clean, noisy_ssim, clean_ssim = (one[name] for name in _MEASURES)
        log(f"{sigma:<8g}{noisy:<12.2f}{clean:<9.2f}{noisy_ssim:<12.4f}{clean_ssim:.4f}")
    if seams is not None:
        log(
            f"seams: tiles of {options.tile} pixels differ from the whole image {seams['image']} by "
            f"{seams['rms']:.3f} levels RMS, at most {seams['largest']:.2f}; PSNR {seams['psnr_tiles']:.3f} and "
            f"{seams['psnr_whole']:.3f}"
        )
    if scores["not_read"]:
        log(f"images that could not be read: {len(scores['not_read'])}, listed in scores.json")
    log(f"scores: {out}/, {seconds:.1f} s")
    return {f"{name}_{sigma:g}": one[name] for sigma, one in means.items() for name in ("psnr", "ssim")}


def _name(data: Path | None) -> str:
    return "photographs of scikit-image" if data is None else str(data)


def _images(
    trained: Trained, weights: Path, data: Path | None, options: DenoiseTestOptions, broken: BrokenClips
) -> tuple[Images, list[str]]:
    """The images to test on, and what to say about them."""
    channels = trained.model.settings.channels
    if data is None:
        images = photographs(HELD_OUT_PHOTOGRAPHS, channels)
    else:
        images = read_images(data, find_images(data), channels, on_error=options.on_error, broken=broken)
    known = {name: saved_texts(trained.content, name, weights) for name in ("trained_on", "chosen_on")}
    digests = {name: images.digest(name) for name in images.names}
    small = [name for name in images.names if min(images.pixels[name].shape[1:]) < SSIM_WINDOW]
    trained_on = [name for name in images.names if digests[name] in known["trained_on"]]
    left_out = {*small, *([] if options.whole else trained_on)}
    notes = []
    if small:
        notes.append(f"left out, smaller than {SSIM_WINDOW} x {SSIM_WINDOW} pixels: {listed(small)}")
    if trained_on:
        how = "tested though the weights were trained on them" if options.whole else "left out, since trained on"
        notes.append(f"{how}: {counted(len(trained_on), 'image')}: {listed(trained_on)}")
    kept = {name: one for name, one in images.pixels.items() if name not in left_out}
    if not kept:
        raise ValueError(f"{_name(data)}: no image to test on; {'; '.join(notes)}; expected other images, or --whole")
    chosen = [name for name in kept if digests[name] in known["chosen_on"]]
    if chosen:
        notes.append(f"of these, {counted(len(chosen), 'image')} chose the best weights: {listed(chosen)}")
    return Images(kept), notes


def _rows(
    model: TrainedDenoiser,
    images: Images,
    options: DenoiseTestOptions,
    on_progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    total = len(images) * len(options.sigma)
    for number, (name, pixels) in enumerate(images.pixels.items()):
        clean = pixels.float().div(LEVELS)
        for sigma in options.sigma:
            noisy = _noisy(clean, sigma, options.seed, number)
            found = model.denoised(noisy, sigma / LEVELS, options.tile).cpu().clamp(0, 1)
            values = (psnr(noisy, clean), psnr(found, clean), ssim(noisy, clean), ssim(found, clean))
            rows.append({"image": name, "sigma": sigma, **dict(zip(_MEASURES, values, strict=True))})
            if on_progress is not None:
                on_progress(len(rows), total)
    return rows


def _noisy(clean: Tensor, sigma: float, seed: int, number: int) -> Tensor:
    """The image of this number with noise; sigma in levels."""
    return with_noise(clean, sigma / LEVELS, mix_seed(seed, number, round(sigma * 1000)))


def _means(rows: list[dict[str, Any]], sigma: float) -> dict[str, float]:
    of = [row for row in rows if row["sigma"] == sigma]
    return {name: sum(row[name] for row in of) / len(of) for name in _MEASURES}


def _seams(model: TrainedDenoiser, images: Images, options: DenoiseTestOptions) -> Mapping[str, Any] | None:
    """How tiles differ from the whole image, on the first image that is larger than a tile; None if there is none."""
    larger = [name for name, one in images.pixels.items() if options.tile and max(one.shape[1:]) > options.tile]
    if not larger:
        return None
    clean = images.pixels[larger[0]].float().div(LEVELS)
    sigma = options.sigma[len(options.sigma) // 2]
    noisy = _noisy(clean, sigma, options.seed, images.names.index(larger[0]))
    tiles, whole = (model.denoised(noisy, sigma / LEVELS, tile).cpu().clamp(0, 1) for tile in (options.tile, 0))
    difference = (tiles - whole).abs() * LEVELS
    return {
        "image": larger[0],
        "sigma": sigma,
        "rms": float(difference.square().mean().sqrt()),
        "largest": float(difference.max()),
        "psnr_tiles": psnr(tiles, clean),
        "psnr_whole": psnr(whole, clean),
    }


def _cell(value: Any) -> Any:
    return spreadsheet_text(value) if isinstance(value, str) else round(value, 6)
