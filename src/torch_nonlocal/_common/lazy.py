"""Public names that are imported on first use, so that importing a package stays cheap (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package whose public names live in submodules.

    Args:
        package: `__name__` of the package.
        homes: public name -> module that defines it, relative to the package ("watch" in ".watch"); a name whose home
            ends in ":" is that module itself ("view": ".view:").

    Example:
        >>> __getattr__, __dir__ = lazy_exports(__name__, {"watch": ".watch"})
    """

    def get(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(home.removesuffix(":"), package)
        value = module if home.endswith(":") else getattr(module, name)
        setattr(sys.modules[package], name, value)  # a submodule of the same name must not take the function's place
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
