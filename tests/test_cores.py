"""Cores that a process may use and cores that are busy, read from files like those of Linux."""

import pytest

from torch_nonlocal._common import cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with cores 0 to 3, all of them usable; a test writes what its files hold."""
    monkeypatch.setattr(cores, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(cores, "_CGROUP", tmp_path)
    monkeypatch.setattr(cores, "_own_cores", lambda: {0, 1, 2, 3})
    return tmp_path


def stat(machine, *rows):
    """Write /proc/stat: user, system, idle and iowait ticks of each core; a row of None is a core that is offline."""
    lines = [f"cpu{i} {u} 0 {s} {idle} {io} 0 0 0 0 0" for i, (u, s, idle, io) in enumerate(rows)]
    (machine / "stat").write_text("\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *lines, "intr 5", "ctxt 7"]) + "\n")


def busy_between(machine, monkeypatch, before, after):
    stat(machine, *before)
    monkeypatch.setattr(cores.time, "sleep", lambda seconds: stat(machine, *after))
    return cores.busy_cores(0.5)


IDLE, WORK, HALF, DISK = (0, 0, 50, 0), (40, 10, 0, 0), (25, 0, 25, 0), (0, 0, 0, 50)


@pytest.mark.parametrize(
    ("rows", "busy"),
    [
        ((IDLE, IDLE, IDLE, IDLE), 0),
        ((IDLE, WORK, IDLE, IDLE), 1),
        ((HALF, IDLE, HALF, IDLE), 1),
        ((WORK, WORK, WORK, WORK), 4),
        ((DISK, DISK, DISK, DISK), 0),
        ((IDLE, IDLE, IDLE, IDLE, WORK, WORK), 0),  # cores 4 and 5 are not ours
    ],
)
def test_busy_cores_are_those_that_did_not_idle(machine, monkeypatch, rows, busy):
    before = [(1000, 10, 2000, 5)] * len(rows)
    after = [tuple(a + b for a, b in zip(one, row, strict=True)) for one, row in zip(before, rows, strict=True)]
    assert busy_between(machine, monkeypatch, before, after) == busy


def test_without_proc_stat_no_core_is_busy(machine, monkeypatch):
    monkeypatch.setattr(cores.time, "sleep", lambda seconds: None)
    assert cores.busy_cores(0.5) == 0


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "900000 100000\n"}, 4),
        ({"cpu.max": "unreadable"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_usable_cores_are_limited_by_the_quota_of_the_container(machine, files, usable):
    (machine / "cpu").mkdir()
    for name, text in files.items():
        (machine / name).write_text(text)
    assert cores.usable_cores() == usable
