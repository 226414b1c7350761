"""Text for the terminal: names from files and folders never reach it as control characters."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from torch_nonlocal._common.files import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment


def print_lines(text: str, *, file: TextIO | None = None) -> None:
    """Print text. Line breaks are kept; other control characters are printed as escapes.

    Args:
        text: one or more lines.
        file: standard output by default.
    """
    print(_printable_lines(text), file=sys.stdout if file is None else file, flush=True)


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
