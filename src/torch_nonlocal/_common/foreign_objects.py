"""Objects of classes that a reader does not know, kept as notes: names, arguments and attributes, all of them data.

Training scripts save settings, buffers and whole networks beside the tensors. Such objects become inert notes: nothing
is imported, no class is looked up, and nothing of theirs runs. A name is noted only if it can be that of a class. Names
of Python's own modules, which include those that start programs, are refused except for a short list.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from torch_nonlocal._common.pickles import Call, Note, Noted, RefusedError, StandIn

_MAX_DEPTH = 100
_PYTHON_2 = {"__builtin__", "copy_reg", "commands", "popen2", "os2", "dl"}
_VALUES = ("argparse.Namespace", "types.SimpleNamespace", "datetime.", "decimal.Decimal", "fractions.Fraction", "uuid.")
_PLAIN_TYPES = ("object", "type", "int", "float", "str", "bool", "bytes", "complex", "slice", "range")
_FUNCTIONS_OF_VALUES = {
    "functools.partial",
    "re._compile",
    "torch.nn.backends.thnn._get_thnn_function_backend",
    "numpy.random._pickle.__randomstate_ctor",
    "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
}


class ForeignName(Noted):
    """The name of a class, or of a function that is not called."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def made(self, args: Any, *, called: bool) -> "Foreign":
        """Return a note of an object of this class.

        Raises:
            RefusedError: the pickle calls the name, and it is that of a function.
        """
        last = self.name.rpartition(".")[2].lstrip("_")
        if called and not last[:1].isupper() and self.name not in _FUNCTIONS_OF_VALUES:
            raise RefusedError(refusal(self.name))
        return Foreign(self.name, tuple(args))


