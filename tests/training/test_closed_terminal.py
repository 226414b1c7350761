"""A run whose terminal is closed, or whose output nobody reads any more, stops with a checkpoint or goes on."""

import os
import signal
import sys
import time

import pytest
from tiny_training import TinyClips, last, plain_config, same_state, train

pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")

STOPPED = 75


def slow_clips():
    return TinyClips(on_read=lambda index, clip: (time.sleep(0.003), clip)[1])


def run(folder, config):
    """Train, printing to file descriptors 1 and 2; exit as a command does."""
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    try:
        result, _ = train(folder, config, data=slow_clips(), log=None)
        os._exit(STOPPED if result.status == "stopped" else 0)
    finally:
        os._exit(1)


def wait_for_lines(folder, descriptor, count=3):
    """Read the output until so many lines are logged."""
    path, deadline = folder / "metrics.jsonl", time.monotonic() + 60
    os.set_blocking(descriptor, False)
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline
        try:
            os.read(descriptor, 10_000)
        except BlockingIOError:
            time.sleep(0.01)


@pytest.mark.parametrize("workers", [0, 2])
def test_closing_the_terminal_stops_with_a_checkpoint(tmp_path, workers):
    config = plain_config(epochs=8, workers=workers, eval_every=4)
    child, terminal = pty.fork()
    if not child:
        run(tmp_path / "closed", config)
    wait_for_lines(tmp_path / "closed", terminal)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == STOPPED
    assert 3 <= last(tmp_path / "closed")["progress"]["step"] < 24
    train(tmp_path / "closed", config)
    train(tmp_path / "whole", config)
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "closed"))


def test_closed_pipe_does_not_end_a_run(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python does at its start
        run(tmp_path, plain_config(epochs=8))
    os.close(writer)
    wait_for_lines(tmp_path, reader)
    os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert last(tmp_path)["progress"]["finished"]
