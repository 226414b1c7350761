"""Re-identification as a task of the registry. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_nonlocal.tasks.base import OnError, Recipe, TaskSpec, named_file
from torch_nonlocal.tasks.reid.recipes import BUILT_IN, LARGE, RECIPES, SMALL
from torch_nonlocal.tasks.reid.settings import AUTO, ReidSettings, ReidTestOptions

if TYPE_CHECKING:
    from torch_nonlocal.training import Result, TrainConfig


class ReidSpec(TaskSpec[ReidSettings]):
    """Re-identification: train on tracklets of people or animals, and rank a gallery."""

    name = "reid"
    summary = "Re-identification of people or animals in video."
    details = (
        "--data is a folder in the layout of MARS, iLIDS-VID, PRID2011, LS-VID, Market-1501 or another set of "
        "docs/tracklets.md, or a table of tracklets. Without --data, generated persons made of handwritten digits are "
        "the data. Re-identification can be used to follow people without their consent: see docs/reid.md before you "
        "use it."
    )
    settings = ReidSettings
    test_options = ReidTestOptions
    requires = ("accelerate", "av", "numpy", "PIL", "pytorch_metric_learning", "sklearn", "timm", "torchvision")
    extra = "reid"
    tests_seeds = True

    def recipes(self) -> Mapping[str, Recipe[ReidSettings]]:
        """Settings with and without blocks, for the built-in data, CPUs and GPUs; see docs/reid.md."""
        return RECIPES

    def default_recipe(self, data: Path | None) -> tuple[str, Recipe[ReidSettings]]:
        """The recipe for the built-in data, or for the hardware."""
        name = BUILT_IN
        if data is not None:
            import torch

            name = LARGE if torch.cuda.is_available() else SMALL
        return name, RECIPES[name]

    def train(
        self,
        data: Path | None,
        run_dir: Path,
        settings: ReidSettings,
        config: TrainConfig,
        *,
        on_error: OnError = "skip",
        log: Callable[[str], None] | None = None,
    ) -> Result:
        """See `tasks.reid.task.train`."""
        from torch_nonlocal.tasks.reid.task import train

        return train(data, run_dir, settings, config, on_error=on_error, log=log)

    def check_location(self, data: Path, settings: ReidSettings) -> None:
        """See `data.tracklets.find.layout_of`."""
        from torch_nonlocal.data.tracklets.find import layout_of

        layout_of(data, settings.layout)

    def check_data(
        self,
        data: Path | None,
        settings: ReidSettings,
        *,
        on_error: OnError = "skip",
        log: Callable[[str], None] = print,
    ) -> None:
        """See `tasks.reid.task.check_data`; the built-in data are not opened."""
        if data is not None:
            from torch_nonlocal.tasks.reid.task import check_data

            check_data(data, settings, on_error=on_error, log=log)

    def has_metric(self, data: Path | None, settings: ReidSettings, *, on_error: OnError = "skip") -> bool:
        """Whether identities are held out."""
        from torch_nonlocal.tasks.reid.data import has_validation

        return has_validation(data, settings)

    def test_arguments(self, settings: ReidSettings) -> Mapping[str, str]:
        """The layout of the data, and a network that is defined in a Python file."""
        layout = {} if settings.layout == AUTO else {"layout": settings.layout}
        return {**layout, **named_file(settings.network)}

    def test(
        self,
        checkpoint: Path,
        data: Path | None,
        out: Path,
        options: ReidTestOptions,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        log: Callable[[str], None] = print,
    ) -> Mapping[str, Any]:
        """See `tasks.reid.several_runs.run_tests`."""
        from torch_nonlocal.tasks.reid.several_runs import run_tests

        return run_tests(checkpoint, data, out, options, on_progress=on_progress, log=log)


REID = ReidSpec()
