"""The fuzzer finds what it looks for, and the same cases come from the same seed."""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the fuzzer measures memory by /proc", allow_module_level=True)
pytest.importorskip("av")
pytest.importorskip("accelerate")
pytest.importorskip("huggingface_hub")
pytest.importorskip("faiss")
pytest.importorskip("pyarrow")
import run_fuzz
from fuzz_doors import OF_KIND, command
from fuzz_formats import OF_FORMATS
from fuzz_harness import Bounds, Door, Job, Report, run_jobs
from fuzz_mutations import mutate

TIGHT = Bounds(cpu_seconds=1, megabytes=100, wall_seconds=20.0)


@pytest.fixture(scope="module")
def starts() -> list[run_fuzz.Seed]:
    return run_fuzz.seeds()


def opened(tmp_path: Path, read, bounds: Bounds = TIGHT, *, writes: bool = False) -> Report:
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    path = folder / "file.bin"
    path.write_bytes(b"content")
    ((_, report),) = run_jobs([Job(path, folder, out, (Door("door", read, writes),))], bounds=bounds)
    return report


def raises(error: Exception):
    def read(path: Path, out: Path) -> None:
        raise error

    return read


def spins(path: Path, out: Path) -> None:
    while True:
        pass


def allocates(path: Path, out: Path) -> None:
    assert len(bytearray(os.urandom(1)) * 300_000_000) > 0


BROKEN = {
    "another exception": (raises(TypeError("file.bin")), "unexpected TypeError"),
    "a recursion error": (raises(RecursionError("file.bin")), "unexpected RecursionError"),
    "no name of the file": (raises(ValueError("cannot be read")), "does not name the file"),
    "several lines": (raises(ValueError("file.bin\nis broken")), "more than one line"),
    "control characters": (raises(ValueError("file.bin \x1b[31m")), "control characters"),
    "torch's advice": (raises(ValueError("file.bin: use weights_only=False")), "advises to trust"),
    "a long message": (raises(ValueError("file.bin" * 1000)), "8000 characters"),
    "a shell command": (lambda path, out: os.system("true"), "does what no reader may do: os.system"),
    "a program": (lambda path, out: subprocess.run(["true"]), "does what no reader may do: subprocess.Popen"),
    "a file beside": (lambda path, out: path.with_name("new").write_text(""), "for writing"),
    "a removed file": (lambda path, out: path.unlink(), "os.remove"),
    "CPU time": (spins, "more than 1 CPU seconds"),
    "memory": (allocates, "takes [0-9]+ MB, expected at most 100"),
    "a crash": (lambda path, out: os.abort(), "killed by SIGABRT"),
    "an exit": (lambda path, out: os._exit(3), "exit code 3"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rules_are_reported(name: str, tmp_path: Path) -> None:
    read, message = BROKEN[name]
    report = opened(tmp_path, read)
    assert list(report.problems) == ["door"]
    assert re.search(message, report.problems["door"])


def test_a_door_that_never_answers_is_ended(tmp_path: Path) -> None:
    report = opened(tmp_path, lambda path, out: time.sleep(600), Bounds(wall_seconds=0.5))
    assert report.problems == {"door": "no answer after 0.5 s"}


def test_errors_as_they_should_be_and_allowed_writes_are_no_problem(tmp_path: Path) -> None:
    report = opened(tmp_path, raises(ValueError("file.bin is truncated")))
    assert (report.problems, report.refused) == ({}, {"door": "file.bin is truncated"})
    for name, writes in (("out", False), ("folder", True)):
        case = tmp_path / f"writes to {name}"
        case.mkdir()
        report = opened(case, lambda path, out, to=name: path.parents[1].joinpath(to, "new").touch(), writes=writes)
        assert report.read == ["door"]


def test_a_command_is_judged_by_what_it_prints(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no weights file at missing\.pth$"):
        command("convert", "missing.pth", str(tmp_path / "out.pt"))


def test_cases_depend_on_seed_and_number_alone(starts) -> None:
    one, same, other = (run_fuzz.case(starts, seed, 7) for seed in (1, 1, 2))
    assert (one.data, one.mutations, one.start.name) == (same.data, same.mutations, same.start.name)
    assert one.data != other.data
    assert all(case.data != case.start.data for case in (run_fuzz.case(starts, 0, number) for number in range(50)))


def test_every_seed_is_read_unless_hostile_and_every_kind_has_doors(starts, tmp_path: Path) -> None:
    assert {start.kind for start in starts} == set(OF_KIND) == set(run_fuzz._WEIGHTS)
    run_fuzz.preload()
    jobs = []
    for number, start in enumerate(starts):
        out = tmp_path / f"{number}-out"
        out.mkdir()
        path = run_fuzz.lay_out(tmp_path / str(number), start, start.data)
        jobs.append(Job(path, tmp_path / str(number), out, OF_KIND[start.kind], start))
    hostile = {"call.pth", "call.pkl", "itself.pth", "shared.pth", "shared.pkl", "hub/config.json"}
    for job, report in run_jobs(jobs):
        assert not report.problems, job.tag.name
        assert report.read or job.tag.name in hostile, (job.tag.name, report.refused)


@pytest.mark.parametrize("name", OF_FORMATS)
def test_mutations_of_structure_apply_to_the_files_of_their_format(name: str, starts) -> None:
    data = next(start.data for start in starts if start.format == name)
    for mutation in OF_FORMATS[name]:
        assert any(mutation(data, random.Random(number)) != data for number in range(5)), mutation
    assert mutate(data, OF_FORMATS[name], [], random.Random(0))[0] != data


def test_a_failure_is_kept_and_can_be_opened_again(starts, tmp_path: Path, monkeypatch, capsys) -> None:
    number = next(n for n in range(100) if run_fuzz.case(starts, 0, n).start.kind == "list")
    monkeypatch.setitem(OF_KIND, "list", (Door("door", raises(KeyError("x"))),))
    (kept,) = run_fuzz.fuzz(0, [number], tmp_path)
    assert kept == tmp_path / f"seed0-case{number}"
    case = run_fuzz.case(starts, 0, number)
    assert (kept / "files" / case.start.name).read_bytes() == case.data
    assert "unexpected KeyError" in run_fuzz.replay(kept).problems["door"]
    assert "BROKEN door: unexpected KeyError" in capsys.readouterr().out
    monkeypatch.setitem(OF_KIND, "list", (Door("door", lambda path, out: None),))
    assert run_fuzz.replay(kept).read == ["door"]
