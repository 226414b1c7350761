"""Text for the terminal: names from files and folders never reach it as control characters."""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from torch_nonlocal._common.files import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment


def print_lines(text: str, *, file: TextIO | None = None) -> None:
    """Print text. Line breaks are kept; other control characters are printed as escapes.

    If nobody can read it any more, because the terminal or the other end of a pipe is closed, this text and all that
    follows is dropped.

    Args:
        text: one or more lines.
        file: standard output by default.
    """
    stream = sys.stdout if file is None else file
    try:
        print(_printable_lines(text), file=stream, flush=True)
    except OSError:
        with suppress(OSError, ValueError):  # the stream is not a file: nothing to redirect
            discard(stream.fileno())


def print_errors(text: str) -> None:
    """Print text to standard error, as `print_lines` does."""
    print_lines(text, file=sys.stderr)


def discard(descriptor: int) -> None:
    """Drop everything that is written to a file descriptor from now on."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def terminal(*, stderr: bool = False) -> "Console":
    """A console of rich whose text has no control characters; styles, tables and progress bars work as usual.

    Args:
        stderr: write to standard error instead of standard output.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Printable(Console):
        def render(self, renderable: "RenderableType", options: "ConsoleOptions | None" = None) -> "Iterable[Segment]":
            for segment in super().render(renderable, options):
                is_plain = bool(segment.control) or segment.text.isprintable()
                yield segment if is_plain else Segment(_printable_lines(segment.text), segment.style)

    return Printable(stderr=stderr)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
