"""Accuracy on matching glyphs with blocks, compared with networks without attention: the table of docs/matching.md.

    python benchmarks/matching.py --out bench-out/matching.jsonl
    python benchmarks/matching.py --out docs/matching.jsonl --markdown docs/matching.md   # rewrite the page's table

Every network is trained with the same options, on the same clips for the same seed, and tested on glyphs that training
does not use. A finished run is one JSON line in the output file; rerunning the command skips finished runs. The default
is one thread: the results then do not depend on the number of cores.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study import Row, Run, Study, blocks_at, costs, scores, shown_costs
from torch_nonlocal import insert
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


def run(name: str, seed: int, steps: int, clips: int) -> Run:
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
        **costs(net, ONE_CLIP, seconds),
    }


def _cells(_name: str, found: Sequence[Run]) -> list[str]:
    return [*scores(found), *shown_costs(found, digits=2)]


STUDY = Study("matching", ROWS, GROUPS, HEADER, _cells, STEPS, BATCH, shows_missing=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the table."""
    STUDY.main(arguments, __doc__, run)


if __name__ == "__main__":
    main()
