"""Optional packages: imported where they are used, and named with the extra that brings them when missing."""

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any

EXTRAS = {
    "accelerate": "train",
    "av": "video",
    "huggingface_hub": "hub",
    "jinja2": "view",
    "matplotlib": "view",
    "numpy": "video",
    "PIL": "view",
    "pyarrow": "parquet",
    "rich": "cli",
    "safetensors": "checkpoints",
    "sklearn": "train",
    "tensorboard": "train",
    "timm": "train",
    "torchmetrics": "train",
    "torchvision": "train",
    "tyro": "cli",
}
"""Import name of an optional package -> the extra of torch-nonlocal that installs it."""


def require(module: str, *, extra: str | None = None) -> Any:
    """Import an optional package.

    Args:
        module: import name, such as "av" or "torchmetrics.functional".
        extra: the extra that installs it; default by `EXTRAS`.

    Raises:
        ImportError: the package is not installed; the message is one line with the pip command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(missing([error.name or module], extra), name=error.name) from error


def require_all(modules: Iterable[str], *, extra: str) -> None:
    """Check that packages are installed, without importing them, before any work is done.

    Raises:
        ImportError: at least one is missing; the message lists all of them and the pip command.
    """
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    if absent:
        raise ImportError(missing(absent, extra), name=absent[0])


def missing(packages: Iterable[str], extra: str | None = None) -> str:
    """The one-line message for missing packages."""
    names = list(packages)
    extra = extra or EXTRAS.get(names[0].partition(".")[0], "all")
    plural = "s" if len(names) > 1 else ""
    return f"missing package{plural} {', '.join(names)}: pip install 'torch-nonlocal[{extra}]'"
