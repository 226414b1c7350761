"""Clips whose class only the whole clip tells: one frame of each of 8 equal parts, against windows of 8 frames.

    python benchmarks/whole_clip.py
    python benchmarks/whole_clip.py --seeds 1 --sampling auto

A clip lasts 10 s, 300 frames. A ball rolls in the upper or in the lower half of the picture, disappears, and rolls in
one of the halves until the end: "stays" if it ends in the half where it began, "crosses" if it ends in the other. All
four cases are equally likely, and the places are random. The ball is hidden for at least 57 frames, the span of an 8x8
window, so no window shows the ball before and after, and what a window shows is equally likely in both classes.

The small network is trained on generated clips with the recipe for machines without a GPU, at 64 x 64 pixels.
Validation clips choose the weights; the table has the accuracy on test clips of their own (chance is 0.5).
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from torch_nonlocal.media import write_mp4
from torch_nonlocal.tasks.action.recipes import RECIPES
from torch_nonlocal.tasks.action.settings import ActionTestOptions
from torch_nonlocal.tasks.base import get_task

RATE, FRAMES, SIDE = 30, 300, 64
HIDDEN = (57, 90)  # frames; 57 = 7 * 8 + 1 is the span of an 8x8 window
RADIUS, BALL, GROUND = SIDE / 5, 230, 60
CLASSES = ("stays", "crosses")
CLIPS = {"train": 120, "val": 40, "test": 200}


def ball_clip(crosses: bool, generator: torch.Generator) -> Tensor:
    """A clip (T, H, W, 3), uint8."""

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    hidden = int(draw(HIDDEN[0], HIDDEN[1] + 1))
    first = int(draw(90, FRAMES - 90 - hidden + 1))
    begins_below = draw(0, 1) < 0.5
    clip_THWC = torch.full((FRAMES, SIDE, SIDE, 3), GROUND, dtype=torch.uint8)
    grid = torch.arange(SIDE, dtype=torch.float32)
    for start, stop, below in ((0, first, begins_below), (first + hidden, FRAMES, begins_below != crosses)):
        top = SIDE / 2 if below else 0.0
        (y, to_y), (x, to_x) = (
            [low + draw(RADIUS, size - RADIUS) for _ in range(2)] for low, size in ((top, SIDE / 2), (0.0, SIDE))
        )
        for frame in range(start, stop):
            share = (frame - start) / (stop - start)
            at_y, at_x = y + share * (to_y - y), x + share * (to_x - x)
            clip_THWC[frame][(grid[:, None] - at_y) ** 2 + (grid - at_x) ** 2 <= RADIUS**2] = BALL
    return clip_THWC


def write_clips(root: Path, seed: int) -> None:
    """Write the clips of all splits: SPLIT/CLASS/NUMBER.mp4."""
    for split, count in CLIPS.items():
        for number in range(count):
            name = CLASSES[number % 2]
            generator = torch.Generator().manual_seed(hash((seed, tuple(CLIPS).index(split), number)) % 2**32)
            path = root / split / name / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mp4(path, ball_clip(name == "crosses", generator), RATE)


@dataclass(frozen=True)
class Row:
    """Accuracy on validation and test clips, and seconds of the training."""

    sampling: str
    seed: int
    validation: float
    test: float
    seconds: float


def measured(data: Path, run: Path, sampling: str, seed: int, epochs: int) -> Row:
    """Train and test one network."""
    task, recipe = get_task("action"), RECIPES["laptop"]
    settings = replace(recipe.settings, frames=sampling, crop=SIDE)
    config = replace(recipe.config, epochs=epochs, seed=seed, attention_items=0)
    began = time.perf_counter()
    result = task.train(data, run, settings, config)
    seconds = time.perf_counter() - began
    options = ActionTestOptions(views=3, crops="1", mistakes=0, split="test")
    scores = task.test(result.weights, data, run / "test", options)
    assert result.best is not None
    return Row(sampling, seed, result.best["value"], scores["top1"], seconds)


def main() -> None:
    """Generate clips, train with each sampling and seed, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sampling", nargs="+", default=["auto", "8x8"], help="values of --frames")
    arguments.add_argument("--seeds", type=int, default=3, help="number of seeds, of the clips and of the training")
    arguments.add_argument("--epochs", type=int, default=RECIPES["laptop"].config.epochs)
    given = arguments.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            data = Path(folder, f"clips{seed}")
            write_clips(data, seed)
            for sampling in given.sampling:
                rows.append(measured(data, Path(folder, f"run-{sampling}-{seed}"), sampling, seed, given.epochs))
    print("| --frames | seed | validation | test | seconds |\n|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: given.sampling.index(row.sampling)):
        print(f"| `{row.sampling}` | {row.seed} | {row.validation:.3f} | {row.test:.3f} | {row.seconds:.0f} |")


if __name__ == "__main__":
    main()
