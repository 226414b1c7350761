"""CPU seconds of a training step of the small network while another process keeps one core busy.

    python benchmarks/busy_machine.py
    python benchmarks/busy_machine.py --rounds 5 --batch 8

Each measurement is a process of its own that does the step of benchmarks/training_step.py, without other work and
beside a process that computes on one core without pause. "torch" has torch's defaults; "waiting passively" only lets
threads sleep while they wait; "command line" does what `nonlocal train` does at its start: passive waiting, and as many
threads as cores are free. The measurements alternate, and the medians count. The last column compares with the first
row. Environment variables such as OMP_NUM_THREADS are removed. The machine should have no other work; the number of
cores that are busy before the first measurement is printed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch_nonlocal._common.cores import busy_cores, usable_cores
from torch_nonlocal.cli.threads import use_free_cores, wait_passively

WAYS = ("torch", "waiting passively", "command line")
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@contextmanager
def other_work(*, on: bool) -> Iterator[None]:
    """Context in which another process keeps a core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if on else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def measure(way: str, batch: int, steps: int) -> None:
    """Print the threads of this process, and CPU seconds and seconds a clip, as JSON."""
    if way != "torch":
        wait_passively()
    if way == "command line":
        use_free_cores(lambda line: None, seconds=0.5)
    import torch  # only now: it reads the environment

    from training_step import NETWORKS, stepper

    torch.set_flush_denormal(True)
    step = stepper(NETWORKS["small"], "channels last", batch)
    step()
    begin = time.monotonic()
    taken = [step() for _ in range(steps)]
    seconds = (time.monotonic() - begin) / steps / batch
    print(json.dumps([torch.get_num_threads(), statistics.fmean(taken), seconds]))


def main() -> None:
    """Start the processes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4, help="clips in a step (default 4)")
    parser.add_argument("--steps", type=int, default=4, help="steps of a measurement (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind (default 3)")
    parser.add_argument("--measure", choices=WAYS, help="measure in this process and print JSON")
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.batch, given.steps)
        return
    environment = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    own = [f"--batch={given.batch}", f"--steps={given.steps}"]
    print(f"{usable_cores()} cores, {busy_cores(2.0)} of them busy with work that this benchmark did not start")
    found: dict[tuple[str, bool], list[list[float]]] = {(way, busy): [] for way in WAYS for busy in (False, True)}
    for _ in range(given.rounds):
        for (way, busy), rows in found.items():
            with other_work(on=busy):
                command = [sys.executable, __file__, f"--measure={way}", *own]
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout))
    print(f"{'threads':20}{'other work':12}{'number':>8}{'CPU s/clip':>12}{'s/clip':>8}{'ratio':>8}")
    medians = {key: [statistics.median(column) for column in zip(*rows, strict=True)] for key, rows in found.items()}
    base = medians["torch", False][1]
    for (way, busy), (number, cpu, wall) in medians.items():
        other = "one core" if busy else "none"
        print(f"{way:20}{other:12}{number:8.0f}{cpu:12.3f}{wall:8.2f}{cpu / base:8.2f}")


if __name__ == "__main__":
    main()
