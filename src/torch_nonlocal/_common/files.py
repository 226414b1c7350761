"""Atomic file writes, and names that are safe to print."""

import errno
import glob
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LEFTOVER_SECONDS = 600
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also in full width
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside `path`; it becomes `path` when the block ends without an exception.

    The content reaches the disk before the name changes, so a reader sees the old file or the new one, never a part.
    The temporary name is unique to this call and keeps the suffix of `path`.

    Raises:
        ValueError: the folder does not exist, or `path` is a folder.
    """
    final = Path(path)
    if not final.parent.is_dir():
        raise ValueError(f"cannot write {str(final)!r}: there is no folder {str(final.parent)!r}")
    if final.is_dir():
        raise ValueError(f"cannot write {str(final)!r}: it is a folder; give the name of a file")
    _remove_leftovers(final)
    temporary = final.with_name(f".{final.stem}.{os.getpid()}-{secrets.token_hex(4)}.part{final.suffix}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(final)
        _sync(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically: `fill` gets it opened for binary writing.

    Raises:
        OSError: the disk is full or the file cannot be written; what was at `path` is still there.
    """
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            fill(file)
    except (OSError, RuntimeError) as error:  # torch.save turns a failed write into a RuntimeError
        raise _not_written(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically; see `write_bytes`."""
    write_bytes(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file atomically; see `write_bytes`."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def check_folder(out: Path, option: str = "--out") -> None:
    """Check that results can be written to a folder, before long work. The folder and its parents may be missing.

    Args:
        out: the folder.
        option: the option that names it, for the message.

    Raises:
        ValueError: `out` or a parent is a file, or cannot be written to.
    """
    if _is_there(out) and not out.is_dir():
        raise ValueError(f"{option} {out} is a file: expected a folder, or a free name")
    nearest = next(folder for folder in (out, *out.absolute().parents) if _is_there(folder))
    if not nearest.is_dir():
        raise ValueError(f"{option} {out}: {nearest} is a file, expected a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{option} {out}: no permission to write to {nearest}")


def check_output_file(path: Path, option: str) -> None:
    """Check that a file can be written, before long work.

    Args:
        path: the file.
        option: the option or argument that names it, for the message.

    Raises:
        ValueError: it is a folder, its folder is missing, or it cannot be written to.
    """
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder: expected the name of a file")
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{option} {path}: no permission to write to {path.parent}")


def check_new_file(path: Path, option: str, *, overwrite: bool) -> None:
    """Check that a file can be written and does not exist yet, before long work.

    Args:
        path: the file.
        option: the option or argument that names it, for the message.
        overwrite: whether an existing file may be replaced.

    Raises:
        ValueError: it exists and may not be replaced, or cannot be written; see `check_output_file`.
    """
    check_output_file(path, option)
    if not overwrite and os.path.lexists(path):
        raise ValueError(f"{option} {path} exists; --overwrite replaces it")


def printable(text: str) -> str:
    """Text for any file, picture or terminal: control characters and undecodable bytes of names as escapes.

    Control characters include line breaks, the escape character, and marks that reverse the direction of text.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def encodable(text: str) -> str:
    """Text that UTF-8 can encode: undecodable bytes of file names, which Python holds as surrogates, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def spreadsheet_text(text: str) -> str:
    """Text for a CSV cell that no spreadsheet takes for a formula: a leading apostrophe where it would.

    Numbers are unchanged. Control characters and undecodable bytes become escapes, as in `printable`.
    """
    is_formula = text.lstrip().startswith(_FORMULA) or text.startswith(("\t", "\r"))
    return f"'{printable(text)}" if is_formula and not _NUMBER.fullmatch(text) else printable(text)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # below a folder that cannot be searched
        return False


def _not_written(path: Path, error: Exception) -> OSError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    number = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EIO
    what = "the disk is full" if number in _FULL else str(error)
    before = "the previous file is intact" if path.exists() else "there was no previous file"
    return OSError(number, f"{path} could not be written: {what}; {before}")


def _remove_leftovers(final: Path) -> None:
    """Remove temporary files of this name that a killed process left behind more than ten minutes ago."""
    for old in final.parent.glob(f".{glob.escape(final.stem)}.*-*.part{glob.escape(final.suffix)}"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > _LEFTOVER_SECONDS:
                old.unlink()


def _sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk. Windows cannot sync a folder, and does not need it."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
