"""Attention that is causal over frames: prefixes of keys against a mask, time and extra memory in one run.

    python benchmarks/causal_frames.py
    python benchmarks/causal_frames.py --frames 16 --size 14 14 --width 256 --threads 1

The mask implementations are written plainly, as in video autoencoders: the N x N mask is built, and passed to a
softmax over the map or to `scaled_dot_product_attention`. Every contender runs in a process of its own; extra memory is
the peak above the inputs, which includes the output and the gradients. On a machine that other programs share, compare
the CPU time, that of all threads.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal import functional
from torch_nonlocal.benchmark.meter import measure


@dataclass(frozen=True)
class Case:
    """What to measure; `positions` are those of one frame."""

    frames: int
    positions: int
    width: int
    threads: int
    training: bool


def mask_of(case: Case) -> Tensor:
    """The additive mask (N, N), made frame by frame."""
    count = case.frames * case.positions
    mask_NN = torch.full((count, count), -torch.inf)
    for position in range(count):
        mask_NN[position, : (position // case.positions + 1) * case.positions] = 0
    return mask_NN


def masked_softmax(theta: Tensor, phi: Tensor, g: Tensor, case: Case) -> Tensor:
    """The definition: a map and a mask."""
    logits_BNN = torch.baddbmm(mask_of(case)[None], theta, phi.mT, alpha=case.width**-0.5)
    return torch.softmax(logits_BNN, -1) @ g


def masked_attention(theta: Tensor, phi: Tensor, g: Tensor, case: Case) -> Tensor:
    """PyTorch's attention with a mask."""
    query, key, value = (x[:, None] for x in (theta, phi, g))
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_of(case))[:, 0]


def prefixes(theta: Tensor, phi: Tensor, g: Tensor, case: Case) -> Tensor:
    """This package."""
    return functional.embedded_gaussian(theta, phi, g, scale=case.width**-0.5, frames=case.frames)


CONTENDERS: dict[str, Callable[[Tensor, Tensor, Tensor, Case], Tensor]] = {
    "mask, softmax": masked_softmax,
    "mask, scaled_dot_product_attention": masked_attention,
    "frames=T": prefixes,
}


def inputs_of(case: Case) -> list[Tensor]:
    """theta, phi and g, (1, N, D)."""
    generator = torch.Generator().manual_seed(0)
    size = (1, case.frames * case.positions, case.width)
    return [torch.randn(size, generator=generator).requires_grad_(case.training) for _ in range(3)]


def prepared(name: str, case: Case) -> Callable[[], Any]:
    """Return the work of a contender, after a small run in which libraries initialize."""
    torch.set_num_threads(case.threads)

    def work(case: Case) -> Callable[[], Any]:
        inputs = inputs_of(case)

        def forward() -> Tensor:
            return CONTENDERS[name](*inputs, case)

        return (lambda: torch.autograd.grad(forward().sum(), inputs)) if case.training else forward

    work(Case(2, 8, case.width, case.threads, case.training))()
    return work(case)


def largest_difference(name: str, case: Case) -> float:
    """The relative difference of a contender from the first, on 4 frames."""
    case = Case(4, case.positions, case.width, case.threads, False)
    inputs = inputs_of(case)
    expected = masked_softmax(*inputs, case)
    return float((CONTENDERS[name](*inputs, case) - expected).norm() / expected.norm())


def main() -> None:
    """Print one table for inference and one for a training step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--size", type=int, nargs=2, default=(24, 12), metavar=("H", "W"))
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    positions = options.size[0] * options.size[1]
    print(
        f"{options.frames} x {options.size[0]} x {options.size[1]} = {options.frames * positions:,} positions, ", end=""
    )
    print(f"width {options.width}, float32, {options.threads} threads, torch {torch.__version__}")
    for training in (False, True):
        case = Case(options.frames, positions, options.width, options.threads, training)
        what = "training step" if training else "inference"
        print(f"\n| {what} | time | CPU time | extra memory | difference |\n|---|---|---|---|---|")
        for name in CONTENDERS:
            cost = measure(prepared, name, case, repeats=options.repeats)
            difference = largest_difference(name, case)
            times = f"{cost.seconds:.2f} s | {cost.cpu_seconds:.2f} s"
            print(f"| {name} | {times} | {cost.extra_bytes / 1e6:,.0f} MB | {difference:.0e} |", flush=True)


if __name__ == "__main__":
    main()