class Foreign(Note):
    """A note of an object: arguments, state, and the items of a list or dictionary."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...]) -> None:
        self.name, self.args = name, args
        self.state: Any = None
        self.items, self.entries = [], {}

    def set_state(self, state: Any) -> None:
        """Note the state: attributes, or a pair of attributes and slots."""
        self.state = state

    @property
    def attributes(self) -> dict[str, Any]:
        """The state as attributes by name; empty if it has another form."""
        parts = self.state if isinstance(self.state, tuple) and len(self.state) == 2 else (self.state,)
        return {str(key): value for part in parts if isinstance(part, dict) for key, value in part.items()}


class ModuleState(dict[str, Any]):
    """The state dict of a whole network in a file.

    Attributes:
        modules: class name and plain attributes of each module by its name in the network.
    """

    modules: dict[str, dict[str, Any]]


def refusal(name: str) -> str:
    """Why a name is refused."""
    return f"it asks for {name[:200]}, which tensors do not need"


def foreign_name(module: str, name: str) -> ForeignName | None:
    """The note of a name, or None if it is refused."""
    full_name = f"{module}.{name}"
    if len(full_name) > 300 or not all(part.isidentifier() for part in full_name.split(".")):
        return None
    top = module.partition(".")[0]
    if top in ("builtins", "__builtin__"):
        return ForeignName(name) if name in _PLAIN_TYPES else None
    if top == "typing" or full_name in _FUNCTIONS_OF_VALUES or full_name.startswith(_VALUES):
        return ForeignName(full_name)
    if top in sys.stdlib_module_names or top in _PYTHON_2:
        return None
    return ForeignName(full_name)


def _attribute(owner: Any = None, name: Any = None) -> ForeignName:
    """getattr of a noted class or object, as pickles name methods and members of enumerations."""
    if not isinstance(owner, ForeignName | Foreign) or not isinstance(name, str) or not name.isidentifier():
        raise RefusedError(refusal("builtins.getattr"))
    return ForeignName(f"{owner.name}.{name}"[:300])


def _item(owner: Any = None, _index: Any = None) -> ForeignName:
    """operator.getitem of a noted type, as pickles name "typing.Union[int, str]"."""
    if not isinstance(owner, ForeignName):
        raise RefusedError(refusal("operator.getitem"))
    return owner


def _new(kind: Any = None, *args: Any) -> Foreign:
    if not isinstance(kind, ForeignName):
        raise RefusedError("it makes an object of something that is no class")
    return kind.made(args, called=False)


def _path(*parts: Any) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise RefusedError("it has a path of other things than texts")
    return "/".join(parts).replace("//", "/", 1)


def _deque(items: Any = (), _length: Any = None) -> list[Any]:
    if not isinstance(items, list | tuple):
        raise RefusedError("it has a deque in a form that Python does not write")
    return list(items)


def _rebuilt(make: Any = None, args: Any = (), *_: Any) -> Foreign:
    """The note of a module with a generated class of this package, whose pickle names a function that restores it.

    The function is called with the function that makes the module, and its arguments. A module may have two generated
    classes, one of them a host of a block.
    """
    if _is_one(make, _REBUILDS) and isinstance(args, tuple) and args and not _is_one(args[0], _REBUILDS):
        return _rebuilt(*args)
    if not _is_one(make, _MAKES) or not isinstance(args, tuple):
        raise RefusedError("it makes a module in a way that this package does not write")
    return make(*args)


def _is_one(value: Any, calls: list[Call]) -> bool:
    return any(value is call for call in calls)


_PATHS = ("PosixPath", "WindowsPath", "Path", "PurePosixPath", "PureWindowsPath", "PurePath")
_CALLS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("builtins.getattr", "__builtin__.getattr"), _attribute),
    **dict.fromkeys(("operator.getitem", "_operator.getitem"), _item),
    **dict.fromkeys(("copyreg._reconstructor", "copy_reg._reconstructor"), lambda kind=None, *_: _new(kind)),
    **dict.fromkeys(("copyreg.__newobj__", "copy_reg.__newobj__"), _new),
    "collections.defaultdict": lambda *_: {},
    "collections.deque": _deque,
    **{f"{module}.{name}": _path for module in ("pathlib", "pathlib._local") for name in _PATHS},
}
_OURS = ("insertion.attachment.new_host", "replacing.swap.new_taken_over", "optimization.convolutions.new_plain")
FOREIGN_CALLS: dict[str, Call] = {
    **{name: Call(function) for name, function in _CALLS.items()},
    **{f"torch_nonlocal.{name}": Call(_rebuilt) for name in _OURS},
}
"""Full name in a pickle -> the inert stand-in for it."""
_REBUILDS = [FOREIGN_CALLS[f"torch_nonlocal.{name}"] for name in _OURS]
_MAKES = [call for name, call in FOREIGN_CALLS.items() if name.endswith(("._reconstructor", ".__newobj__"))]


def without_notes(content: Any) -> Any:
    """Replace notes by plain values: networks by their state dict, other objects by their attributes or items.

    An object that holds itself is replaced by its name there. Containers change in place.

    Raises:
        RefusedError: notes and containers are more than 100 deep in each other.
    """
    return _Replacing().plain(content, 0)


class _Replacing:
    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, Any]] = {}  # the reference keeps the id unique

    def plain(self, value: Any, depth: int) -> Any:
        if isinstance(value, ForeignName):
            return value.name
        if not isinstance(value, dict | list | tuple | Foreign):
            return value
        if id(value) in self._done:
            return self._done[id(value)][1]
        if depth > _MAX_DEPTH:
            raise RefusedError(f"it has containers {_MAX_DEPTH} deep in each other")
        if isinstance(value, Foreign):
            self._done[id(value)] = value, value.name  # where it holds itself
            new = module_state(value) if is_module(value) else self.plain(_content(value), depth + 1)
        elif isinstance(value, tuple):
            parts = tuple(self.plain(one, depth + 1) for one in value)
            new = value if all(one is old for one, old in zip(parts, value, strict=True)) else parts
        else:
            self._done[id(value)] = value, value
            self._change(value, depth)
            return value
        self._done[id(value)] = value, new
        return new

    def _change(self, value: dict[Any, Any] | list[Any], depth: int) -> None:
        if isinstance(value, list):
            value[:] = [self.plain(one, depth + 1) for one in value]
            return
        if any(isinstance(key, StandIn | Tensor) for key in value):
            named = {_key(key, index): one for index, (key, one) in enumerate(value.items())}
            value.clear()
            value.update(named)
        for key, one in value.items():
            value[key] = self.plain(one, depth + 1)


def _key(key: Any, index: int) -> Any:
    """Name of a key that is an object, such as the parameter in the state of an optimizer."""
    if isinstance(key, Foreign | ForeignName):
        return key.name if isinstance(key, ForeignName) else f"{key.name} {index}"
    return f"key {index}" if isinstance(key, StandIn | Tensor) else key


def _content(note: Foreign) -> Any:
    attributes = {key: value for key, value in note.attributes.items() if not key.startswith("__")}
    if note.entries:
        return {**attributes, **note.entries}
    if note.items:
        return list(note.items)
    if attributes or isinstance(note.state, dict):
        return attributes
    if note.state is not None:
        return note.state
    return note.args[0] if len(note.args) == 1 else list(note.args) or note.name


def is_module(note: Foreign) -> bool:
    """Whether a note is that of a PyTorch module."""
    parts = note.attributes
    return all(isinstance(parts.get(key), dict) for key in ("_modules", "_parameters", "_buffers"))


def module_state(note: Foreign) -> ModuleState:
    """The state dict of a noted module, with class names and plain attributes of its modules.

    Raises:
        RefusedError: a module holds itself, or modules are more than 100 deep in each other.
    """
    state = ModuleState()
    state.modules = {}
    _collect(note, "", state, [])
    return state


def _collect(note: Foreign, name: str, state: ModuleState, around: list[Foreign]) -> None:
    if len(around) > _MAX_DEPTH or any(one is note for one in around):
        raise RefusedError("it has a network whose modules hold each other")
    if len(state.modules) > 20_000:
        raise RefusedError("it has a network of more than 20,000 modules")
    parts = note.attributes
    state.modules[name] = {"class": note.name.rpartition(".")[2], **_plain_attributes(parts)}
    prefix = f"{name}." if name else ""
    skipped = parts.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for key, value in parts[kind].items():
            if value is not None and not (kind == "_buffers" and key in skipped):
                state[f"{prefix}{key}"] = value
    for key, child in parts["_modules"].items():
        if isinstance(child, Foreign) and is_module(child):
            _collect(child, f"{prefix}{key}", state, [*around, note])


def _plain_attributes(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, texts and short sequences of these; no private attributes."""
    found: dict[str, Any] = {}
    for key, value in parts.items():
        several = isinstance(value, list | tuple) and len(value) <= 8 and all(_is_plain(one) for one in value)
        if not key.startswith("_") and (_is_plain(value) or several):
            found[key] = value
    return found


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 100)
