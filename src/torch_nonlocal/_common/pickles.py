"""A reader for pickles that executes nothing: an interpreter of its own, with a budget.

A pickle is a program for a stack machine that names functions and classes for its reader to call. The interpreter here
builds plain containers, numbers and texts. A name leads to an inert stand-in from a table, or to the note that a
function makes of it; any other name is refused. The work is bounded as well: every operation and every copied item
counts against a budget, texts and integers have a largest size, and a container that holds itself, or that shared
containers expand to millions of items, is refused. `check_contents` guarantees that whoever walks through the result
ends soon.
"""

import codecs
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

from torch import Tensor

_MAX_WORK = 2_000_000  # operations; a network of 2,000 tensors with its optimizer state takes 200,000
_MAX_DIGITS = 64  # bytes of an integer, and of the text of a number
_MAX_TEXT = 1 << 20  # bytes of one text, unless all characters are below 256, as in arrays of Python 2
_MAX_TEXTS = 1 << 25  # bytes of all texts
_MAX_TUPLE_KEYS = 10_000
_MAX_DEPTH = 64  # of containers in containers
_MAX_ITEMS = 1_000_000  # if every shared container counts as often as it is reached
_WIDE = bytes(range(0xC4))  # first bytes of UTF-8 for characters below 256, and all that follow a first byte


class RefusedError(ValueError):
    """The pickle asks for something that tensors and plain values do not need."""


