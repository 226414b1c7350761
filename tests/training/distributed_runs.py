"""Runs in two processes. Started by torchrun with --max-restarts=1: distributed_runs.py FOLDER.

Runs with DDP and with FSDP2; one that is interrupted; one whose second process kills itself once. TorchElastic then
restarts this script, which finds the other runs finished.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from tiny_training import TinyClips, network, plain_config, train

import torch_nonlocal as nl
from torch_nonlocal.distributed.processes import Processes

torch.set_num_threads(1)


reads = 0


def curves(folder):
    changed = {"ddp": {}, "fsdp2": {"shard": True}, "parts": {"accumulate": 2}}
    changed |= {"backbone": {"freeze_backbone": 1}, "fsdp2-backbone": {"freeze_backbone": 1, "shard": True}}
    for name, changes in changed.items():
        model = network("group", dropout=0.0)
        config = plain_config(clip_grad=0.5, ema=0.9, **changes)
        train(folder / name, config, model=model, data=TinyClips(), evaluate=None)
    frozen = nl.remove(network("batch", dropout=0.0))
    train(folder / "frozen", plain_config(freeze_bn=True, shard=True), model=frozen, evaluate=None)
    early = plain_config(steps=6, eval_every=1, patience=2)
    result, _ = train(folder / "early", early, model=network("group"), evaluate=lambda model: {"accuracy": 0.5})
    (folder / f"early-{os.environ['RANK']}").write_text(f"{result.status} {result.step} {result.best}")
    stopped = plain_config(steps=6, shard=True, checkpoint_minutes=0.0)
    train(folder / "stopped", stopped, model=network("group", dropout=0.0), data=TinyClips(on_read=stop_at_8))


def stop_at_8(index, clip):
    """Send SIGTERM to one of the two processes in the middle of its fourth step."""
    global reads
    reads += 1
    if reads == 8 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return clip


def elastic(folder):
    global reads
    reads = 0

    def die_once(index, clip):
        global reads
        reads += 1
        if reads == 7 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return clip

    config = plain_config(checkpoint_minutes=0.0)
    train(folder / "run", config, model=network("group", dropout=0.0), data=TinyClips(on_read=die_once))


if __name__ == "__main__":
    processes = Processes()
    assert processes.count == 2
    folder = Path(sys.argv[1])
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        curves(folder)
    elastic(folder)
    torch.distributed.destroy_process_group()
