"""Accuracy on matching glyphs with blocks, compared with networks without attention: the table of docs/matching.md.

    python benchmarks/matching.py --out bench-out/matching.jsonl
    python benchmarks/matching.py --out docs/matching.jsonl --markdown docs/matching.md   # rewrite the page's table

Every network is trained with the same options, on the same clips for the same seed, and tested on glyphs that training
does not use. A finished run is one JSON line in the output file; rerunning the command skips finished runs. The default
is one thread: the results then do not depend on the number of cores.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from evidence import Row, blocks_at, parameters, read, write_table
from torch_nonlocal import insert
from torch_nonlocal.benchmark.report import machine
from torch_nonlocal.data.matching_glyphs import GLYPH_SIZE, IGNORED, MatchingGlyphs

CHANNELS = 32
GLYPHS, SIZE = 12, 20
ONE_CLIP = (1, 1, 2, SIZE, SIZE)
STEPS, BATCH = 2000, 32
LEARNING_RATE, WEIGHT_DECAY = 6e-3, 0.01
TEST_SEED = 1_000_003
HEADER = ("network", "accuracy", "deviation", "of each seed", "loss at the end", "parameters", "MFLOPs", "CPU s")

ROWS: dict[str, Row] = {
    "none": Row("no block", {}),
    "embedded_gaussian": Row("one block, the default: embedded gaussian", blocks_at("conv2")),
    "gaussian": Row("gaussian", blocks_at("conv2", pairwise="gaussian")),
    "dot_product": Row("dot product", blocks_at("conv2", pairwise="dot_product")),
    "space": Row("space", blocks_at("conv2", attend="space")),
    "time": Row("time", blocks_at("conv2", attend="time")),
    "channel": Row("channels", blocks_at("conv2", attend="channel")),
    "gcnet": Row("GCNet: global context", blocks_at("conv2", block="gcnet")),
    "se": Row("SE: channel gates from the average", blocks_at("conv2", block="se")),
    "wide": Row("no block, wider head (191), parameters as with one block", {"hidden": 191}),
    "narrow": Row("no block, dilated 1, 1, 2 in 6 channels, FLOPs as with one block", {"context": "narrow"}),
    "dilated": Row("no block, three more 3x3x3 convolutions, dilated 1, 1, 2", {"context": "dilated"}),
    "large": Row("no block, one more 3x9x9 convolution, factorized by axes", {"context": "large"}),
    "average": Row("no block, the average over the clip concatenated to every position", {"context": "average"}),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "with and without": ("none", "embedded_gaussian"),
    "the pairwise form": ("embedded_gaussian", "gaussian", "dot_product"),
    "what a block attends to": ("space", "time", "channel", "embedded_gaussian"),
    "relatives without weights for each query": ("gcnet", "se", "embedded_gaussian"),
    "controls": ("wide", "narrow", "dilated", "large", "average", "embedded_gaussian"),
}


class MatchingNet(nn.Module):
    """A network whose positions see one cell of one frame: (B, 1, 2, H, W) -> logits (B, 2, 2, H / 4, W / 4).

    A second input channel holds the time, 0 or 1, so a position knows its frame.

    | module  | kernel | stride  | output for (1, 2, 20, 20) |
    |---------|--------|---------|---------------------------|
    | stem    | 1x4x4  | 1, 4, 4 | 32, 2, 5, 5               |
    | conv2   | 1x1x1  | 1       | 32, 2, 5, 5               |
    | context | none, or layers that see the whole clip           |
    | head    | 1x1x1 twice | 1  | 2, 2, 5, 5                |

    Args:
        hidden: width of the head.
        context: layers between conv2 and the head.
        features: number of channels of the context's output.
    """

    def __init__(self, hidden: int, context: nn.Module, features: int) -> None:
        super().__init__()
        cell = (1, GLYPH_SIZE, GLYPH_SIZE)
        self.stem = nn.Sequential(nn.Conv3d(2, CHANNELS, cell, cell), nn.BatchNorm3d(CHANNELS), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv3d(CHANNELS, CHANNELS, 1), nn.BatchNorm3d(CHANNELS), nn.ReLU())
        self.context = context
        self.head = nn.Sequential(nn.Conv3d(features, hidden, 1), nn.ReLU(), nn.Conv3d(hidden, 2, 1))

    def forward(self, clips: Tensor) -> Tensor:
        time_ = torch.linspace(0, 1, clips.shape[2]).view(1, 1, -1, 1, 1).expand_as(clips)
        return self.head(self.context(self.conv2(self.stem(torch.cat((clips, time_), dim=1)))))


class Residual(nn.Module):
    """Residual convolutions, x + ReLU(norm(convolutions(x)))."""

    def __init__(self, *convolutions: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*convolutions, nn.BatchNorm3d(CHANNELS), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class WithAverage(nn.Module):
    """The average over all positions, concatenated to every position: (B, C, ...) -> (B, 2C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, x.mean(dim=(2, 3, 4), keepdim=True).expand_as(x)), dim=1)


