"""A lock on a folder that one process at a time may write to."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: folders are not locked
    fcntl = None

_open: set[IO[str]] = set()  # lock files that this process holds


class FolderInUseError(ValueError):
    """Another process holds the lock of a folder; the message says which, and since when."""


@contextmanager
def locked(path: Path, use: str) -> Iterator[None]:
    """Hold a lock file; its folder is created if missing.

    The operating system releases the lock when the process ends, however it ends, so a file that a killed process left
    behind does not lock anything. The file's content only tells others who holds the lock.

    Args:
        path: the lock file.
        use: what the folder is used for, for the message.

    Raises:
        FolderInUseError: another process, or another thread of this one, holds the lock.
        ValueError: something else has the name of the lock file, such as a symbolic link.
    """
    existed, process = path.parent.exists(), os.getpid()
    file = _acquire(path, use)
    _open.add(file)
    try:
        yield
    finally:
        if os.getpid() == process:
            _open.discard(file)
            path.unlink(missing_ok=True)  # before the lock ends: afterwards the file may be another process's
            file.close()
            if not existed:
                with suppress(OSError):  # not empty
                    path.parent.rmdir()


def _acquire(path: Path, use: str) -> IO[str]:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _open_regular(path)
        except (FileNotFoundError, FileExistsError):
            if os.path.lexists(path.parent) and not path.parent.is_dir():
                raise
            continue  # the holder before removed its new folder in the meantime
        try:
            if not _lock(file):
                raise FolderInUseError(
                    f"{path.parent} is in use by another {use}: {_holder(file)}. "
                    "Wait for its end, or use another folder"
                )
            if _is_same(file, path):
                me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
                with suppress(OSError):  # a full disk: the lock is held, others only learn less about the holder
                    file.truncate(0)
                    os.write(file.fileno(), f"{json.dumps(me)}\n".encode())
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # the holder before removed this file in the meantime


def _open_regular(path: Path) -> IO[str]:
    """Open or create the lock file. Links are not followed: a folder from a stranger could name any file by one."""
    safe = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe does not block
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | safe, 0o666)
    except OSError:
        if path.is_symlink() or path.is_dir():
            raise _not_regular(path) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_regular(path)
    return os.fdopen(handle, "a+")


def _not_regular(path: Path) -> ValueError:
    return ValueError(f"{path} is not a regular file: expected a lock file, or none; remove it if it is not needed")


def _lock(file: IO[str]) -> bool:
    """Lock an open file; False if another holds it. A file system without locks counts as free."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_same(file: IO[str], path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        held: dict[str, Any] = json.loads(file.read(1000))
        return f"process {int(held['pid'])} on {str(held['host'])[:200]!r}, since {str(held['since'])[:40]}"
    except (ValueError, KeyError, TypeError, OSError):
        return "a process that has just started"


def _forget_in_child() -> None:
    """A forked process must not keep its parent's locks alive after the parent's death."""
    while _open:
        _open.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
