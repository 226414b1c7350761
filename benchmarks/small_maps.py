"""Blocks on small maps and batches, against plain implementations in the layouts of other projects.

    python benchmarks/small_maps.py
    python benchmarks/small_maps.py --form concatenation --rounds 40
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/small_maps.py

The peers below have the layers and the order of operations of their projects. Blocks of one cell alternate in one
process with one thread; times are medians of CPU time, memory is the peak of a first run above the memory before it, in
a fresh process. A ratio compares with the best peer of the cell: below 1, this library needs less.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.benchmark.meter import measure
from torch_nonlocal.layers import NonLocal2d, NonLocal3d

SHAPES = (
    (1, 64, 4, 7, 7),
    (1, 64, 14, 14),
    (8, 64, 8, 8),
    (8, 256, 4, 7, 7),
    (2, 512, 14, 14),
    (8, 2048, 7, 7),
    (32, 1024, 7, 7),
    (64, 512, 7, 7),
    (16, 1024, 14, 14),
    (4, 512, 8, 14, 14),
    (1, 512, 4, 28, 28),
)
FORMS = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")


class Peer(nn.Module):
    """Four 1x1 convolutions and a batch norm after the last."""

    def __init__(self, channels: int, dims: int, form: str) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        inner = channels // 2
        self.form, self.inner = form, inner
        self.theta, self.phi, self.g = (conv(channels, inner, 1) for _ in range(3))
        if form == "gaussian":
            self.theta = self.phi = nn.Identity()
        self.w_f = nn.Sequential(nn.Conv2d(2 * inner, 1, 1, bias=False), nn.ReLU())
        self.out, self.norm = conv(inner, channels, 1), {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](channels)

    def weights(self, theta: Tensor, phi: Tensor) -> Tensor:
        """Theta (B, N, D) and phi (B, D, N) -> (B, N, N)."""
        if self.form == "concatenation":
            count = theta.shape[1]
            one = theta.transpose(1, 2).unsqueeze(3).expand(-1, -1, -1, count)
            other = phi.unsqueeze(2).expand(-1, -1, count, -1)
            return self.w_f(torch.cat([one, other], 1)).squeeze(1) / count
        logits = torch.matmul(theta, phi)
        return logits / logits.shape[-1] if self.form == "dot_product" else torch.softmax(logits, -1)


class Matmul(Peer):
    """As AlexHex7's: views and permutations, products by `matmul`, one contiguous copy of y."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *size) -> the same shape."""
        batch = len(x)
        g = self.g(x).view(batch, self.inner, -1).permute(0, 2, 1)
        theta = self.theta(x).view(batch, x.shape[1] if self.form == "gaussian" else self.inner, -1)
        phi = self.phi(x).view(theta.shape)
        y = torch.matmul(self.weights(theta.permute(0, 2, 1), phi), g)
        y = y.permute(0, 2, 1).contiguous().view(batch, self.inner, *x.shape[2:])
        return self.norm(self.out(y)) + x


class Scaled(Peer):
    """As mmcv's: the logits are divided by the square root of the width; y is reshaped after a permutation."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *size) -> the same shape."""
        g = self.g(x).flatten(2).permute(0, 2, 1)
        theta, phi = self.theta(x).flatten(2).permute(0, 2, 1), self.phi(x).flatten(2)
        if self.form == "embedded_gaussian":
            logits = torch.matmul(theta, phi)
            logits /= self.inner**0.5
            weights = logits.softmax(-1)
        else:
            weights = self.weights(theta, phi)
        y = torch.matmul(weights, g).permute(0, 2, 1).contiguous().reshape(len(x), self.inner, *x.shape[2:])
        return x + self.norm(self.out(y))


class Batched(Peer):
    """As timm's: products by `bmm`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *size) -> the same shape."""
        theta = self.theta(x).flatten(2).permute(0, 2, 1)
        phi, g = self.phi(x).flatten(2), self.g(x).flatten(2).permute(0, 2, 1)
        y = torch.bmm(self.weights(theta, phi), g)
        y = y.permute(0, 2, 1).reshape(len(x), self.inner, *x.shape[2:])
        return self.norm(self.out(y)) + x