def dilated(channels: int, dilation: int) -> nn.Conv3d:
    """A 3x3x3 convolution, dilated in space, with the same size of output."""
    return nn.Conv3d(channels, channels, 3, padding=(1, dilation, dilation), dilation=(1, dilation, dilation))


def context_of(name: str | None) -> nn.Module:
    """The context of a control; all convolutional contexts see the whole clip at every position."""
    if name is None:
        return nn.Identity()
    if name == "average":
        return WithAverage()
    if name == "dilated":
        return nn.Sequential(*(Residual(dilated(CHANNELS, dilation)) for dilation in (1, 1, 2)))
    if name == "narrow":
        inner = [layer for dilation in (1, 1, 2) for layer in (dilated(6, dilation), nn.ReLU())]
        return Residual(nn.Conv3d(CHANNELS, 6, 1), nn.ReLU(), *inner, nn.Conv3d(6, CHANNELS, 1))
    if name == "large":
        along = [((3, 1, 1), (1, 0, 0)), ((1, 9, 1), (0, 4, 0)), ((1, 1, 9), (0, 0, 4))]
        return Residual(*(nn.Conv3d(CHANNELS, CHANNELS, kernel, padding=padding) for kernel, padding in along))
    raise ValueError(f"context: got {name!r}, expected average, dilated, narrow, large or None")


def build(
    *, at: Sequence[str] = (), block: dict[str, Any] | None = None, hidden: int = 128, context: str | None = None
) -> nn.Module:
    """The network with blocks, or with other layers as a control.

    Args:
        at: places of the blocks.
        block: options of the blocks.
        hidden: width of the head.
        context: see `context_of`.
    """
    net = MatchingNet(hidden, context_of(context), 2 * CHANNELS if context == "average" else CHANNELS)
    if at:
        insert(net, at=list(at), example_input=torch.zeros(ONE_CLIP), **(block or {}))
    return net


def flops(net: nn.Module) -> int:
    """FLOPs of one clip's forward pass, two per multiply-add; pointwise operations are not counted."""
    net.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(ONE_CLIP))
    return counter.get_total_flops()


