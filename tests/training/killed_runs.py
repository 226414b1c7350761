"""Interrupt a run repeatedly, and compare its end with that of an uninterrupted run.

Usage: python killed_runs.py FOLDER KILLS SIGNALS SEED: how often the run is killed with SIGKILL, and how often its
whole process group gets a signal to stop. The runs are forked from this process, so that a start costs no imports.
Evaluations are not at the ends of epochs, and measure attention on training items.
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
from torch_nonlocal._common.workers import STOP_SIGNALS

with suppress(ImportError):
    import torch.utils.tensorboard  # optional; imported once, as accelerate

STEPS = 50
STOPPED = 75


def start(folder, workers, die_in_write=0):
    """Fork a run. With `die_in_write` = n it kills itself in the middle of its n-th file write."""
    process = os.fork()
    if process:
        return process
    os.setsid()
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
        checkpoint_minutes=0.0, precise_bn=1, eval_every=5, attention_items=2,
    )  # fmt: skip
    try:
        result, _ = train(folder, config, model=network(), data=TinyClips(29))
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(STOPPED if result.status == "stopped" else 0)


def lines(folder):
    path = Path(folder) / "metrics.jsonl"
    return path.read_bytes().count(b'"kind": "train"') if path.exists() else 0


def interrupt(process, folder, moves, pause, number):
    """Wait for `moves` logged steps and `pause` seconds, then send a signal: SIGKILL to it, others to its group.

    Returns the exit code; None if the run ended before.
    """
    before = lines(folder)
    while lines(folder) < before + moves:
        if os.waitpid(process, os.WNOHANG)[0]:
            return None
        time.sleep(0.002)
    time.sleep(pause)
    (os.kill if number == signal.SIGKILL else os.killpg)(process, number)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def step(folder):
    return last(folder)["progress"]["step"] if (folder / "checkpoints" / "last.pt").exists() else 0


def main(folder, kills, signals, seed):
    draw = random.Random(seed)
    whole, broken = Path(folder) / "whole", Path(folder) / "broken"
    assert os.waitpid(start(whole, workers=0), 0)[1] == 0
    kinds = ["kill"] * (kills - kills // 3) + ["write"] * (kills // 3) + ["signal"] * signals
    draw.shuffle(kinds)
    killed = stopped = 0
    for kind in kinds:
        workers = draw.choice((0, 2))
        if kind == "write":
            process = start(broken, workers, die_in_write=draw.randint(1, 8))
            killed += os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
            continue
        number = signal.SIGKILL if kind == "kill" else draw.choice(STOP_SIGNALS)
        moves = draw.randint(0 if kind == "kill" else 1, 3)  # a run handles signals once it has begun
        before = step(broken)
        code = interrupt(start(broken, workers), broken, moves, draw.random() * 0.01, number)
        killed += code == -signal.SIGKILL
        stopped += code == STOPPED
        assert code in (-signal.SIGKILL, STOPPED), f"{kind} by {number} with {workers} workers: exit code {code}"
        assert step(broken) >= before + moves - 1, "a checkpoint of each step, and of the last one when stopped"
    print(f"killed {killed} times and stopped {stopped} times, at {step(broken)} of {STEPS} steps", flush=True)
    assert (killed, stopped) == (kills, signals)
    assert step(broken) < STEPS
    assert os.waitpid(start(broken, workers=1), 0)[1] == 0
    assert last(whole)["progress"]["step"] == STEPS
    assert same_state(last(whole), last(broken))
    best = [torch.load(one / "checkpoints" / "best.pt", weights_only=True) for one in (whole, broken)]
    assert same_state(best[0]["model"], best[1]["model"])


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
