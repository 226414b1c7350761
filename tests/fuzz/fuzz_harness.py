"""Run doors on files in child processes of their own, and hold the bounds: time, memory, one-line errors, no code."""

import faulthandler
import gc
import json
import os
import resource
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events of code that starts programs, reaches the network or changes files. Reading needs none of them.
_FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.putenv", "os.kill", "os.chmod", "os.chown",
    "os.link", "os.symlink", "os.mkfifo", "subprocess.", "pty.", "socket.", "urllib.", "ftplib.", "http.",
    "shutil.rmtree", "webbrowser.", "sys.setprofile", "sys.settrace",
)  # fmt: skip
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.utime")
_LONGEST_MESSAGE = 2000
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Bounds:
    """What a door may use on one file.

    Attributes:
        cpu_seconds: CPU time, user and system.
        megabytes: memory beyond that in use before, and beyond the size of the file.
        wall_seconds: all doors of a file together.
    """

    cpu_seconds: int = 10
    megabytes: int = 500
    wall_seconds: float = 120.0


@dataclass(frozen=True)
class Door:
    """A function that reads a file: called with the file and an empty folder, the only place where it may write.

    With `writes`, it may also write below the folder of the job, as resuming a run does.
    """

    name: str
    read: Callable[[Path, Path], object]
    writes: bool = False


@dataclass(frozen=True)
class Job:
    """A file below a folder, an empty folder to write to, and the doors; `tag` identifies the job to the caller."""

    path: Path
    folder: Path
    out: Path
    doors: tuple[Door, ...]
    tag: Any = None


@dataclass
class Report:
    """What became of a job.

    Attributes:
        problems: by the name of the door: the broken rule in one line.
        read: names of the doors that read the file.
        refused: messages of the doors that refused it.
        cpu_seconds: the most of any door.
        megabytes: the most of any door.
    """

    problems: dict[str, str] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    megabytes: float = 0.0


def run_jobs(jobs: Iterable[Job], *, bounds: Bounds | None = None, parallel: int = 2) -> Iterator[tuple[Job, Report]]:
    """Run each job in a forked process; yield them as they finish."""
    bounds, waiting, running = bounds or Bounds(), iter(jobs), selectors.DefaultSelector()
    try:
        while True:
            while len(running.get_map()) < parallel and (job := next(waiting, None)) is not None:
                child = _Child(job, bounds)
                running.register(child.pipe, selectors.EVENT_READ, child)
            children = [key.data for key in running.get_map().values()]
            if not children:
                return
            for key, _ in running.select(max(0.0, min(child.end for child in children) - time.monotonic())):
                key.data.receive()
            for child in children:
                if child.is_finished() or time.monotonic() > child.end:
                    running.unregister(child.pipe)
                    yield child.job, child.close()
    finally:
        for key in list(running.get_map().values()):
            running.unregister(key.fileobj)
            key.data.close()
        running.close()


class _Child:
    """A process that runs the doors of one job and reports on a pipe, one JSON value per line."""

    def __init__(self, job: Job, bounds: Bounds) -> None:
        self.job, self._bounds, self._received, self._closed = job, bounds, b"", False
        self.end = time.monotonic() + bounds.wall_seconds
        self.pipe, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self.pipe)
            _run(job, bounds, writing)  # never returns
        os.close(writing)

    def receive(self) -> None:
        part = os.read(self.pipe, 1 << 16)
        self._closed |= not part
        self._received += part

    def is_finished(self) -> bool:
        return self._closed

    def close(self) -> Report:
        """End the process if it still runs, and return its report."""
        if not self._closed:
            os.killpg(self._pid, signal.SIGKILL)
        os.close(self.pipe)
        status = os.waitpid(self._pid, 0)[1]
        report, current = Report(), "start"
        for line in self._received.decode(errors="replace").splitlines():
            event = json.loads(line)
            current = event["door"]
            if "outcome" in event:
                _add(report, event)
                current = ""
        if not self._closed:
            report.problems[current] = f"no answer after {self._bounds.wall_seconds:g} s"
        elif os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            used = f"more than {self._bounds.cpu_seconds} CPU seconds" if name == "SIGXCPU" else f"killed by {name}"
            report.problems[current] = used
        elif os.WEXITSTATUS(status) and current:
            report.problems.setdefault(current, f"exit code {os.WEXITSTATUS(status)}")
        return report


