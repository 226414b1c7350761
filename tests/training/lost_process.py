"""A run in two processes, one of which kills itself. Started by torchrun: lost_process.py FOLDER RANK."""

import os
import signal
import sys
import time
from pathlib import Path

from tiny_training import TinyClips, network, plain_config, train

reads = 0


def die(index, clip):
    global reads
    reads += 1
    if reads == 7 and os.environ["RANK"] == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return clip


if __name__ == "__main__":
    config = plain_config(checkpoint_minutes=0.0, steps=30)
    try:
        train(Path(sys.argv[1]), config, model=network("group", dropout=0.0), data=TinyClips(on_read=die))
    except SystemExit:
        time.sleep(1)  # as on a busy machine: the launcher sends SIGTERM before the line is printed
        raise