class Einsum(Peer):
    """As PySlowFast's: products by `einsum`, a scale before the softmax."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *size) -> the same shape."""
        theta, phi, g = (conv(x).flatten(2) for conv in (self.theta, self.phi, self.g))
        if self.form == "concatenation":
            weights = self.weights(theta.transpose(1, 2), phi)
        else:
            weights = torch.einsum("bct,bcp->btp", theta, phi)
            if self.form == "dot_product":
                weights = weights / weights.shape[2]
            else:
                weights = nn.functional.softmax(weights * self.inner**-0.5, dim=2)
        y = torch.einsum("btg,bcg->bct", weights, g).reshape(len(x), self.inner, *x.shape[2:])
        return x + self.norm(self.out(y))


PEERS: dict[str, type[Peer]] = {"AlexHex7": Matmul, "mmcv": Scaled, "timm": Batched, "PySlowFast": Einsum}


def prepare(name: str, form: str, shape: tuple[int, ...], training: bool) -> Callable[[], Any]:
    """A function that runs a block once: forward, or forward and backward in training."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dims = len(shape) - 2
    own: Any = {2: NonLocal2d, 3: NonLocal3d}[dims]
    block = own(shape[1], pairwise=form) if name == "ours" else PEERS[name](shape[1], dims, form)
    block.train(training)

    def run(x: Tensor) -> None:
        if training:
            block.zero_grad()
            block(x.requires_grad_()).sum().backward()
        else:
            with torch.inference_mode():
                block(x)

    run(torch.randn(min(shape[0], 2), shape[1], *(2,) * dims))  # libraries initialize at the first call
    nn.functional.conv2d(torch.randn(16, 64, 16, 16), torch.randn(64, 64, 1, 1))  # oneDNN too, in every process
    x = torch.randn(shape)
    return lambda: run(x)


def seconds(form: str, shape: tuple[int, ...], training: bool, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each block; rounds of all blocks alternate."""
    works = {name: prepare(name, form, shape, training) for name in ("ours", *PEERS)}
    times: dict[str, list[float]] = {name: [] for name in works}
    for index in range(rounds + 2):
        for name, work in works.items():
            start = time.process_time_ns()
            work()
            if index > 1:
                times[name].append((time.process_time_ns() - start) / 1e9)
    return {name: statistics.median(found) for name, found in times.items()}


def peaks(form: str, shape: tuple[int, ...], training: bool) -> dict[str, float]:
    """Peak memory of each block in MB."""
    return {
        name: measure(prepare, name, form, shape, training, repeats=0).extra_bytes / 1e6 for name in ("ours", *PEERS)
    }


def row(values: dict[str, float]) -> str:
    """Ours, the best peer with its name, and their ratio."""
    best = min(PEERS, key=lambda name: values[name])
    return f"{values['ours']:.3g} | {values[best]:.3g} ({best}) | {values['ours'] / max(values[best], 1e-9):.2f}"


def main() -> None:
    """Print a table row for each shape and mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=FORMS, default=FORMS[0])
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds of a cell")
    parser.add_argument("--shapes", nargs="*", help="sizes such as 8x64x8x8")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="measure memory too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shapes = [tuple(map(int, text.split("x"))) for text in args.shapes] if args.shapes else SHAPES
    print(f"torch {torch.__version__}, {args.form}, {torch.backends.cpu.get_cpu_capability()}\n")
    print("| input | mode | ours ms | best peer ms | ratio | ours MB | best peer MB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for shape in shapes:
        for training in (False, True):
            times = {name: 1e3 * found for name, found in seconds(args.form, shape, training, args.rounds).items()}
            memory = row(peaks(args.form, shape, training)) if args.memory else "| |"
            print(f"| {shape} | {'train' if training else 'infer'} | {row(times)} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
