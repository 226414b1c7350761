"""Accuracy on moving digits with blocks, compared with networks without blocks: the table of docs/evidence.md.

    python benchmarks/evidence.py --out bench-out/evidence.jsonl
    python benchmarks/evidence.py --out docs/evidence.jsonl --markdown docs/evidence.md   # rewrite the page's table

Every network is trained with the same options (`tasks.digits.task.train`), on the same clips for the same seed, and
tested on handwriting that training does not use. A finished run is one JSON line in the output file; rerunning the
command skips finished runs. The default is one thread: the results then do not depend on the number of cores, and two
processes with different seeds can share two cores and one file.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from torch_nonlocal import insert
from torch_nonlocal.benchmark.report import machine
from torch_nonlocal.data.moving_digits import RELATIONS, MovingDigits
from torch_nonlocal.models.relation_net import RelationNet
from torch_nonlocal.tasks.digits.task import BATCH, BLOCK, STEPS, accuracy, train

CHANNELS = 32
ONE_CLIP = (1, 1, 8, 32, 32)
START, END = "<!-- table: begin -->", "<!-- table: end -->"
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


class Row(NamedTuple):
    """One network of the table.

    Attributes:
        text: its name in the table.
        configuration: keyword arguments of `build`, plain JSON values.
    """

    text: str
    configuration: dict[str, Any]


def blocks_at(*places: str, **options: Any) -> dict[str, Any]:
    """The configuration of a network with blocks at these places, all with the same options."""
    return {"at": list(places), "block": options}


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


def parameters(net: nn.Module) -> int:
    """Number of parameters."""
    return sum(one.numel() for one in net.parameters())


def flops(net: nn.Module) -> int:
    """FLOPs of one clip's forward pass, two per multiply-add; sorting and pointwise operations are not counted."""
    net.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(ONE_CLIP))
    return counter.get_total_flops()


def run(name: str, seed: int, steps: int, clips: int) -> dict[str, Any]:
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
        "parameters": parameters(net),
        "flops": flops(net),
        "cpu_seconds": round(seconds, 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": machine(),
    }


def read(file: Path) -> list[dict[str, Any]]:
    """The runs in a file; none if the file does not exist.

    Raises:
        ValueError: a line is not JSON; the message gives its number.
    """
    records = []
    for number, line in enumerate(file.read_text().splitlines() if file.exists() else [], start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number}: not JSON ({error}); delete the line to repeat its run") from error
    return records


def finished(
    records: Iterable[dict[str, Any]], name: str, seeds: Sequence[int], steps: int, clips: int
) -> list[dict[str, Any]]:
    """The finished runs of one network with these seeds, steps and clips, in the order of the seeds."""
    found = {
        record["seed"]: record
        for record in records
        if record["configuration"] == ROWS[name].configuration and (record["steps"], record["clips"]) == (steps, clips)
    }
    return [found[seed] for seed in seeds if seed in found]


def table(records: Sequence[dict[str, Any]], seeds: Sequence[int], steps: int, clips: int) -> str:
    """A Markdown table of the finished runs by group; rows with fewer runs than seeds give their number."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---|" + "---:|" * (len(HEADER) - 1)]
    for title, names in GROUPS.items():
        rows = [(name, finished(records, name, seeds, steps, clips)) for name in names]
        if any(found for _, found in rows):
            lines.append(f"| **{title}** |" + " |" * (len(HEADER) - 1))
        for name, found in rows:
            if found:
                text = ROWS[name].text + ("" if len(found) == len(seeds) else f" ({len(found)} of {len(seeds)} seeds)")
                lines.append("| " + " | ".join([text, *_cells(name, found)]) + " |")
    return "\n".join(lines)


def _cells(name: str, found: list[dict[str, Any]]) -> list[str]:
    accuracies = [one["accuracy"] for one in found]
    sees = " x ".join(map(str, found[0]["sees"])) + (" + block" if "at" in ROWS[name].configuration else "")
    return [
        f"{statistics.mean(accuracies):.3f}",
        f"{statistics.stdev(accuracies):.3f}" if len(accuracies) > 1 else "",
        ", ".join(f"{one:.3f}" for one in accuracies),
        f"{statistics.mean([one['loss'] for one in found]):.3f}",
        sees,
        f"{found[0]['parameters']:,}",
        f"{found[0]['flops'] / 1e6:.1f}",
        f"{statistics.mean([one['cpu_seconds'] for one in found]):.0f}",
    ]


def write_table(page: Path, text: str) -> None:
    """Replace the table between the two marks of a page; a new page consists of the table.

    Raises:
        ValueError: the page exists and lacks a mark.
    """
    old = page.read_text() if page.exists() else f"{START}\n{END}\n"
    if START not in old or END not in old:
        raise ValueError(f"{page}: expected the lines {START} and {END} around the table")
    head, tail = old.split(START)[0], old.split(END)[1]
    page.write_text(f"{head}{START}\n{text}\n{END}{tail}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of networks and clips (default 0 1 2)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of batch size {BATCH} (default {STEPS})")
    parser.add_argument("--clips", type=int, default=2000, help="number of test clips (default 2000)")
    parser.add_argument(
        "--out", type=Path, default=Path("bench-out/evidence.jsonl"), help="output, one JSON line per run"
    )
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="NAME", help=f"some of {', '.join(ROWS)}")
    parser.add_argument("--threads", type=int, default=1, help="threads of this process (default 1)")
    parser.add_argument("--markdown", type=Path, help="page whose table is replaced")
    given = parser.parse_args(arguments)
    if given.steps < 1 or given.clips < 1 or given.threads < 1:
        parser.error(f"--steps {given.steps} --clips {given.clips} --threads {given.threads}: expected at least 1 each")
    torch.set_num_threads(given.threads)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    todo = [(name, seed) for seed in given.seeds for name in given.only or ROWS]
    for number, (name, seed) in enumerate(todo, start=1):
        # read again each time: another process may write to the file
        if finished(read(given.out), name, [seed], given.steps, given.clips):
            print(f"{number}/{len(todo)} {name}, seed {seed}: already finished", flush=True)
            continue
        record = run(name, seed, given.steps, given.clips)
        with given.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(
            f"{number}/{len(todo)} {name}, seed {seed}: accuracy {record['accuracy']:.4f}, loss {record['loss']:.4f}, "
            f"{record['cpu_seconds']:.0f} CPU s",
            flush=True,
        )
    text = table(read(given.out), given.seeds, given.steps, given.clips)
    print(text)
    if given.markdown:
        write_table(given.markdown, text)


def _progress(name: str, seed: int, steps: int) -> Callable[[int, float], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(step: int, loss: float) -> None:
        end = "\n" if step == steps else ""
        print(f"\r{name}, seed {seed}: step {step}/{steps}, loss {loss:.3f} ", end=end, file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    main()
