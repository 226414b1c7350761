"""Attention to selected keys: this package against the N x M map, time and extra memory in one run.

    python benchmarks/selected_keys.py
    python benchmarks/selected_keys.py --positions 784 --width 64 --threads 2

Every contender runs in a process of its own; extra memory is the peak above the inputs, which includes the output and
the gradients. On a machine that other programs share, compare the CPU time, that of all threads.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gumbel_softmax

from torch_nonlocal import functional
from torch_nonlocal.benchmark.meter import measure


@dataclass(frozen=True)
class Case:
    """What to measure."""

    positions: int
    width: int
    threads: int
    training: bool


def plain_hard(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """Hard attention with the map, by PyTorch's function."""
    return gumbel_softmax(theta @ phi.mT, tau=0.5, hard=True) @ g


CONTENDERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "soft, the map": lambda *x: functional.embedded_gaussian(*x, algorithm="dense"),
    "soft": functional.embedded_gaussian,
    "top_k=16, the map": lambda *x: functional.embedded_gaussian(*x, top_k=16, algorithm="dense"),
    "top_k=16": lambda *x: functional.embedded_gaussian(*x, top_k=16),
    "top_k=64": lambda *x: functional.embedded_gaussian(*x, top_k=64),
    "F.gumbel_softmax(hard=True)": plain_hard,
    'hard="gumbel"': lambda *x: functional.embedded_gaussian(*x, hard="gumbel", temperature=0.5),
    "hard=True": lambda *x: functional.embedded_gaussian(*x, hard=True, temperature=0.5),
    "64 shared keys (regions=64)": lambda t, p, g: functional.embedded_gaussian(t, p[:, :64], g[:, :64]),
}


def prepared(name: str, case: Case) -> Callable[[], Any]:
    """Return the work of a contender, after a small run in which libraries initialize."""
    torch.set_num_threads(case.threads)

    def work(positions: int) -> Callable[[], Any]:
        size = (1, positions, case.width)
        inputs = [torch.randn(size).mul_(case.width**-0.25).requires_grad_(case.training) for _ in range(3)]

        def forward() -> Tensor:
            return CONTENDERS[name](*inputs)

        return (lambda: torch.autograd.grad(forward().sum(), inputs)) if case.training else forward

    work(80)()
    return work(case.positions)


def main() -> None:
    """Print one table for inference and one for a training step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=3136)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.positions:,} positions, width {options.width}, float32, {options.threads} threads, ", end="")
    print(f"torch {torch.__version__}")
    for training in (False, True):
        case = Case(options.positions, options.width, options.threads, training)
        what = "training step" if training else "inference"
        print(f"\n| {what} | time | CPU time | extra memory |\n|---|---|---|---|")
        for name in CONTENDERS:
            cost = measure(prepared, name, case, repeats=options.repeats)
            times = f"{cost.seconds:.3f} s | {cost.cpu_seconds:.3f} s"
            print(f"| {name} | {times} | {cost.extra_bytes / 1e6:,.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
