"""The clips that could not be read, kept where every process can add to them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import NamedTuple

from torch_nonlocal.media.broken import BrokenVideoError


class Broken(NamedTuple):
    """A clip that could not be read: its path, in which way ("damaged", "audio only", ...) and what was said."""

    path: str
    kind: str
    reason: str


class BrokenClips:
    """A report of broken clips: a file of one JSON object a line, to which any process may add.

    The workers of a DataLoader, the processes of a distributed run and a run that was killed and started again all
    write to the same file; each line is written at once, so none is lost or mixed up. A clip that the file already
    names is not written again, but for two processes that meet it at the same moment.

    Args:
        path: the file; made when the first clip is reported, kept if it exists. None makes a temporary one, which goes
            with the process that made it.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is None:
            folder = tempfile.mkdtemp(prefix="torch-nonlocal-")
            weakref.finalize(self, _remove, folder, os.getpid())
        self.path = Path(folder, "broken.jsonl") if path is None else Path(path)
        self._held: set[tuple[str, str]] = set()
        self._seen = 0  # bytes of the file that _held knows

    def add(self, path: str | os.PathLike[str], error: Exception) -> None:
        """Reports a clip, unless the file already says that it is broken in this way."""
        kind = error.kind if isinstance(error, BrokenVideoError) else "unreadable"
        self._look()
        if (os.fspath(path), kind) in self._held:
            return
        line = json.dumps({"path": os.fspath(path), "kind": kind, "reason": str(error)}) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def entries(self) -> tuple[Broken, ...]:
        """The clips reported so far, each once, by path."""
        if not self.path.exists():
            return ()
        found: dict[str, Broken] = {}
        for line in self.path.read_bytes().splitlines():
            if entry := _entry(line):
                found.setdefault(entry.path, entry)
        return tuple(found[path] for path in sorted(found))

    def __len__(self) -> int:
        return len(self.entries())

    def _look(self) -> None:
        """Reads what was added since the last look, by any process: never the whole file for each of many clips."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._seen:  # another file of the same name
            self._held, self._seen = set(), 0
        if size == self._seen:
            return
        with self.path.open("rb") as file:
            file.seek(self._seen)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._seen += len(line)
                if entry := _entry(line):
                    self._held.add((entry.path, entry.kind))


def _entry(line: bytes) -> Broken | None:
    """None for what is no entry: the last line of a process killed on a full disk."""
    try:
        return Broken(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # not in a worker that was forked with a copy of the report
        shutil.rmtree(folder, ignore_errors=True)