class Call:
    """A callable stand-in: the only kind of object that a pickle can call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class StandIn:
    """An object that a pickle can set the state of, and use as a key: its hash is its identity."""

    __slots__ = ()

    def set_state(self, state: Any) -> None:
        """Take the state after checking it.

        Raises:
            RefusedError: the state is not what the library that writes such objects writes.
        """
        raise NotImplementedError


class Noted(StandIn):
    """The name of a class whose objects are kept as notes."""

    __slots__ = ()

    def made(self, args: Any, *, called: bool) -> "Note":
        """Return the note of an object. `called`: the pickle calls the name as a function, not as a class."""
        raise NotImplementedError


class Note(StandIn):
    """The note of an object, which a pickle can add items to.

    Attributes:
        items: those of a list.
        entries: those of a dictionary.
    """

    __slots__ = ("entries", "items")
    items: list[Any]
    entries: dict[Any, Any]


def read_pickle(
    file: IO[bytes],
    size: int,
    names: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None = None,
    noted: Callable[[str, str], Any] = lambda module, name: None,
) -> Any:
    """Read one pickle; the file is left behind it.

    Args:
        file: binary file.
        size: bytes that the file has from its current position.
        names: what each full name stands for; a pickle can call a `Call`.
        persistent: maps a persistent id to an object.
        noted: maps module and name of any other name to a stand-in, or to None to refuse it.

    Raises:
        RefusedError: the pickle asks for another name, or exceeds a limit. The message names it.
        ValueError, EOFError: the pickle is broken.
    """
    return _Machine(file, size, names, persistent, noted).run()


def check_contents(content: Any) -> None:
    """Require containers that end: none holds itself, and shared ones do not expand to millions of items.

    Raises:
        RefusedError: they do.
    """
    _measure(content, 0, {}, set())


def _measure(value: Any, depth: int, known: dict[int, tuple[int, int]], active: set[int]) -> tuple[int, int]:
    """Number of items as a tree, and height."""
    if not isinstance(value, dict | list | tuple | set | frozenset):
        return 1, 0
    own = id(value)
    if own in active:
        raise RefusedError("it has a container that holds itself")
    items, height = known.get(own, (0, 0))
    if not items:
        if depth > _MAX_DEPTH:
            raise RefusedError(f"it has containers {_MAX_DEPTH} deep in each other")
        active.add(own)
        for one in _children(value):
            more, below = _measure(one, depth + 1, known, active)
            items, height = items + more, max(height, below + 1)
        active.discard(own)
        items += 1
        known[own] = items, height
    if items > _MAX_ITEMS or depth + height > _MAX_DEPTH:
        raise RefusedError(f"its containers expand to more than {_MAX_ITEMS:,} items")
    return items, height


def _children(value: Any) -> Iterable[Any]:
    return (part for pair in value.items() for part in pair) if isinstance(value, dict) else value


class _Machine:
    def __init__(
        self,
        file: IO[bytes],
        size: int,
        names: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None,
        noted: Callable[[str, str], Any],
    ) -> None:
        self._file, self._left = file, size
        self._names, self._persistent, self._noted = names, persistent, noted
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._work = self._texts = self._tuple_keys = 0
        self._encodable = size

    def run(self) -> Any:
        operations, stack = _OPERATIONS, self._stack
        while True:
            code = self.take(1)
            self.charge(1)
            if code == b".":
                return stack.pop()
            operation = operations.get(code)
            if operation is None:
                raise ValueError(f"its pickle has the operation {code!r}, which is not used for tensors")
            operation(self)
            if self._marks and len(stack) < self._marks[-1]:
                raise ValueError("the pickle takes more than it has put down")

    def charge(self, work: int) -> None:
        self._work += work
        if self._work > _MAX_WORK:
            raise RefusedError(f"its pickle takes more than {_MAX_WORK:,} operations")

    def take(self, count: int) -> bytes:
        if count > self._left:
            raise EOFError("it ends in the middle of a value")
        self._left -= count
        data = self._file.read(count)
        if len(data) != count:
            raise EOFError("it ends in the middle of a value")
        return data

    def number(self, code: str) -> int:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def line(self, most: int | None = None) -> bytes:
        line = self._file.readline(self._left if most is None else min(most, self._left))
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise ValueError("its pickle has a line that does not end")
        return line[:-1]

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        return self._stack.pop()

    def since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def pairs(self, items: list[Any]) -> list[tuple[Any, Any]]:
        if len(items) % 2:
            raise ValueError("the pickle has a key without a value")
        return [(self.key(items[i]), items[i + 1]) for i in range(0, len(items), 2)]

    def key(self, key: Any) -> Any:
        """A key or member of a set. Nested tuples are refused: their hash can take forever."""
        if isinstance(key, tuple) and all(isinstance(one, str | int | float | bytes | None) for one in key):
            self._tuple_keys += 1
            self.charge(len(key))
            if self._tuple_keys > _MAX_TUPLE_KEYS:
                raise RefusedError(f"it has more than {_MAX_TUPLE_KEYS:,} tuples as keys")
        elif not isinstance(key, str | int | float | bytes | StandIn | Tensor | None):
            raise RefusedError(f"it has a key of type {type(key).__name__}")
        return key

    def text(self, data: bytes, encoding: str = "utf-8") -> None:
        if len(data) <= _MAX_TEXT:
            self._texts += len(data)
            if self._texts > _MAX_TEXTS:
                raise RefusedError(f"it has more than {_MAX_TEXTS:,} bytes of text")
        elif encoding == "utf-8" and data.translate(None, _WIDE):
            raise RefusedError(f"it has a text of {len(data):,} bytes")
        self.push(data.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict"))

    def integer(self, size: int) -> None:
        if size > _MAX_DIGITS:
            raise RefusedError(f"it has an integer of {size:,} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def named(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedError("it has a name that is not a text")
        full_name = f"{module}.{name}"
        found = self._names.get(full_name)
        if found is None:
            self.charge(3)  # a note takes as much memory as several small values
            found = self._noted(module, name)
        if found is None:
            raise RefusedError(f"it asks for {full_name[:200]}, which tensors do not need")
        self.push(found)

    def call(self, function: Any, args: Any, *, called: bool = True) -> None:
        """Call a stand-in, or make a note of an object. `called`: as a function, not as a class."""
        if isinstance(function, Noted) and isinstance(args, tuple | list):
            self.charge(3 + len(args))
            self.push(function.made(args, called=called))
            return
        if not isinstance(function, Call) or not isinstance(args, tuple | list):
            raise RefusedError(f"it calls a {type(function).__name__}")
        for one in args:  # a function may copy what it is given
            if isinstance(one, dict | list | tuple | set | frozenset):
                self.charge(len(one))
            elif isinstance(one, str | bytes) and len(one) > 100:
                self._encodable -= len(one)
                if self._encodable < 0:
                    raise RefusedError("it uses the same bytes again and again")
        if function is CONTAINERS["builtins.set"] or function is CONTAINERS["builtins.frozenset"]:
            for one in args[0] if args else ():
                self.key(one)
        self.push(function(*args))

    def build(self, state: Any) -> None:
        target = self._stack[-1]
        if isinstance(target, StandIn):
            target.set_state(state)
        elif isinstance(target, Tensor) and isinstance(state, tuple):  # of parameters before PyTorch 0.4
            return
        elif isinstance(target, Call):
            raise RefusedError("it changes a function of NumPy or PyTorch")
        elif type(target) is not OrderedDict:  # the state of a state dict holds versions, which readers need not know
            raise RefusedError(f"it changes a {type(target).__name__}")

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Note):
            target = target.items
        if not isinstance(target, list):
            raise RefusedError(f"it appends to a {type(target).__name__}")
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Note):
            target = target.entries
        if not isinstance(target, dict):
            raise RefusedError(f"it sets items of a {type(target).__name__}")
        target.update(self.pairs(items))

    def add(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, set):
            raise RefusedError(f"it adds to a {type(target).__name__}")
        target.update(self.key(one) for one in items)

    def fetch(self, identifier: Any) -> None:
        if self._persistent is None:
            raise ValueError("it refers to data outside the pickle")
        self.push(self._persistent(identifier))

    def set_of(self) -> None:
        self.charge(3)  # an empty set takes as much memory as four empty lists
        self.push(set())

    def decimal(self) -> None:
        line = self.line(_MAX_DIGITS)
        if line in (b"00", b"01"):  # how protocol 0 writes booleans
            self.push(line == b"01")
        else:
            self.push(int(line.rstrip(b"L")))

    def quoted(self) -> None:
        line = self.line()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"\"'":
            raise ValueError("a text of the pickle has no quotes")
        self.text(codecs.escape_decode(line[1:-1])[0], "latin-1")  # pyright: ignore[reportAttributeAccessIssue]

    def framed(self) -> None:
        self.take(8)

    def versioned(self) -> None:
        if self.take(1)[0] > 5:
            raise ValueError("the pickle has a protocol above 5")


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def operation(m: _Machine) -> None:
        items = tuple(m._stack[-count:])
        if len(items) != count:
            raise ValueError("the pickle takes more than it has put down")
        m._stack[-count:] = [items]

    return operation


def _called(m: _Machine) -> None:
    args = m.pop()
    m.call(m.pop(), args)


def _made(m: _Machine) -> None:
    args = m.pop()
    m.call(m.pop(), args, called=False)


def _named_call(m: _Machine) -> None:
    args = m.since_mark()
    m.named(m.line(200).decode("ascii"), m.line(200).decode("ascii"))
    m.call(m.pop(), args)


def _stack_named(m: _Machine) -> None:
    name = m.pop()
    m.named(m.pop(), name)


_OPERATIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _Machine.versioned,
    b"\x95": _Machine.framed,
    b"(": lambda m: m._marks.append(len(m._stack)),
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.since_mark(),
    b"2": lambda m: m.push(m._stack[-1]),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": _Machine.decimal,
    b"L": _Machine.decimal,
    b"J": lambda m: m.push(m.number("i")),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("H")),
    b"\x8a": lambda m: m.integer(m.number("B")),
    b"\x8b": lambda m: m.integer(m.number("I")),
    b"F": lambda m: m.push(float(m.line(_MAX_DIGITS))),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"S": _Machine.quoted,
    b"T": lambda m: m.text(m.take(m.number("I")), "latin-1"),
    b"U": lambda m: m.text(m.take(m.number("B")), "latin-1"),
    b"B": lambda m: m.push(m.take(m.number("I"))),
    b"C": lambda m: m.push(m.take(m.number("B"))),
    b"\x8e": lambda m: m.push(m.take(m.number("Q"))),
    b"\x96": lambda m: m.push(m.take(m.number("Q"))),
    b"V": lambda m: m.text(m.line(), "raw-unicode-escape"),
    b"X": lambda m: m.text(m.take(m.number("I"))),
    b"\x8c": lambda m: m.text(m.take(m.number("B"))),
    b"\x8d": lambda m: m.text(m.take(m.number("Q"))),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"}": lambda m: m.push({}),
    b"\x8f": _Machine.set_of,
    b"l": lambda m: m.push(m.since_mark()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"d": lambda m: m.push(dict(m.pairs(m.since_mark()))),
    b"\x91": lambda m: m.push(frozenset(map(m.key, m.since_mark()))),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.since_mark()),
    b"s": lambda m: m.update([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.update(m.since_mark()),
    b"\x90": lambda m: m.add(m.since_mark()),
    b"c": lambda m: m.named(m.line(200).decode("ascii"), m.line(200).decode("ascii")),
    b"\x93": _stack_named,
    b"R": _called,
    b"\x81": _made,
    b"i": _named_call,
    b"b": lambda m: m.build(m.pop()),
    b"P": lambda m: m.fetch(m.line(200).decode("ascii")),
    b"Q": lambda m: m.fetch(m.pop()),
    b"p": lambda m: m.put(int(m.line(_MAX_DIGITS))),
    b"q": lambda m: m.put(m.number("B")),
    b"r": lambda m: m.put(m.number("I")),
    b"\x94": lambda m: m.put(len(m._memo)),
    b"g": lambda m: m.push(m._memo[int(m.line(_MAX_DIGITS))]),
    b"h": lambda m: m.push(m._memo[m.number("B")]),
    b"j": lambda m: m.push(m._memo[m.number("I")]),
}


def _encode(text: Any, encoding: Any = "") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"it encodes text as {encoding!r}")
    return text.encode("latin-1")


def _bytearray(data: Any = b"", encoding: Any = None) -> bytes:
    if isinstance(data, bytes) and encoding is None:
        return data
    return _encode(data, encoding)


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    if not isinstance(items, list | tuple) or any(not isinstance(one, list | tuple) or len(one) != 2 for one in items):
        raise RefusedError("it has an ordered dictionary in a form that Python does not write")
    for key, _ in items:
        if not isinstance(key, str | int):
            raise RefusedError(f"it has a key of type {type(key).__name__}")
    return OrderedDict(items)


CONTAINERS: dict[str, Call] = {
    "builtins.dict": Call(lambda items={}: _plain_copy(dict, dict, items)),
    "builtins.list": Call(lambda items=(): _plain_copy(list, list | tuple | set, items)),
    "builtins.tuple": Call(lambda items=(): _plain_copy(tuple, list | tuple, items)),
    "builtins.set": Call(lambda items=(): _plain_copy(set, list | tuple | set | frozenset, items)),
    "builtins.frozenset": Call(lambda items=(): _plain_copy(frozenset, list | tuple | set | frozenset, items)),
    "builtins.bytearray": Call(_bytearray),
    "collections.OrderedDict": Call(_ordered),
    "collections.Counter": Call(lambda items={}: _plain_copy(dict, dict, items)),
    "_codecs.encode": Call(_encode),
}
"""Plain containers by their names in a pickle."""
CONTAINERS |= {name.replace("builtins.", "__builtin__."): call for name, call in CONTAINERS.items()}


def _plain_copy(kind: type, takes: Any, items: Any) -> Any:
    if not isinstance(items, takes):
        raise RefusedError(f"it makes a {kind.__name__} of a {type(items).__name__}")
    return kind(items)
