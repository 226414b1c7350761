"""CPU time of a whole network with five blocks: ours after `nl.optimize`, against PySlowFast's layout run as it is.

    python benchmarks/whole_network.py
    python benchmarks/whole_network.py --frames 32 --size 112 --rounds 5

Both are an I3D ResNet-50 with the same weights in the trunk. The peer has its blocks as PySlowFast writes them: pooling
before phi and g, einsum, a softmax map in memory. Ours has them inserted. Inference is of one clip, a training step of
two: forward, backward and an SGD update. Rounds alternate in one process with one thread; medians of CPU time count.
There is one process for the instructions of this CPU, and one in which oneDNN uses AVX2 only.
"""

import argparse
import copy
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

import torch_nonlocal as nl

INSTRUCTIONS = ("this CPU", "AVX2")


class SlowFastBlock(nn.Module):
    """The block of PySlowFast: softmax over a map in memory, pooled keys."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 2
        self.width = width
        self.conv_theta, self.conv_phi, self.conv_g = (nn.Conv3d(channels, width, 1) for _ in range(3))
        self.conv_out, self.bn = nn.Conv3d(width, channels, 1), nn.BatchNorm3d(channels)
        self.pool = nn.MaxPool3d((1, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x)
        theta, phi, g = (f(one).flatten(2) for f, one in zip(self._embeddings(), (x, pooled, pooled), strict=True))
        weights = (torch.einsum("bcn,bcm->bnm", theta, phi) * self.width**-0.5).softmax(dim=2)
        y = torch.einsum("bnm,bcm->bcn", weights, g).reshape(x.shape[0], self.width, *x.shape[2:])
        return x + self.bn(self.conv_out(y))

    def _embeddings(self) -> tuple[nn.Module, ...]:
        return self.conv_theta, self.conv_phi, self.conv_g


def networks(name: str, example: Tensor) -> tuple[nn.Module, nn.Module]:
    """The peer and ours, with the same trunk."""
    trunk = nl.create_model(name)
    ours = nl.insert(copy.deepcopy(trunk), "paper-5", example, subsample=2, pool_first=True, scale="sqrt")
    for place in nl.blocks(ours):
        stage, _, index = place.rpartition(".")
        parent: Any = trunk.get_submodule(stage)
        parent[int(index)] = nn.Sequential(parent[int(index)], SlowFastBlock(nl.blocks(ours)[place].channels))
    return trunk, ours


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """A training step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def work() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return work


def measure(given: argparse.Namespace) -> dict[str, list[float]]:
    """CPU seconds of each contender in each round."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(1, 3, given.frames, given.size, given.size)
    peer, ours = networks(given.network, x)
    optimized = copy.deepcopy(ours)
    print("  inference:", nl.optimize(optimized.eval(), x), file=sys.stderr)
    times: dict[str, list[float]] = {}
    runs = {"peer": peer.eval(), "ours": ours.eval(), "ours, optimized": optimized}
    with torch.no_grad():
        for _ in range(given.rounds):
            for name, model in runs.items():
                times.setdefault(f"inference: {name}", []).append(seconds(lambda model=model: model(x)))
    clips = torch.randn(2, *x.shape[1:])
    print("  training:", nl.optimize(optimized, clips, training=True), file=sys.stderr)
    steps = {name: step(model.train(), clips) for name, model in runs.items()}
    for _ in range(given.rounds):
        for name, work in steps.items():
            times.setdefault(f"training: {name}", []).append(seconds(work))
    return times


def main() -> None:
    """Measure with both sets of instructions and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="i3d_resnet50_8x8", help="trunk, a name of nl.list_models()")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip")
    parser.add_argument("--size", type=int, default=224, help="height and width")
    parser.add_argument("--rounds", type=int, default=5, help="rounds")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given)))
        return
    print("| instructions | run | CPU s | ratio to the peer |\n|---|---|---|---|")
    for instructions in INSTRUCTIONS:
        environment = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": "AVX2"} if instructions == "AVX2" else {})}
        command = [sys.executable, __file__, "--one", *sys.argv[1:]]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        medians = {name: statistics.median(one) for name, one in json.loads(done.stdout).items()}
        for name, value in medians.items():
            base = medians[f"{name.partition(':')[0]}: peer"]
            print(f"| {instructions} | {name} | {value:.3f} | {value / base:.2f} |", flush=True)


if __name__ == "__main__":
    main()
