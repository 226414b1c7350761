"""What decoding and encoding share: the optional packages, and files that appear whole or not at all."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def require(module: str, *, extra: str) -> Any:
    """Imports an optional package.

    Raises:
        ImportError: if it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        message = f"this needs the package {error.name!r}: pip install 'torch-nonlocal[{extra}]'"
        raise ImportError(message) from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary name beside `path`, which becomes `path` when the block ends without an exception.

    Raises:
        ValueError: if the folder does not exist or `path` is a folder.
    """
    final = Path(path)
    if not final.parent.is_dir():
        raise ValueError(f"cannot write {str(final)!r}: there is no folder {str(final.parent)!r}")
    if final.is_dir():
        raise ValueError(f"cannot write {str(final)!r}: it is a folder; give the name of a file")
    temporary = final.with_name(f".{final.stem}.{os.getpid()}.part{final.suffix}")
    try:
        yield temporary
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