def _add(report: Report, event: dict[str, Any]) -> None:
    if event["outcome"] == "problem":
        report.problems[event["door"]] = event["message"]
    elif event["outcome"] == "refused":
        report.refused[event["door"]] = event["message"]
    else:
        report.read.append(event["door"])
    report.cpu_seconds = max(report.cpu_seconds, event.get("cpu", 0.0))
    report.megabytes = max(report.megabytes, event.get("megabytes", 0.0))


def _run(job: Job, bounds: Bounds, writing: int) -> None:
    code = 1
    try:
        gc.freeze()  # collections in this process skip what existed before
        faulthandler.disable()
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        peak = os.open("/proc/self/clear_refs", os.O_WRONLY)
        current = [Door("", lambda path, out: None)]

        def send(**event: Any) -> None:
            os.write(writing, json.dumps(event).encode() + b"\n")

        def forbidden(event: str) -> None:
            send(door=current[0].name, outcome="problem", message=f"does what no reader may do: {event}")
            os._exit(1)

        sys.dont_write_bytecode = True  # in a fresh clone, modules that are imported here first would be cached
        _watch(job, current, forbidden)
        for one in job.doors:
            current[0] = one
            send(door=one.name)
            send(door=one.name, **_measured(one, job, bounds, peak))
        code = 0
    except BaseException:
        os.write(
            writing, json.dumps({"door": "harness", "outcome": "problem", "message": traceback.format_exc()}).encode()
        )
    finally:
        os._exit(code)


def _watch(job: Job, current: list[Door], forbidden: Callable[[str], None]) -> None:
    """Report every action of this process that reading a file does not need."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        allowed = (str(job.out), os.devnull, *([str(job.folder)] if current[0].writes else []))
        if event == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & _WRITES and isinstance(path, str) and not path.startswith(allowed):
                forbidden(f"open({path!r}) for writing")
        elif event in _CHANGES:
            names = [os.fsdecode(one) for one in args if isinstance(one, str | bytes)]
            if not all(name.startswith(allowed) for name in names):
                forbidden(f"{event}{tuple(names)}")
        elif event.startswith(_FORBIDDEN) and event != "socket.gethostname" and (event, args[1:]) != ("os.kill", (0,)):
            forbidden(f"{event}{args!r:.200}")

    sys.addaudithook(hook)


def _measured(door: Door, job: Job, bounds: Bounds, peak: int) -> dict[str, Any]:
    gc.collect()
    before = _cpu()
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(before) + bounds.cpu_seconds + 1, hard))
    os.write(peak, b"5")  # VmHWM counts from now
    held = _memory("VmRSS")
    try:
        door.read(job.path, job.out)
        outcome, message = "read", ""
    except Exception as error:
        problem = problem_of(error, job.path)
        outcome, message = ("problem", problem) if problem else ("refused", str(error))
    megabytes, cpu = max(0.0, _memory("VmHWM") - held), _cpu() - before
    if outcome != "problem":
        allowed = bounds.megabytes + job.path.stat().st_size / _MEGABYTE
        if megabytes > allowed:
            outcome, message = "problem", f"takes {megabytes:.0f} MB, expected at most {allowed:.0f}: {message}"
        elif cpu > bounds.cpu_seconds:
            outcome, message = (
                "problem",
                f"takes {cpu:.1f} CPU seconds, expected at most {bounds.cpu_seconds}: {message}",
            )
    return {"outcome": outcome, "message": message, "cpu": cpu, "megabytes": megabytes}


def problem_of(error: Exception, path: Path) -> str:
    """The rule that an error of a door breaks; "" if it is an error as it should be.

    A file that cannot be read ends in a ValueError or OSError in one printable line that names the file or its folder.
    """
    text = str(error)
    kind = type(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    shown = f"{kind.__name__}: {text!r:.300} ({Path(where.filename).name}:{where.lineno})"
    if not isinstance(error, ValueError | OSError):
        return f"unexpected {shown}"
    if path.name not in text and path.parent.name not in text:
        return f"does not name the file: {shown}"
    if len(text.splitlines()) != 1:
        return f"more than one line: {shown}"
    if not text.isprintable():
        return f"control characters: {shown}"
    if "weights_only" in text:
        return f"advises to trust the file: {shown}"
    if len(text) > _LONGEST_MESSAGE:
        return f"{len(text)} characters: {shown}"
    return ""


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _memory(name: str) -> float:
    """A line of /proc/self/status in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 1024
