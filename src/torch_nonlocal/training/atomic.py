"""Files that are there whole or not at all, whenever the machine stops."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from torch_nonlocal.training.errors import CheckpointError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file under another name, bring it to the disk, and only then give it its name.

    Raises:
        CheckpointError: the disk is full or the file cannot be written. What was at `path` is still there.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save turns a failed write into a RuntimeError
        partial.unlink(missing_ok=True)
        raise _not_written(path, error) from error


def write_torch(path: Path, content: dict[str, Any]) -> None:
    """A torch.save file, atomically; see `write`."""
    write(path, lambda file: torch.save(content, file))


def write_json(path: Path, content: Any) -> None:
    """A JSON file, atomically; see `write`."""
    text = json.dumps(content, indent=2) + "\n"
    write(path, lambda file: file.write(text.encode()))


def _not_written(path: Path, error: Exception) -> CheckpointError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    number = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EIO
    what = "the disk is full" if number in _FULL else str(error)
    before = "the one before it is intact" if path.exists() else "there was none before it"
    return CheckpointError(number, f"{path} could not be written: {what}; {before}")


def _sync_folder(folder: Path) -> None:
    """Bring the new name itself to the disk; Windows has no such call, and needs none."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
