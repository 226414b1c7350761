"""Denoising as a task of the registry. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_nonlocal.tasks.base import OnError, Recipe, TaskSpec
from torch_nonlocal.tasks.denoise.recipes import DEFAULT, RECIPES
from torch_nonlocal.tasks.denoise.settings import DenoiseSettings, DenoiseTestOptions

if TYPE_CHECKING:
    from torch_nonlocal.training import Result, TrainConfig


class DenoiseSpec(TaskSpec[DenoiseSettings]):
    """Denoising: train on a folder of images, or on photographs of scikit-image, and test."""

    name = "denoise"
    summary = "Denoising of images."
    details = (
        "--data is a folder of clean images, also in folders inside it; Gaussian noise is added to random crops. If "
        "it has no folders train and val, every fifth image is held out for validation. The images are held in "
        "memory. Without --data, photographs of scikit-image are the data. nonlocal denoise --checkpoint uses the "
        "trained network."
    )
    settings = DenoiseSettings
    test_options = DenoiseTestOptions
    requires = ("accelerate", "av", "numpy", "PIL", "skimage")
    extra = "denoise"

    def recipes(self) -> Mapping[str, Recipe[DenoiseSettings]]:
        """Settings with and without a block, gray and color; see docs/denoise.md."""
        return RECIPES

    def default_recipe(self, data: Path | None) -> tuple[str, Recipe[DenoiseSettings]]:
        """The small gray network with a block."""
        return DEFAULT, RECIPES[DEFAULT]

    def train(
        self,
        data: Path | None,
        run_dir: Path,
        settings: DenoiseSettings,
        config: TrainConfig,
        *,
        on_error: OnError = "skip",
        log: Callable[[str], None] | None = None,
    ) -> Result:
        """See `tasks.denoise.task.train`."""
        from torch_nonlocal.tasks.denoise.task import train

        return train(data, run_dir, settings, config, on_error=on_error, log=log)

    def check_data(
        self,
        data: Path | None,
        settings: DenoiseSettings,
        *,
        on_error: OnError = "skip",
        log: Callable[[str], None] = print,
    ) -> None:
        """See `tasks.denoise.task.check_data`; photographs of scikit-image are not opened."""
        if data is not None:
            from torch_nonlocal.tasks.denoise.task import check_data

            check_data(data, settings, on_error=on_error, log=log)

    def test(
        self,
        checkpoint: Path,
        data: Path | None,
        out: Path,
        options: DenoiseTestOptions,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        log: Callable[[str], None] = print,
    ) -> Mapping[str, Any]:
        """See `tasks.denoise.results.run_test`."""
        from torch_nonlocal.tasks.denoise.results import run_test

        return run_test(checkpoint, data, out, options, on_progress=on_progress, log=log)


DENOISE = DenoiseSpec()
