"""Kill a run repeatedly with SIGKILL, and compare its end with that of an uninterrupted run.

Usage: python killed_runs.py FOLDER KILLS SEED. The runs are forked from this process, so that a start costs no imports.
"""

import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import accelerate  # noqa: F401 (imported once here instead of after each fork)
import torch
from tiny_training import TinyClips, last, network, plain_config, same_state, train

from torch_nonlocal._common import files

with suppress(ImportError):
    import torch.utils.tensorboard  # optional; imported once, as accelerate

STEPS = 36


def start(folder, workers, die_in_write=0):
    """Fork a run. With `die_in_write` = n it kills itself in the middle of its n-th file write."""
    process = os.fork()
    if process:
        return process
    torch.set_num_threads(1)
    real, writes = os.fsync, 0

    def fsync(handle):
        nonlocal writes
        writes += 1
        if writes == die_in_write:
            os.kill(os.getpid(), signal.SIGKILL)
        real(handle)

    files.os.fsync = fsync
    config = plain_config(
        steps=STEPS, accumulate=2, clip_grad=1.0, ema=0.9, schedule="cosine", warmup=0.1, workers=workers,
        checkpoint_minutes=0.0, precise_bn=1, eval_every=7,
    )  # fmt: skip
    try:
        train(folder, config, model=network(), data=TinyClips(29))
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def lines(folder):
    path = Path(folder) / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill(process, folder, moves, pause):
    """Wait for `moves` new log lines and `pause` seconds, then kill the run. False if it ended before."""
    before = lines(folder)
    while lines(folder) < before + moves:
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    time.sleep(pause)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def main(folder, kills, seed):
    draw = random.Random(seed)
    whole, broken = Path(folder) / "whole", Path(folder) / "broken"
    assert os.waitpid(start(whole, workers=0), 0)[1] == 0
    killed = 0
    for attempt in range(kills):
        workers = draw.choice((0, 0, 1, 2))
        if attempt % 3 == 1:
            process = start(broken, workers, die_in_write=draw.randint(1, 8))
            killed += os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        else:
            killed += kill(start(broken, workers), broken, draw.randint(0, 3), draw.random() * 0.01)
    state = last(broken)["progress"] if (broken / "checkpoints" / "last.pt").exists() else {"step": 0}
    print(f"killed {killed} times, at {state['step']} of {STEPS} steps", flush=True)
    assert killed == kills
    assert state["step"] < STEPS
    assert os.waitpid(start(broken, workers=1), 0)[1] == 0
    assert last(whole)["progress"]["step"] == STEPS
    assert same_state(last(whole), last(broken))
    best = [torch.load(one / "checkpoints" / "best.pt", weights_only=True) for one in (whole, broken)]
    assert same_state(best[0]["model"], best[1]["model"])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
