"""`nonlocal demo`: a block learns what the network alone cannot, and shows where it looks."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from torch_nonlocal._common.files import check_folder, write_json
from torch_nonlocal._common.progress import ProgressBar
from torch_nonlocal._common.terminal import terminal
from torch_nonlocal._common.text import megabytes
from torch_nonlocal.cli import needs

PLACE = "conv3"  # the block sits before the head's 1x1x1 convolution, on a 4 x 8 x 8 grid
PLACE_OF_BLOCK = "conv3.2"  # conv3 is a Sequential: its last module carries the block


def demo(*, out: Path = Path("demo-out"), seed: int = 0, steps: int = 450, clips: int = 2000) -> None:
    """Train a small network with and without a block, visualize similar positions in a video, and benchmark one block.

    The data come with the demo extra: handwritten digits, a video clip and ImageNet weights. The demo takes two to four
    minutes on two cores and writes pictures, pages and results.json to the output folder.

    Example: nonlocal demo --out demo-out --seed 0

    Args:
        out: output folder; created if missing.
        seed: random seed of networks, blocks and clips; the same seed gives the same accuracies on the same machine.
        steps: training steps of each of the two networks, with a batch size of 64.
        clips: number of test clips; their digits are not used in training.
    """
    if steps < 1 or clips < 1:
        raise ValueError(f"--steps {steps} --clips {clips}: expected at least 1 each")
    check_folder(out)
    needs.check("demo")
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    console = terminal()
    results: dict[str, Any] = {"seed": seed, "steps": steps}
    for title, part in (
        ("Moving digits: do two digits move the same way, opposite or perpendicular?", _digits),
        ("Real video: what is most related to a chosen pixel?", _real_video),
        ("One block at the paper's sizes, forward + backward", _cost),
    ):
        console.rule(title, align="left")
        results |= part(console, out, seed, steps, clips)
    results["seconds"] = round(time.perf_counter() - started, 1)
    write_json(out / "results.json", results)
    console.rule(align="left")
    console.print(_summary(results))
    console.print(
        f"{results['seconds']:.0f} s in total; pictures and results.json are in {out}/", highlight=False, markup=False
    )


def _digits(console: Console, out: Path, seed: int, steps: int, clips: int) -> dict[str, Any]:
    import torch

    from torch_nonlocal import insert, view
    from torch_nonlocal.data.moving_digits import MovingDigits
    from torch_nonlocal.models.relation_net import RelationNet
    from torch_nonlocal.tasks.digits.attention import digit_focus, example
    from torch_nonlocal.tasks.digits.task import BLOCK, accuracy, train

    data, unseen = MovingDigits("train"), MovingDigits("test")
    nets, scores = {}, {}
    for name in ("without", "with"):
        torch.manual_seed(seed)
        net = RelationNet()
        if name == "with":
            insert(net, at=PLACE, example_input=unseen.batch(1, torch.Generator()).clips, **BLOCK)
        with ProgressBar(f"train {name} a block".ljust(22), steps, values=("loss",)) as bar:
            train(net, data, steps=steps, seed=seed, on_step=lambda step, loss, bar=bar: bar.update(step, loss=loss))
        nets[name], scores[name] = net, accuracy(net, unseen, clips=clips)
        console.print(f"accuracy {name} a block, on unseen digits: [bold]{scores[name]:.3f}[/bold] (chance 0.333)")
    focus = digit_focus(nets["with"], PLACE_OF_BLOCK, unseen)
    console.print(
        f"of the 20 strongest links of a query on a digit, {focus.links_on_digits:.0%} end on the two digits, "
        f"and {focus.weight_on_digits:.0%} of its weight; the digits cover {focus.digits_cover:.0%} of the grid",
        highlight=False,
    )
    shown = example(nets["with"], PLACE_OF_BLOCK, unseen)
    view.arrows(shown.clip, shown.links).save(out / "digits-arrows.png")
    view.save_page(out / "digits.html", shown.clip, shown.record, title="Two digits move: what every pixel attends to")
    return {
        "accuracy_without_block": scores["without"],
        "accuracy_with_block": scores["with"],
        "attention": {key: round(value, 4) for key, value in focus._asdict().items()},
    }


def _real_video(console: Console, out: Path, *_: int) -> dict[str, Any]:
    from torch_nonlocal import view
    from torch_nonlocal.data.bikes_clip import BIKES_FPS, BIKES_FRAMES, BIKES_POINTS, bikes
    from torch_nonlocal.models.packaged import efficientnet_lite0
    from torch_nonlocal.tasks.viewing import PACKAGED_AT, similarity_record
    from torch_nonlocal.view.look import look

    clip = bikes()
    record = similarity_record(efficientnet_lite0(), clip, at=PACKAGED_AT)
    for name, point in BIKES_POINTS.items():
        file = out / f"bikes-{name.replace(' ', '-').replace(chr(39), '')}.png"
        seen = look(record, point, clip.numpy())
        view.heatmap(clip, seen.weights, query=seen.query, vmax=seen.brightest).save(file)
        console.print(f"{name}: {file}", highlight=False, markup=False)
    point = BIKES_POINTS["helmet"]
    view.arrows(clip, record.links(point, k=20, frames="others", pixels=True)).save(out / "bikes-arrows.png")
    facts = view.Facts(
        file="bikes.mp4",
        labels=[f"frame {number}, {number / BIKES_FPS:.2f} s" for number in BIKES_FRAMES],
        blocks={record.name: view.BlockFacts("EfficientNet-Lite0, ImageNet weights")},
    )
    view.save_page(out / "bikes.html", clip, record, point=point, title="What is most like this pixel?", facts=facts)
    console.print(f"click any pixel of any frame: {out}/bikes.html, {out}/digits.html", highlight=False, markup=False)
    return {"bikes": {"grid": list(record.geometry.grid), "points": {k: list(v) for k, v in BIKES_POINTS.items()}}}


def _cost(console: Console, _out: Path, *_: int) -> dict[str, Any]:
    """The plain definition, which builds the map, beside the default algorithm."""
    from torch_nonlocal.benchmark.block import PAPER_SIZES, forward_backward
    from torch_nonlocal.benchmark.meter import measure

    rows = []
    for stage, channels, size in PAPER_SIZES:
        costs = {
            name: asdict(measure(forward_backward, channels, size, {"algorithm": algorithm}, repeats=1))
            for name, algorithm in (("dense", "dense"), ("ours", "auto"))
        }
        positions = size[0] * size[1] * size[2]
        rows.append({"stage": stage, "N": positions, "channels": channels, "map_bytes": 4 * positions**2, **costs})
    table = Table("stage", "positions N", "one map", "dense: s", "memory", "ours: s", "memory")
    for row in rows:
        texts = [text for one in (row["dense"], row["ours"]) for text in _cost_texts(one)]
        table.add_row(row["stage"], f"{row['N']:,}", megabytes(row["map_bytes"]), *texts)
    console.print(table)
    return {"cost": rows}


def _cost_texts(cost: dict[str, Any]) -> tuple[str, str]:
    return f"{cost['seconds']:.2f}", megabytes(cost["extra_bytes"])


def _summary(results: dict[str, Any]) -> Table:
    table = Table("moving digits, unseen handwriting", "accuracy", title="Result", title_justify="left")
    table.add_row("chance", "0.333")
    table.add_row("network that sees 9 pixels", f"{results['accuracy_without_block']:.3f}")
    table.add_row("the same with one non-local block", f"{results['accuracy_with_block']:.3f}")
    return table
