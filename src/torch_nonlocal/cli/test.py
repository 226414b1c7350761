"""`nonlocal test TASK CHECKPOINT`: evaluate trained weights."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from torch_nonlocal._common.files import check_folder
from torch_nonlocal._common.progress import ProgressBar
from torch_nonlocal._common.terminal import print_errors, print_lines
from torch_nonlocal.cli.needs import check_task
from torch_nonlocal.cli.text import FORMER_TEST_OPTIONS, with_current_names
from torch_nonlocal.cli.threads import use_free_cores
from torch_nonlocal.cli.train import Data
from torch_nonlocal.tasks.base import TaskSpec, get_task, task_names

SUMMARY = "Test trained weights on data that they were not trained on."


def commands(arguments: Sequence[str]) -> tuple[dict[str, Callable[..., None]], Sequence[str]]:
    """`nonlocal test TASK` for every task; see `app.COMMANDS`."""
    specs = {name: get_task(name) for name in task_names()}
    used = specs.get(arguments[0]) if arguments else None
    if used is not None and "batch" not in {field.name for field in fields(used.test_options)}:
        arguments = with_current_names(arguments, FORMER_TEST_OPTIONS)
    return {name: _command(spec) for name, spec in specs.items()}, arguments


def _command(spec: TaskSpec[Any]) -> Callable[..., None]:
    """`nonlocal test` for one task."""

    def test(
        checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
        *,
        data: Data = None,
        out: Path = Path("test-out"),
        options: Any = spec.test_options(),  # noqa: B008 (a frozen default)
    ) -> None:
        check_folder(out)
        check_task(spec)
        use_free_cores(print_errors)
        lines: list[str] = []  # printed when the bar is gone, to standard output
        with ProgressBar("test") as bar:
            spec.test(checkpoint, data, out, options, on_progress=bar.update, log=lines.append)
        print_lines("\n".join(lines))

    test.__annotations__["options"] = Annotated[
        tyro.conf.OmitArgPrefixes[spec.test_options], tyro.conf.arg(name="test")
    ]
    test.__doc__ = _help(spec)
    return test


def _help(spec: TaskSpec[Any]) -> str:
    return f"""Test weights that nonlocal train {spec.name} trained, and write the results to a folder.

    Example: nonlocal test {spec.name} runs/{spec.name}/checkpoints/best.pt --data my-data

    Args:
        checkpoint: checkpoints/best.pt of a run, or the folder of the run.
        data: data of the training run, or other data of the same kind (with the same classes, if the task has classes);
            without it, the built-in data of the task. Items that the weights were trained on are not scored unless you
            ask for it.
        out: folder for the results; created if missing.
    """
