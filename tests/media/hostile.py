"""Hostile files for tests: pictures that claim many pixels, and the memory of reading a file."""

import functools
import json
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import IO


def huge_png(path: Path, height: int, width: int) -> Path:
    """A black PNG of any size. It is valid up to 2**25 pixels; the rows of larger ones end early."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(1), bytes(1 + 3 * width)
    data = b"".join(packer.compress(row) for _ in range(min(height, 2**25 // width))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


# A server, which imports everything once, and a forked process for each measurement.
MEASURE = """
import json, os, resource, sys, time
import av, numpy, torch, PIL.Image
from pathlib import Path
from torch_nonlocal.data.check import inspect_video
from torch_nonlocal.media import read_clip
from torch_nonlocal.tasks.viewing import read_frames
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

def measure(path, *calls):
    path = Path(path)
    before, start, results = peak(), time.process_time(), []
    for call in calls:
        try:
            results.append(str(eval(call, globals(), {"path": path})))
        except ValueError as error:
            results.append(f"{type(error).__name__}: {error}")
    print(json.dumps([results, peak() - before, time.process_time() - start]), flush=True)

for line in sys.stdin:
    child = os.fork()
    if not child:
        measure(*json.loads(line))
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
"""


@functools.cache
def server() -> tuple[subprocess.Popen[str], IO[str]]:
    """The server, and the file of its standard error."""
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
    return subprocess.Popen([sys.executable, "-c", MEASURE], text=True, **pipes), errors


def cost(path: Path, *calls: str) -> tuple[list[str], float, float]:
    """Run expressions of `path` in a fresh process.

    Returns:
        Their results or ValueErrors, the extra peak memory in MiB, and the CPU seconds.
    """
    process, errors = server()
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps([str(path), *calls]) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    errors.seek(0)
    assert errors.read() == ""
    results, mebibytes, seconds = json.loads(answer)
    return results, mebibytes, seconds
