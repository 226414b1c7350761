"""Tasks by name: what `nonlocal train` and `nonlocal test` can do.

A task is described by a `TaskSpec`. Built-in ones are imported on use; others come from `register`, or from the entry
point group "torch_nonlocal.tasks" of installed packages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch_nonlocal._common.text import did_you_mean

if TYPE_CHECKING:
    from torch_nonlocal.training import Result, TrainConfig

Settings = TypeVar("Settings")
"""A frozen dataclass of plain values: what is trained and on what. Its fields become command-line options."""

_BUILT_IN = {"action": "torch_nonlocal.tasks.action.spec:ACTION"}
_registered: dict[str, TaskSpec[Any]] = {}


@dataclass(frozen=True)
class Recipe(Generic[Settings]):
    """Settings and training configuration under a name.

    Attributes:
        settings: what is trained.
        config: how; its learning rate is for its own batch size.
        source: where the numbers are from, or which machine they suit.
        published: published results, "" where there are none.
        test: options of `nonlocal test` for the published protocol; "" for the defaults.
        starts_from: the recipe whose trained weights this one needs; "" if none.
    """

    settings: Settings
    config: TrainConfig
    source: str
    published: str = ""
    test: str = ""
    starts_from: str = ""


class TaskSpec(Generic[Settings]):
    """A task as the command line sees it. Defining one imports neither torch nor data packages; its methods do.

    Attributes:
        name: what follows `nonlocal train`.
        summary: one sentence for the help.
        settings: dataclass of the task's settings.
        test_options: dataclass of options of `nonlocal test`; plain values with defaults.
        requires: import names of packages that training and testing need, checked before any work.
        extra: the extra of torch-nonlocal that installs them.
    """

    name: str = ""
    summary: str = ""
    settings: type[Settings]
    test_options: type[Any]
    requires: tuple[str, ...] = ()
    extra: str = "train"

    def recipes(self) -> Mapping[str, Recipe[Settings]]:
        """Recipes by name."""
        raise NotImplementedError

    def default_recipe(self, data: Path | None) -> tuple[str, Recipe[Settings]]:
        """The recipe used when none is named, and its name; may depend on the data and the machine."""
        raise NotImplementedError

    def train(
        self,
        data: Path | None,
        run_dir: Path,
        settings: Settings,
        config: TrainConfig,
        *,
        on_error: str = "skip",
        log: Callable[[str], None] | None = None,
    ) -> Result:
        """Train, or resume the run in `run_dir`.

        Args:
            data: folder or list; None for built-in data, if the task has any.
            run_dir: folder of the run.
            settings: what is trained.
            config: how.
            on_error: "skip" or "fail" for data that cannot be read.
            log: gets messages, one line each.
        """
        raise NotImplementedError

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
            checkpoint: best.pt of a run, or the run's folder.
            data: as for `train`.
            out: folder for results; made if missing.
            options: an instance of `test_options`.
            on_progress: called with (done, total).
            log: gets lines for people.

        Returns:
            Metrics by name.
        """
        raise NotImplementedError


def register(spec: TaskSpec[Any]) -> None:
    """Make a task known under its name, replacing one registered before.

    Raises:
        ValueError: the name is empty or that of a built-in task.
    """
    if not spec.name or spec.name in _BUILT_IN:
        raise ValueError(f"task name {spec.name!r}: expected a new name; built in: {', '.join(_BUILT_IN)}")
    _registered[spec.name] = spec


def task_names() -> tuple[str, ...]:
    """Names of all tasks: built in, registered, and of installed packages."""
    installed = [point.name for point in entry_points(group="torch_nonlocal.tasks")]
    return tuple(dict.fromkeys([*_BUILT_IN, *_registered, *installed]))


def get_task(name: str) -> TaskSpec[Any]:
    """A task by its name.

    Raises:
        ValueError: unknown; the message suggests the nearest name.
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
