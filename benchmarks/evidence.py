"""Accuracy on moving digits with blocks, compared with networks without blocks: the table of docs/evidence.md.

    python benchmarks/evidence.py --out bench-out/evidence.jsonl
    python benchmarks/evidence.py --out docs/evidence.jsonl --markdown docs/evidence.md   # rewrite the page's table

Every network is trained with the same options (`tasks.digits.task.train`), on the same clips for the same seed, and
tested on handwriting that training does not use. A finished run is one JSON line in the output file; rerunning the
command skips finished runs. The default is one thread: the results then do not depend on the number of cores, and two
processes with different seeds can share two cores and one file.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from study import Row, Run, Study, blocks_at, costs, scores, shown_costs
from torch_nonlocal import insert
from torch_nonlocal.data.moving_digits import RELATIONS, MovingDigits
from torch_nonlocal.models.relation_net import RelationNet
from torch_nonlocal.tasks.digits.task import BATCH, BLOCK, STEPS, accuracy, train

CHANNELS = 32
ONE_CLIP = (1, 1, 8, 32, 32)
HEADER = (
    "network",
    "accuracy",
    "deviation",
    "of each seed",
    "loss at the end",
    "sees (T, H, W)",
    "parameters",
    "MFLOPs",
    "CPU s",
)

ROWS: dict[str, Row] = {
    "none": Row("no block", {}),
    "embedded_gaussian": Row("one block, the default: embedded gaussian", blocks_at("conv3")),
    "demo": Row("one block, the demo's: gaussian, scale 0.3", blocks_at("conv3", **BLOCK)),
    "gaussian": Row("gaussian", blocks_at("conv3", pairwise="gaussian")),
    "dot_product": Row("dot product", blocks_at("conv3", pairwise="dot_product")),
    "concatenation": Row("concatenation", blocks_at("conv3", pairwise="concatenation")),
    "space": Row("space", blocks_at("conv3", attend="space")),
    "time": Row("time", blocks_at("conv3", attend="time")),
    "channel": Row("channels", blocks_at("conv3", attend="channel")),
    "windows": Row("windows of 4 x 4 positions in all frames", blocks_at("conv3", windows=[None, 4, 4])),
    "interlaced": Row(
        "the same, interlaced: every second row and column", blocks_at("conv3", windows=[None, 4, 4], interlaced=True)
    ),
    "causal": Row("its frame and earlier ones: causal", blocks_at("conv3", causal="frames")),
    "top_k": Row("soft, the 16 strongest of 256 keys", blocks_at("conv3", top_k=16)),
    "hard": Row("hard: the strongest key, straight-through", blocks_at("conv3", hard=True)),
    "regions": Row("16 keys for all queries, by a saliency map", blocks_at("conv3", regions=16)),
    "danet": Row("DANet: positions and channels", blocks_at("conv3", block="danet")),
    "gcnet": Row("GCNet: global context", blocks_at("conv3", block="gcnet")),
    "a2": Row("A2: double attention", blocks_at("conv3", block="a2")),
    "two": Row("two blocks: conv2, conv3", blocks_at("conv2", "conv3")),
    "three": Row("three blocks: conv2, conv3, head", blocks_at("conv2", "conv3", "head.1")),
    "wide": Row("no block, wider head (189), parameters as with one block", {"hidden": 189}),
    "dilated": Row("no block, three more 3x3x3 convolutions, dilated 1, 2, 4", {"context": "dilated"}),
    "large": Row("no block, one more 5x15x15 convolution, factorized by axes", {"context": "large"}),
    "mixed_after_average": Row("no block, a hidden layer of 20 behind the average", {"after_average": 20}),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "with and without": ("none", "embedded_gaussian", "demo"),
    "the pairwise form": ("gaussian", "embedded_gaussian", "dot_product", "concatenation"),
    "what a block attends to": ("space", "time", "channel", "windows", "interlaced", "causal", "embedded_gaussian"),
    "hard and soft": ("top_k", "hard", "regions", "embedded_gaussian"),
    "relatives": ("danet", "gcnet", "a2", "embedded_gaussian"),
    "how many blocks": ("none", "embedded_gaussian", "two", "three"),
    "controls": ("none", "wide", "dilated", "large", "mixed_after_average", "embedded_gaussian"),
}


class Context(nn.Module):
    """Residual convolutions, x + ReLU(norm(convolutions(x))): a larger receptive field, the same (B, C, T, H, W)."""

    def __init__(self, *convolutions: nn.Conv3d) -> None:
        super().__init__()
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:  # always true; for the type checker
                nn.init.zeros_(convolution.bias)
        self.inner = nn.Sequential(*convolutions, nn.BatchNorm3d(CHANNELS), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def build(
    *,
    at: Sequence[str] = (),
    block: dict[str, Any] | None = None,
    hidden: int = 128,
    context: str | None = None,
    after_average: int | None = None,
) -> nn.Module:
    """The demo's network with blocks, or with other layers as a control.

    Args:
        at: places of the blocks.
        block: options of the blocks.
        hidden: width of the head.
        context: convolutions after conv3, "dilated" or "large", whose receptive field is the whole clip.
        after_average: width of a hidden layer between the average over positions and the last linear layer.
    """
    net = RelationNet(CHANNELS, hidden=hidden)
    if at:
        insert(net, at=list(at), example_input=torch.zeros(ONE_CLIP), **(block or {}))
    if context == "dilated":
        net.conv3.extend(
            Context(nn.Conv3d(CHANNELS, CHANNELS, 3, padding=(1, d, d), dilation=(1, d, d))) for d in (1, 2, 4)
        )
    elif context == "large":
        along = [((5, 1, 1), (2, 0, 0)), ((1, 15, 1), (0, 7, 0)), ((1, 1, 15), (0, 0, 7))]
        net.conv3.append(Context(*(nn.Conv3d(CHANNELS, CHANNELS, kernel, padding=pad) for kernel, pad in along)))
    if after_average is not None:
        net.head.pop(-1)
        net.head.extend([nn.Linear(hidden, after_average), nn.ReLU(), nn.Linear(after_average, len(RELATIONS))])
    return net.to(memory_format=torch.channels_last_3d)  # 25 % faster on one core


def receptive_field(net: nn.Module) -> tuple[int, int, int]:
    """Frames, rows and columns in the receptive field of the convolutions; blocks are not counted."""
    seen, step = [1, 1, 1], [1, 1, 1]
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv3d) and "non_local" not in name:
            for axis in range(3):
                seen[axis] += (module.kernel_size[axis] - 1) * module.dilation[axis] * step[axis]
                step[axis] *= module.stride[axis]
    return seen[0], seen[1], seen[2]


def run(name: str, seed: int, steps: int, clips: int) -> Run:
    """Train and test one network of `ROWS`; return the results as plain JSON values."""
    torch.manual_seed(seed)  # before building: equal stages of two networks get equal initial weights
    net = build(**ROWS[name].configuration)
    began = time.process_time()
    losses = train(net, MovingDigits("train"), steps=steps, seed=seed, on_step=_progress(name, seed, steps))
    seconds = time.process_time() - began
    last = losses[-50:]
    return {
        "name": name,
        "configuration": ROWS[name].configuration,
        "seed": seed,
        "steps": steps,
        "batch": BATCH,
        "clips": clips,
        "accuracy": accuracy(net, MovingDigits("test"), clips=clips),
        "loss": round(sum(last) / len(last), 5),
        "sees": list(receptive_field(net)),
        **costs(net, ONE_CLIP, seconds),
    }


def _cells(name: str, found: Sequence[Run]) -> list[str]:
    sees = " x ".join(map(str, found[0]["sees"])) + (" + block" if "at" in ROWS[name].configuration else "")
    return [*scores(found), sees, *shown_costs(found, digits=1)]


STUDY = Study("evidence", ROWS, GROUPS, HEADER, _cells, STEPS, BATCH)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the table."""
    STUDY.main(arguments, __doc__, run)


def _progress(name: str, seed: int, steps: int) -> Callable[[int, float], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(step: int, loss: float) -> None:
        end = "\n" if step == steps else ""
        print(f"\r{name}, seed {seed}: step {step}/{steps}, loss {loss:.3f} ", end=end, file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    main()
