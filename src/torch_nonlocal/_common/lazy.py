"""Lazy package exports (PEP 562): public names are imported on first use, which keeps importing a package cheap."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch_nonlocal._common.optional import missing


def lazy_exports(
    package: str, homes: Mapping[str, str], *, extra: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package whose public names live in submodules.

    The package also imports the names under `TYPE_CHECKING`, so that type checkers and editors see them. Access to a
    name whose module needs a package that is not installed raises ImportError with the pip command, in one line.

    Args:
        package: `__name__` of the package.
        homes: maps each public name to the module that defines it, relative to the package ("watch" to ".watch"). A
            module ending in ":" is itself the exported object ("view" to ".view:").
        extra: the extra of torch-nonlocal that installs what the submodules import; by default the one that installs
            the missing package.

    Returns:
        The two functions. Unknown names raise AttributeError, as for any module.

    Example:
        >>> __getattr__, __dir__ = lazy_exports(__name__, {"watch": ".watch"})
    """

    def get(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(home.removesuffix(":"), package)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == package.partition(".")[0]:
                raise
            raise ImportError(missing([error.name], extra), name=error.name) from error
        value = module if home.endswith(":") else getattr(module, name)
        # Python binds an imported submodule to its package; a function of the same name must replace it.
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
