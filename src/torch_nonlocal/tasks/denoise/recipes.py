"""Recipes of the denoising task. This module does not import torch."""

from dataclasses import replace

from torch_nonlocal.tasks.base import Recipe
from torch_nonlocal.tasks.denoise.settings import DenoiseSettings
from torch_nonlocal.training.config import TrainConfig

DenoiseRecipe = Recipe[DenoiseSettings]
DEFAULT = "denoise"

_SMALL = TrainConfig(
    steps=2000,
    batch_size=16,
    optimizer="adamw",
    lr=2e-3,
    weight_decay=0.0,
    schedule="one-cycle",
    clip_grad=1.0,
    eval_every=200,
    workers=0,  # a crop takes less time than sending it between processes
)
_SOURCE = "two cores: 48 channels, 8 convolutions, crops of 64 x 64, noise of 5 to 55"

RECIPES: dict[str, DenoiseRecipe] = {
    DEFAULT: Recipe(DenoiseSettings(), _SMALL, _SOURCE),
    "denoise-plain": Recipe(DenoiseSettings(non_local="none"), _SMALL, _SOURCE),
    "denoise-color": Recipe(DenoiseSettings(colors="color"), _SMALL, _SOURCE),
    "denoise-gpu": Recipe(
        DenoiseSettings(width=64, depth=12, crop=96),
        replace(_SMALL, steps=40_000, batch_size=32, lr=1e-3, eval_every=2000, workers=8),
        "one GPU: 64 channels, 12 convolutions, crops of 96 x 96; no measured results",
    ),
}
