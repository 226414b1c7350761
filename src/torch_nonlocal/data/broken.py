"""Report of clips that cannot be read, shared by all processes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import NamedTuple

from torch_nonlocal.data.clip_list import ClipList
from torch_nonlocal.media.broken import BrokenVideoError


class Broken(NamedTuple):
    """A clip that cannot be read: its path, the kind of problem ("damaged", "audio only", ...), the error message."""

    path: str
    kind: str
    reason: str


class BrokenClips:
    """Report of broken clips: a JSON Lines file that any process can append to.

    The workers of a DataLoader, the processes of a distributed run and a resumed run write to the same file. Each line
    is written in a single call, so lines are never lost or interleaved. A clip that the file already lists is not
    written again, except when two processes report it at the same moment.

    Args:
        path: the file; created with the first report and kept if it exists. None creates a temporary file, which is
            removed when the process that created it ends.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is None:
            folder = tempfile.mkdtemp(prefix="torch-nonlocal-")
            weakref.finalize(self, _remove, folder, os.getpid())
        self.path = Path(folder, "broken.jsonl") if path is None else Path(path)
        self._held: set[tuple[str, str]] = set()
        self._seen = 0  # bytes of the file that _held covers

    def add(self, path: str | os.PathLike[str], error: Exception) -> None:
        """Report a clip, unless the file already lists it with the same kind of problem."""
        kind = error.kind if isinstance(error, BrokenVideoError) else "unreadable"
        self._read_new_lines()
        if (os.fspath(path), kind) in self._held:
            return
        line = json.dumps({"path": os.fspath(path), "kind": kind, "reason": str(error)}) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def entries(self) -> tuple[Broken, ...]:
        """The clips reported so far, one entry per clip, sorted by path."""
        if not self.path.exists():
            return ()
        found: dict[str, Broken] = {}
        for line in self.path.read_bytes().splitlines():
            if entry := _entry(line):
                found.setdefault(entry.path, entry)
        return tuple(found[path] for path in sorted(found))

    def unreadable_classes(self, clips: ClipList) -> tuple[str, ...]:
        """Names of the classes none of whose clips could be read so far; classes without clips are not among them."""
        broken = {entry.path for entry in self.entries()}
        tried = {label for clip in clips.clips for label in clip.all_labels}
        good = {label for clip in clips.clips if os.fspath(clip.path) not in broken for label in clip.all_labels}
        return tuple(clips.classes[label] for label in sorted(tried - good))

    def __len__(self) -> int:
        return len(self.entries())

    def _read_new_lines(self) -> None:
        """Read only the lines that any process has appended since the last call."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._seen:  # a new file of the same name
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
    """The entry of a line; None for an incomplete line, such as that of a killed process."""
    try:
        return Broken(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # not in a forked worker, which has a copy of the report
        shutil.rmtree(folder, ignore_errors=True)
