"""Sub-commands and the parsing of their arguments."""

import contextlib
import functools
import inspect
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from torch_nonlocal._common.text import did_you_mean
from torch_nonlocal.cli.text import (
    FORMER_TEST_OPTIONS,
    help_of,
    one_line,
    summary_of,
    with_current_names,
    wrapped,
)

COMMANDS = {
    "demo": "",
    "plan": "",
    "replace": "",
    "train": "task",
    "test": "task",
    "predict": "",
    "view": "",
    "export": "",
    "denoise": "",
    "convert": "",
    "data": "command",
    "gallery": "command",
    "bench": "",
}
"""Sub-commands in the order of the overview, and what the word after each names; "" for none.

`torch_nonlocal.cli.NAME` defines the function NAME. Where a word follows, it defines SUMMARY, a sentence for the
overview, and `commands(arguments)`: functions by that word, and the arguments with former names of options replaced.
"""

Command = Callable[..., None]
Deferred = Callable[..., Callable[[], None]]
_DESCRIPTION = "Non-local self-attention for vision networks. nonlocal --version prints the version."


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """Parse a command line.

    Args:
        arguments: without the program's name.

    Returns:
        The sub-command with its options; the caller calls it without arguments.

    Raises:
        ValueError: an unknown command or option, or a missing or wrong value. The message suggests the nearest name.
        SystemExit: help was asked for, and printed.
    """
    printed, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            app, arguments = _app(arguments)
            parsed = app.cli(args=arguments, prog="nonlocal", description=_DESCRIPTION, registry=_registry())
    except SystemExit as end:
        if end.code:
            raise ValueError(one_line(errors.getvalue())) from None
        print(wrapped(printed.getvalue()))
        raise
    sys.stderr.write(errors.getvalue())
    return parsed


def _registry() -> ConstructorRegistry:
    """Values of options as this command prints and documents them: none, beside tyro's None.

    Paths and texts are left as they are: a folder may be called none.
    """
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def none(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[None] | None:
        if type_info.type is not type(None):
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="{None}",
            instance_from_str=lambda words: None,
            is_instance=lambda value: value is None,
            str_from_instance=lambda value: ["None"],
            choices=("none", "None"),
        )

    @registry.primitive_rule
    def text_or_none(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path | str | None] | None:
        kinds = [kind for kind in (Path, str) if set(get_args(type_info.type)) == {kind, type(None)}]
        if not kinds:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=f"{{None}}|{kinds[0].__name__.upper()}",
            instance_from_str=lambda words: None if words[0] == "None" else kinds[0](words[0]),
            is_instance=lambda value: value is None or isinstance(value, kinds[0]),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _app(arguments: Sequence[str]) -> tuple[Any, Sequence[str]]:
    """The command line, and its arguments with former names replaced."""
    _check_word(arguments, COMMANDS, "command", "nonlocal")
    app: Any = tyro.extras.SubcommandApp()
    for name, kind in COMMANDS.items():
        module = import_module(f"torch_nonlocal.cli.{name}")
        used = arguments[:1] == [name]
        if not kind:
            if used and name == "predict":
                arguments = with_current_names(arguments, FORMER_TEST_OPTIONS)
            _add(app, name, getattr(module, name), used)
            continue
        group = tyro.extras.SubcommandApp()
        app.command(group if used else _in_overview, name=name, help=module.SUMMARY)
        if used:
            commands, words = module.commands(arguments[1:])
            _check_word(words, commands, kind, f"nonlocal {name}")
            arguments = [name, *words]
            for word, command in commands.items():
                _add(group, word, command, words[:1] == [word])
    return app, arguments


def _in_overview() -> None:
    """Stands for a group of commands that is not in use: its tasks need not be imported."""


def _add(app: Any, name: str, command: Command, used: bool) -> None:
    """Add a command: with its whole help if it is the one in use, else with the first sentence for the overview."""
    app.command(_deferred(command), name=name, help=None if used else summary_of(command))


def _check_word(arguments: Sequence[str], names: Iterable[str], kind: str, program: str) -> None:
    """Check the name of a command or a task.

    Raises:
        ValueError: it is missing or unknown; the message suggests the nearest name and lists all.
    """
    known = ", ".join(names)
    word = arguments[0] if arguments else ""
    if word in names or word in ("-h", "--help"):
        return
    if not word or word.startswith("-"):
        before = f" before {word}" if word else ""
        raise ValueError(f"expected a {kind}{before}: {known}; see {program} --help")
    hint = did_you_mean(word, [*names, "check"] if program == "nonlocal" else names)
    if program == "nonlocal":
        hint = hint.replace("'check'", "'data check'")
    raise ValueError(f"no {kind} {word!r}; {hint + ' ' if hint else ''}{kind}s: {known}")


def _deferred(command: Command) -> Deferred:
    """The command as tyro sees it: parsing returns the call instead of running it."""

    @functools.wraps(command)
    def parsed(*args: Any, **options: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **options)

    parsed.__signature__ = inspect.signature(command)  # pyright: ignore[reportAttributeAccessIssue]
    del parsed.__wrapped__  # tyro would read the docstring of the function inside
    parsed.__doc__ = help_of(command)
    return parsed
