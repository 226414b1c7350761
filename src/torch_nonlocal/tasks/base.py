"""Task descriptions and the registry that `nonlocal train` and `nonlocal test` read.

A `TaskSpec` describes a task. Built-in tasks are imported on first use. Other tasks are added by `register`, or by the
entry point group "torch_nonlocal.tasks" of an installed package.

Example:
    >>> class Depth(TaskSpec[DepthSettings]):
    ...     name, summary, settings, test_options = "depth", "Train depth from video.", DepthSettings, DepthTestOptions
    ...     ...
    >>> register(Depth())
    >>> get_task("depth").train(Path("clips"), Path("runs/depth"), DepthSettings(), TrainConfig(epochs=5))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from torch_nonlocal._common.text import did_you_mean

if TYPE_CHECKING:
    from torch_nonlocal.training import Result, TrainConfig

OnError = Literal["skip", "fail"]
Settings = TypeVar("Settings")
"""A frozen dataclass of plain values: model and data options. Its fields become command-line options."""

_BUILT_IN = {
    "action": "torch_nonlocal.tasks.action.spec:ACTION",
    "denoise": "torch_nonlocal.tasks.denoise.spec:DENOISE",
    "reid": "torch_nonlocal.tasks.reid.spec:REID",
}
_registered: dict[str, TaskSpec[Any]] = {}


@dataclass(frozen=True)
class Recipe(Generic[Settings]):
    """Named settings and training configuration.

    Attributes:
        settings: model and data options.
        config: training options; the learning rate is for the configured batch size.
        source: where the numbers come from, or the hardware they are for.
        published: published results; "" if there are none.
        test: options of `nonlocal test` for the published protocol; "" for the defaults.
        starts_from: the recipe whose trained weights this one needs in the field `weights` of its settings; "" if none.
        needs_data: whether the recipe has no built-in data.
    """

    settings: Settings
    config: TrainConfig
    source: str
    published: str = ""
    test: str = ""
    starts_from: str = ""
    needs_data: bool = False


class TaskSpec(Generic[Settings]):
    """A task as the command line sees it. The class imports neither torch nor data packages; its methods may.

    Attributes:
        name: name of the task, as in `nonlocal train NAME`.
        summary: what the task is, for the help, such as "Action recognition in videos."
        details: a paragraph for the help of `nonlocal train NAME`: the data that it reads, and what it does without.
        settings: dataclass of the task's settings.
        test_options: dataclass of the options of `nonlocal test`: plain values with defaults.
        requires: import names of the packages that training and testing need; they are checked before any work.
        extra: the extra of torch-nonlocal that installs these packages.
        tests_seeds: whether `nonlocal test` takes the folder of the runs of several seeds. Then these runs need no
            metric to be compared by in training.
    """

    name: str = ""
    summary: str = ""
    details: str = ""
    settings: type[Settings]
    test_options: type[Any]
    requires: tuple[str, ...] = ()
    extra: str = "train"
    tests_seeds: bool = False

    def recipes(self) -> Mapping[str, Recipe[Settings]]:
        """All recipes by name. Must not import torch."""
        raise NotImplementedError

    def recipe(self, name: str) -> Recipe[Settings]:
        """The recipe of this name.

        Raises:
            ValueError: there is no such recipe; the message suggests the nearest name.
        """
        recipes = self.recipes()
        if name in recipes:
            return recipes[name]
        hint = did_you_mean(name, recipes, cutoff=0.4)
        raise ValueError(f"no recipe {name!r}; {hint + ' ' if hint else ''}--recipe list shows all {len(recipes)}")

    def default_recipe(self, data: Path | None) -> tuple[str, Recipe[Settings]]:
        """The name and the recipe that are used when none is given; may depend on the data and the hardware."""
        raise NotImplementedError

    def train(
        self,
        data: Path | None,
        run_dir: Path,
        settings: Settings,
        config: TrainConfig,
        *,
        on_error: OnError = "skip",
        log: Callable[[str], None] | None = None,
    ) -> Result:
        """Train, or resume the run in `run_dir`.

        Args:
            data: folder or list of the training data; None for built-in data, if the task has any.
            run_dir: folder of the run; created if missing.
            settings: model and data options.
            config: training options.
            on_error: "skip" skips data that cannot be read, "fail" raises.
            log: receives messages, one line each; None prints them.
        """
        raise NotImplementedError

    def check_location(self, data: Path, settings: Settings) -> None:
        """Check that data exist and are of a known kind, before anything is printed; default: nothing is checked.

        Args:
            data: as for `train`.
            settings: model and data options.

        Raises:
            ValueError: they do not exist, or are of another kind.
        """

    def check_data(
        self,
        data: Path | None,
        settings: Settings,
        *,
        on_error: OnError = "skip",
        log: Callable[[str], None] = print,
    ) -> None:
        """Open the data of a run without training, for `nonlocal train --dry-run`; default: nothing is opened.

        Args:
            data: as for `train`.
            settings: model and data options.
            on_error: "skip" skips data that cannot be read, "fail" raises.
            log: receives messages, one line each.
        """

    def has_metric(self, data: Path | None, settings: Settings, *, on_error: OnError = "skip") -> bool:
        """Whether runs on these data have a metric to compare them by, for `nonlocal train --seeds`; default: yes.

        Without one, `--seeds` is refused, unless `tests_seeds`.

        Args:
            data: as for `train`.
            settings: model and data options.
            on_error: "skip" skips data that cannot be read, "fail" raises.
        """
        return True

    def test_arguments(self, settings: Settings) -> Mapping[str, str]:
        """Options of `nonlocal test` that weights trained with these settings need besides the data, by name.

        They are settings that are not saved with the weights; default: none.
        """
        return {}

    def test(
        self,
        checkpoint: Path,
        data: Path | None,
        out: Path,
        options: Any,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        log: Callable[[str], None] = print,
    ) -> Mapping[str, Any]:
        """Test trained weights and write the results to a folder.

        Args:
            checkpoint: best.pt of a run, or the folder of the run.
            data: as for `train`.
            out: folder for the results; created if missing.
            options: an instance of `test_options`.
            on_progress: called with (done, total) after each batch.
            log: receives a summary of the results, one line at a time.

        Returns:
            Metrics by name.
        """
        raise NotImplementedError


def named_file(network: str) -> dict[str, str]:
    """The option --network of `nonlocal test` for a network that is defined in a Python file; none for other names."""
    return {"network": network} if network.partition(":")[0].endswith(".py") else {}


def learning_rate_hint(config: TrainConfig, chosen: TrainConfig) -> str:
    """A hint for a learning rate that belongs to another batch size; "" if none is needed.

    Args:
        config: the configuration of the run.
        chosen: the configuration of the recipe.

    Reference: Goyal et al., Accurate, Large Minibatch SGD, 2017 (linear scaling).
    """
    if config.lr != chosen.lr or config.batch_size == chosen.batch_size:
        return ""
    scaled = config.lr * config.batch_size / chosen.batch_size
    rule = f"; linear scaling gives --lr {scaled:.3g}" if config.optimizer == "sgd" else ""
    return f"lr {config.lr:g} is for batch size {chosen.batch_size}, the batch size is {config.batch_size}{rule}"


def register(spec: TaskSpec[Any]) -> None:
    """Add a task under its name; it replaces a task registered earlier under the same name.

    Raises:
        ValueError: the name is empty or is the name of a built-in task.
    """
    if not spec.name or spec.name in _BUILT_IN:
        raise ValueError(f"task name {spec.name!r}: expected a new name; built-in tasks: {', '.join(_BUILT_IN)}")
    _registered[spec.name] = spec


def task_names() -> tuple[str, ...]:
    """Names of all tasks: built-in, registered, and provided by installed packages."""
    installed = [point.name for point in entry_points(group="torch_nonlocal.tasks")]
    return tuple(dict.fromkeys([*_BUILT_IN, *_registered, *installed]))


def get_task(name: str) -> TaskSpec[Any]:
    """The task of this name.

    Raises:
        ValueError: there is no such task; the message suggests the nearest name and lists all of them.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)
    if name in _registered:
        return _registered[name]
    for point in entry_points(group="torch_nonlocal.tasks", name=name):
        return point.load()
    hint = did_you_mean(name, task_names())
    raise ValueError(f"no task {name!r}; {hint + ' ' if hint else ''}tasks: {', '.join(task_names())}")
