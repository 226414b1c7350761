"""Public names that are imported on first use, so that importing a package stays cheap (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch_nonlocal._common.optional import missing


def lazy_exports(
    package: str, homes: Mapping[str, str], *, extra: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package whose public names live in submodules.

    Args:
        package: `__name__` of the package.
        homes: public name -> module that defines it, relative to the package ("watch" in ".watch"); a name whose home
            ends in ":" is that module itself ("view": ".view:").
        extra: the extra of torch-nonlocal that installs what the submodules import; by default that of the package
            that is missing.

    Raises:
        ImportError: on access to a name whose module imports a package that is not installed; the message is one line
            with the pip command.

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
        setattr(sys.modules[package], name, value)  # a submodule of the same name must not take the function's place
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