def train(net: nn.Module, *, steps: int, seed: int) -> list[float]:
    """Train with AdamW on a one-cycle schedule, on new clips in every step; return the loss of every step."""
    data = MatchingGlyphs("train", glyphs=GLYPHS, size=SIZE)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, cycle_momentum=False)
    losses = []
    net.train()
    for _ in range(steps):
        batch = data.batch(BATCH, generator)
        loss = F.cross_entropy(net(batch.clips), batch.labels, ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def accuracy(net: nn.Module, clips: int) -> float:
    """Share of correctly classified glyphs of new clips with the glyphs of the test split; chance is 0.5."""
    net.eval()
    batch = MatchingGlyphs("test", glyphs=GLYPHS, size=SIZE).batch(clips, torch.Generator().manual_seed(TEST_SEED))
    right = net(batch.clips).argmax(dim=1) == batch.labels
    return right[batch.labels != IGNORED].float().mean().item()


def run(name: str, seed: int, steps: int, clips: int) -> dict[str, Any]:
    """Train and test one network of `ROWS`; return the results as plain JSON values."""
    torch.manual_seed(seed)  # before building: equal stages of two networks get equal initial weights
    net = build(**ROWS[name].configuration)
    began = time.process_time()
    losses = train(net, steps=steps, seed=seed)
    seconds = time.process_time() - began
    return {
        "name": name,
        "configuration": ROWS[name].configuration,
        "seed": seed,
        "steps": steps,
        "batch": BATCH,
        "clips": clips,
        "accuracy": round(accuracy(net, clips), 5),
        "loss": round(statistics.mean(losses[-50:]), 5),
        "parameters": parameters(net),
        "flops": flops(net),
        "cpu_seconds": round(seconds, 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": machine(),
    }


def finished(
    records: Iterable[dict[str, Any]], name: str, seeds: Sequence[int], steps: int, clips: int
) -> list[dict[str, Any]]:
    """The finished runs of one network with these seeds, steps and clips, in the order of the seeds."""
    wanted = (ROWS[name].configuration, steps, clips)
    found = {
        record["seed"]: record
        for record in records
        if (record["configuration"], record["steps"], record["clips"]) == wanted
    }
    return [found[seed] for seed in seeds if seed in found]


def table(records: Sequence[dict[str, Any]], seeds: Sequence[int], steps: int, clips: int) -> str:
    """A Markdown table of the runs by group; a row with fewer runs than seeds gives their number."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---|" + "---:|" * (len(HEADER) - 1)]
    for title, names in GROUPS.items():
        lines.append(f"| **{title}** |" + " |" * (len(HEADER) - 1))
        for name in names:
            found = finished(records, name, seeds, steps, clips)
            partly = f" ({len(found)} of {len(seeds)} seeds)" if 0 < len(found) < len(seeds) else ""
            cells = _cells(found) if found else ["not run yet"] + [""] * (len(HEADER) - 2)
            lines.append("| " + " | ".join([ROWS[name].text + partly, *cells]) + " |")
    return "\n".join(lines)


def _cells(found: list[dict[str, Any]]) -> list[str]:
    accuracies = [one["accuracy"] for one in found]
    return [
        f"{statistics.mean(accuracies):.3f}",
        f"{statistics.stdev(accuracies):.3f}" if len(accuracies) > 1 else "",
        ", ".join(f"{one:.3f}" for one in accuracies),
        f"{statistics.mean([one['loss'] for one in found]):.3f}",
        f"{found[0]['parameters']:,}",
        f"{found[0]['flops'] / 1e6:.2f}",
        f"{statistics.mean([one['cpu_seconds'] for one in found]):.0f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of networks and clips (default 0 1 2)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of batch size {BATCH} (default {STEPS})")
    parser.add_argument("--clips", type=int, default=2000, help="number of test clips (default 2000)")
    parser.add_argument(
        "--out", type=Path, default=Path("bench-out/matching.jsonl"), help="output, one JSON line per run"
    )
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="NAME", help=f"some of {', '.join(ROWS)}")
    parser.add_argument("--threads", type=int, default=1, help="threads of this process (default 1)")
    parser.add_argument("--markdown", type=Path, help="page whose table is replaced")
    given = parser.parse_args(arguments)
    if given.steps < 1 or given.clips < 1 or given.threads < 1:
        parser.error(f"--steps {given.steps} --clips {given.clips} --threads {given.threads}: expected at least 1 each")
    torch.set_num_threads(given.threads)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        for name in given.only or ROWS:
            if finished(read(given.out), name, [seed], given.steps, given.clips):
                print(f"{name}, seed {seed}: already finished", flush=True)
                continue
            record = run(name, seed, given.steps, given.clips)
            with given.out.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(
                f"{name}, seed {seed}: accuracy {record['accuracy']:.4f}, loss {record['loss']:.4f}, "
                f"{record['cpu_seconds']:.0f} CPU s",
                flush=True,
            )
    text = table(read(given.out), given.seeds, given.steps, given.clips)
    print(text)
    if given.markdown:
        write_table(given.markdown, text)


if __name__ == "__main__":
    main()
