"""Public names and signatures, pinned in api_surface.txt.

After an intended change of the public API, rewrite the file and review its diff:

    python tests/test_api_surface.py
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import pytest

import torch_nonlocal

TABLE = Path(__file__).with_name("api_surface.txt")
INDENT = "    "


def public_modules() -> list[str]:
    """`torch_nonlocal`, its packages that export names, and the documented module `functional`."""
    packages = [
        found.name for found in pkgutil.walk_packages(torch_nonlocal.__path__, "torch_nonlocal.") if found.ispkg
    ]
    exporting = [name for name in packages if "._" not in name and hasattr(importlib.import_module(name), "__all__")]
    return ["torch_nonlocal", "torch_nonlocal.functional", *exporting]


def described(module: ModuleType) -> str:
    """The public names of a module, one per line, with signatures; methods are indented below their class."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    lines = [line for name in sorted(names) for line in entry(module.__name__, name, getattr(module, name))]
    return "\n".join([module.__name__, *(INDENT + line for line in lines)])


def entry(module: str, name: str, value: Any) -> Iterator[str]:
    """The lines of one public name. A package refers to the names that `torch_nonlocal` exports as well."""
    if module != "torch_nonlocal" and getattr(torch_nonlocal, name, None) is value:
        yield f"{name}: see torch_nonlocal"
    elif isinstance(value, ModuleType):
        yield f"module {name}"
    elif inspect.isclass(value) and get_origin(value) is None:
        yield f"class {name}{signature(value)}"
        for member, kind in members(value):
            yield f"{INDENT}{member}{kind}"
    elif inspect.isfunction(value):
        yield f"{name}{signature(value)}"
    elif get_origin(value) is not None:
        yield f"{name} = {value}".replace("typing.", "")
    else:
        yield f"{name}: {type(value).__name__}"


def members(kind: type) -> list[tuple[str, str]]:
    """Public methods and properties that a class and its bases in this library define."""
    own = [base for base in reversed(kind.__mro__) if base.__module__.startswith("torch_nonlocal")]
    defined = {name: value for base in own for name, value in vars(base).items() if not name.startswith("_")}
    found = []
    for name, value in sorted(defined.items()):
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if inspect.isfunction(function):
            found.append((name, signature(function)))
        elif isinstance(value, property) or hasattr(value, "func"):
            found.append((name, ""))
    return found


def signature(value: Any) -> str:
    """Parameter names, kinds and defaults. Types are checked by pyright."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except ValueError:  # a class without a signature, such as an enumeration
        return ""
    plain = [one.replace(annotation=one.empty, default=readable(one.default)) for one in parameters]
    return str(inspect.Signature(plain))


def readable(default: Any) -> Any:
    """A default whose text does not depend on the process: functions and classes by name."""
    return (
        Verbatim(default.__qualname__)
        if hasattr(default, "__qualname__") and default is not inspect._empty
        else default
    )


class Verbatim(str):
    """A string that prints without quotes."""

    def __repr__(self) -> str:
        return str(self)


def pinned() -> dict[str, str]:
    sections = TABLE.read_text().strip().split("\n\n") if TABLE.exists() else []
    return {section.split("\n", 1)[0]: section for section in sections}


def test_the_table_lists_every_public_module():
    assert list(pinned()) == public_modules()


@pytest.mark.parametrize("module", pinned())
def test_public_names_and_signatures_are_those_of_the_table(module):
    try:
        current = described(importlib.import_module(module))
    except ImportError as error:  # the core alone is installed
        pytest.skip(str(error))
    assert current == pinned()[module], "rewrite the table after an intended change: python tests/test_api_surface.py"


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_block_options_are_the_options_of_the_blocks(dims):
    from torch_nonlocal.layers import BlockOptions

    parameters = dict(inspect.signature(getattr(torch_nonlocal, f"NonLocal{dims}d")).parameters)
    assert parameters.pop("channels").default is inspect.Parameter.empty
    assert {name: one.annotation for name, one in parameters.items()} == BlockOptions.__annotations__


@pytest.mark.parametrize(
    ("function", "declared"),
    [("insert", "AnyBlockOptions"), ("plan", "AnyBlockOptions"), ("create_model", "BlockOptions")],
)
def test_functions_that_insert_blocks_declare_the_options(function, declared):
    from typing import Unpack

    from torch_nonlocal import layers

    expected = getattr(layers, declared)
    assert layers.BlockOptions.__annotations__.items() <= expected.__annotations__.items()
    options = list(inspect.signature(getattr(torch_nonlocal, function)).parameters.values())[-1]
    assert options.kind is inspect.Parameter.VAR_KEYWORD
    assert options.annotation == Unpack[expected]


def test_the_package_is_marked_as_typed():
    assert Path(torch_nonlocal.__file__).with_name("py.typed").is_file()


if __name__ == "__main__":
    sections = [described(importlib.import_module(name)) for name in public_modules()]
    TABLE.write_text("\n\n".join(sections) + "\n")
    sys.stdout.write(f"wrote {TABLE}\n")
