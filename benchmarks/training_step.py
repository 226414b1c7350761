"""CPU seconds of a training step of the small network, against the 2D network on the same frames.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --batch 4 --threads 2

Networks: EfficientNet-Lite0 with all frames as one batch of images and scores averaged over time; the small network of
`nonlocal train action` with its two blocks; the same with 3D kernels, as in version 0.1. A step is forward, backward,
gradient norm and AdamW update as in the training loop, with frozen batch norms as in the recipe for laptops. Steps
of all networks and memory formats alternate in one process, and the medians count. There is one process for the
instructions of this CPU, and one in which oneDNN uses AVX2 only, as on CPUs without AVX-512. A ratio compares with the
faster memory format of the 2D network.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal.models.packaged import efficientnet_lite0
from torch_nonlocal.tasks.action.network import network
from torch_nonlocal.tasks.action.recipes import RECIPES
from torch_nonlocal.tasks.action.settings import ActionSettings
from torch_nonlocal.training.batch_norm import freeze_parameters, frozen_norms, train_mode
from torch_nonlocal.training.memory_format import batch_channels_last, convert_weights
from torch_nonlocal.training.optimizer import gradient_norm, make_optimizer

CLASSES, FRAMES, SIZE = 10, 8, 112
FORMATS = ("channels last", "contiguous")
INSTRUCTIONS = ("this CPU", "AVX2")


class ByFrame(nn.Module):
    """The 2D network on all frames of (B, 3, T, H, W), its scores averaged over time."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = efficientnet_lite0()
        self.net.classifier = nn.Linear(1280, CLASSES)

    def forward(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, CLASSES)."""
        scores = self.net(clip.transpose(1, 2).flatten(0, 1))
        return scores.unflatten(0, (len(clip), -1)).mean(1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "2D": ByFrame,
    "small": lambda: network(ActionSettings(), CLASSES),
    "3D kernels": lambda: network(ActionSettings(temporal="full"), CLASSES),
}


def stepper(make: Callable[[], nn.Module], memory_format: str, batch: int) -> Callable[[], float]:
    """A function that does a training step and returns its CPU seconds per clip."""
    torch.manual_seed(0)
    model, clips, labels = make(), torch.randn(batch, 3, FRAMES, SIZE, SIZE), torch.arange(batch) % CLASSES
    frozen = frozen_norms(model)
    freeze_parameters(frozen)
    if memory_format == "channels last":
        convert_weights(model, channels_last=True)
        clips = batch_channels_last(clips)
    optimizer = make_optimizer(model, RECIPES["laptop"].config)
    trained = [one for group in optimizer.param_groups for one in group["params"]]
    train_mode(model, frozen)

    def step() -> float:
        begin = time.process_time()
        F.cross_entropy(model(clips), labels).backward()
        gradient_norm(trained).item()
        optimizer.step()
        optimizer.zero_grad()
        return (time.process_time() - begin) / batch

    return step


def measure(batch: int, rounds: int, threads: int) -> None:
    """Print the medians of this process as JSON: {network: {memory format: seconds}}."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    steps = {(name, one): stepper(make, one, batch) for name, make in NETWORKS.items() for one in FORMATS}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for number in range(rounds + 1):  # the first warms up
        for key, step in steps.items():
            took = step()
            if number:
                seconds[key].append(took)
    medians = {name: {one: statistics.median(seconds[name, one]) for one in FORMATS} for name in NETWORKS}
    print(json.dumps(medians))


def main() -> None:
    """Start a process for each set of instructions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="clips in a step (default 8)")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each network (default 7)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default 1)")
    parser.add_argument("--measure", action="store_true", help="measure in this process and print JSON")
    given = parser.parse_args()
    if given.measure:
        measure(given.batch, given.rounds, given.threads)
        return
    own = [f"--{name}={getattr(given, name)}" for name in ("batch", "rounds", "threads")]
    print(f"{given.batch} clips of {FRAMES} x {SIZE} x {SIZE}, {given.threads} threads, CPU seconds per clip, medians")
    print(f"{'instructions':14}{'network':12}{'memory format':16}{'seconds':>8}{'ratio':>8}")
    for instructions in INSTRUCTIONS:
        limit = {} if instructions == "this CPU" else {"ONEDNN_MAX_CPU_ISA": instructions}
        environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads), **limit}
        command = [sys.executable, __file__, "--measure", *own]
        found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        medians = json.loads(found)
        base = min(medians["2D"].values())
        for name, by_format in medians.items():
            for one, seconds in by_format.items():
                row = f"{instructions:14}{name:12}{one:16}{seconds:8.3f}{seconds / base:8.2f}"
                print(row, flush=True)


if __name__ == "__main__":
    main()
