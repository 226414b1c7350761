"""Non-local means on a folder of gray images with Gaussian noise, against scikit-image.

    python benchmarks/denoise.py Set12
    python benchmarks/denoise.py Set12 --every-pixel 65536
    python benchmarks/denoise.py BSD68 --without slow

The noise is that of numpy's default_rng(0) for each image, not clipped. Denoised images are clipped to [0, 1]. PSNR and
SSIM are averages over the images; seconds are medians of the CPU time for one image.

With --every-pixel N, images of up to N pixels are also averaged over the whole image, and only these images count.

BM3D is left out: the terms of the package `bm3d` allow non-commercial use only.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from skimage.restoration import denoise_nl_means

from torch_nonlocal import functional

Method = Callable[[np.ndarray, float], np.ndarray]
SUFFIXES = (".bmp", ".pgm", ".png", ".tif", ".tiff")


def ours(patch: int, window: int | None, h: float, *, clamp: bool = True) -> Method:
    """Our non-local means; `h` is a multiple of sigma."""

    def denoised(image_HW: np.ndarray, sigma: float) -> np.ndarray:
        image = torch.from_numpy(image_HW)[None, None]
        options = {"patch": patch, "window": window, "h": h * sigma, "sigma": sigma if clamp else 0.0}
        return functional.non_local_means(image, **options)[0, 0].numpy()

    return denoised


def theirs(patch: int, reach: int, h: float, *, fast: bool) -> Method:
    """scikit-image's non-local means; `h` is a multiple of sigma."""

    def denoised(image_HW: np.ndarray, sigma: float) -> np.ndarray:
        return denoise_nl_means(image_HW, patch, reach, h=h * sigma, sigma=sigma, fast_mode=fast)

    return denoised


METHODS: dict[str, Method] = {
    "noisy": lambda image_HW, sigma: image_HW,
    "scikit-image fast, patch 7, window 21, h 0.6": theirs(7, 10, 0.6, fast=True),
    "ours, patch 7, window 21, h 0.65": ours(7, 21, 0.65),
    "scikit-image fast, patch 5, window 21, h 0.6": theirs(5, 10, 0.6, fast=True),
    "scikit-image fast, patch 5, window 13, h 0.6 (its example)": theirs(5, 6, 0.6, fast=True),
    "scikit-image slow, patch 5, window 13, h 0.8 (its example)": theirs(5, 6, 0.8, fast=False),
    "scikit-image slow, patch 5, window 21, h 0.8": theirs(5, 10, 0.8, fast=False),
    "ours, patch 5, window 13, h 0.7": ours(5, 13, 0.7),
    "ours, patch 5, window 21, h 0.7 (the command)": ours(5, 21, 0.7),
}
EVERY_PIXEL: dict[str, Method] = {
    "ours, patch 5, global, h 0.45": ours(5, None, 0.45),
    "ours, patch 7, global, h 0.45": ours(7, None, 0.45),
}


def read(path: Path) -> np.ndarray:
    """A gray image, float32 in [0, 1]."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), dtype=np.float32) / 255


def scores(method: Method, images: list[np.ndarray], sigma: float) -> tuple[float, float, float]:
    """Average PSNR and SSIM, and the median CPU seconds for an image."""
    psnr, ssim, seconds = [], [], []
    method(images[0][:32, :32].copy(), sigma)
    for image in images:
        noise = np.random.default_rng(0).normal(0, sigma, image.shape)
        noisy = (image + noise).astype(np.float32)
        start = time.process_time()
        clean = method(noisy, sigma)
        seconds.append(time.process_time() - start)
        clean = np.clip(clean, 0, 1)
        psnr.append(-10 * np.log10(np.square(clean - image, dtype=np.float64).mean()))
        ssim.append(structural_similarity(clean, image, data_range=1.0))
    return float(np.mean(psnr)), float(np.mean(ssim)), statistics.median(seconds)


def main() -> None:
    """Print one table: a row for each method, and columns for each noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sigma", type=float, nargs="+", default=[15, 25, 50], help="noise in levels of 255")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every-pixel", type=int, default=0, metavar="N")
    parser.add_argument("--without", nargs="+", default=[], metavar="WORD", help="leave out methods with these words")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = [read(path) for path in sorted(options.folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    methods = METHODS
    if options.every_pixel:
        images, methods = [image for image in images if image.size <= options.every_pixel], METHODS | EVERY_PIXEL
    if not images:
        parser.error(f"{options.folder}: no images with a suffix of {', '.join(SUFFIXES)}")
    print(f"{len(images)} images, {options.threads} threads, torch {torch.__version__}\n")
    print("| method | " + " | ".join(f"sigma {sigma:g}: PSNR, SSIM, seconds" for sigma in options.sigma) + " |")
    print("|---" * (1 + len(options.sigma)) + "|")
    for name, method in methods.items():
        if any(word in name for word in options.without):
            continue
        cells = [scores(method, images, sigma / 255) for sigma in options.sigma]
        print(f"| {name} | " + " | ".join(f"{p:.2f}, {s:.3f}, {t:.2f}" for p, s, t in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
