"""Mutate files and open them by every door: `make fuzz`.

    python tests/fuzz/run_fuzz.py --cases 2000 --seed 0     mutate and open; exit code 1 if a rule is broken
    python tests/fuzz/run_fuzz.py --replay FOLDER           open the file of a failure again

Case N of a seed is the same file in every run. A file that breaks a rule is kept in a folder below --out, with
report.json: the seed, the number of the case, the mutations and what happened.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with threads cannot fork safely
sys.path.insert(0, str(Path(__file__).parent))

import torch
from fuzz_doors import OF_KIND, preload
from fuzz_formats import OF_FORMATS
from fuzz_harness import Job, Report, run_jobs
from fuzz_mutations import mutate
from fuzz_seeds import Seed, seeds

_REPORT = "report.json"
_WEIGHTS = {
    "tensors": 5,
    "trained": 1,
    "run": 2,
    "config": 1,
    "hub": 1,
    "list": 4,
    "video": 5,
    "picture": 1,
    "tracklets": 3,
    "gallery": 4,
}


class Case(NamedTuple):
    """A mutated file: where it came from and how."""

    seed: int
    number: int
    start: Seed
    data: bytes
    mutations: list[str]


def case(starts: Sequence[Seed], seed: int, number: int) -> Case:
    """The case of this seed and number."""
    rng = random.Random(f"{seed}-{number}")
    kind = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    start = rng.choice([one for one in starts if one.kind == kind])
    others = [one.data for one in starts if one.format == start.format]
    data, mutations = mutate(start.data, OF_FORMATS[start.format], others, rng)
    return Case(seed, number, start, data, mutations)


def lay_out(folder: Path, start: Seed, data: bytes) -> Path:
    """Write a file and those beside it below a folder; returns the file."""
    for name, content in {**start.beside, start.name: data}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / start.name


def fuzz(seed: int, numbers: Sequence[int], out: Path, *, parallel: int = 2) -> list[Path]:
    """Run cases; returns the folders of those that broke a rule, and prints a line for each and a summary."""
    starts = seeds()
    failures: list[Path] = []
    read, refused, used = Counter(), Counter(), [0.0, 0.0]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nonlocal-fuzz-") as work:

        def jobs() -> Iterator[Job]:
            for number in numbers:
                one = case(starts, seed, number)
                folder = Path(work, f"{number:06d}")
                path = lay_out(folder, one.start, one.data)
                output = Path(work, f"{number:06d}-out")
                output.mkdir()
                yield Job(path, folder, output, OF_KIND[one.start.kind], one)

        for job, report in run_jobs(jobs(), parallel=parallel):
            one: Case = job.tag
            read.update(report.read)
            refused.update(list(report.refused))
            used = [max(used[0], report.cpu_seconds), max(used[1], report.megabytes)]
            if report.problems:
                failures.append(_keep(out, one, job.folder, report))
                for door, problem in report.problems.items():
                    print(f"{failures[-1]} ({one.start.name}; {', '.join(one.mutations)}): {door}: {problem}")
            shutil.rmtree(job.folder)
            shutil.rmtree(job.out)
    print(
        f"{len(numbers)} files, {sum(read.values()) + sum(refused.values())} openings: {sum(read.values())} read, "
        f"{sum(refused.values())} refused, {len(failures)} files broke a rule; at most {used[0]:.1f} CPU seconds and "
        f"{used[1]:.0f} MB per opening; {time.monotonic() - began:.0f} s"
    )
    return failures


def _keep(out: Path, one: Case, folder: Path, report: Report) -> Path:
    kept = out / f"seed{one.seed}-case{one.number}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept / "files")
    facts = {"seed": one.seed, "case": one.number, "file": one.start.name, "kind": one.start.kind}
    facts |= {"mutations": one.mutations, "problems": report.problems, "refused": report.refused}
    (kept / _REPORT).write_text(json.dumps(facts, indent=1) + "\n")
    return kept


def replay(kept: Path) -> Report:
    """Open the file of a failure again by every door of its kind, and print what happens."""
    facts = json.loads((kept / _REPORT).read_text())
    with tempfile.TemporaryDirectory(prefix="nonlocal-fuzz-") as work:
        shutil.copytree(kept / "files", Path(work, "files"))
        output = Path(work, "out")
        output.mkdir()
        job = Job(Path(work, "files", facts["file"]), Path(work, "files"), output, OF_KIND[facts["kind"]])
        ((_, report),) = run_jobs([job])
    for door in OF_KIND[facts["kind"]]:
        outcome = report.problems.get(door.name) or report.refused.get(door.name, "read")
        print(f"{'BROKEN ' if door.name in report.problems else ''}{door.name}: {outcome}")
    return report


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--replay", type=Path, help="folder of a failure")
    options = parser.parse_args()
    torch.set_num_threads(1)
    preload()
    if options.replay:
        sys.exit(bool(replay(options.replay).problems))
    numbers = range(options.first, options.first + options.cases)
    failures = fuzz(options.seed, numbers, options.out, parallel=len(os.sched_getaffinity(0)))
    if failures:
        print(f"open one again: {sys.executable} {sys.argv[0]} --replay {failures[0]}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
