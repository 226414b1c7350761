"""`nonlocal train`: from a folder of clips to trained weights; goes on where it was."""

import json
import sys
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from torch_nonlocal.tasks import action
from torch_nonlocal.training import TrainConfig

STOPPED = 75  # exit code of a run that was asked to stop and can go on (EX_TEMPFAIL)
_SETTINGS, _CONFIG, _WHY = action.settings_for()


def train(
    task: tyro.conf.Positional[Literal["action"]],
    *,
    data: Path,
    out: Path = Path("runs/action"),
    settings: tyro.conf.OmitArgPrefixes[action.ActionSettings] = _SETTINGS,
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = _CONFIG,
    on_error: Literal["skip", "fail"] = "skip",
) -> None:
    """Train a network with non-local blocks on clips; the same command again goes on where it was.

    The data: a folder with a folder of videos for each class, with or without train/ and val/ above them, or the lists
    of Kinetics, UCF101, HMDB51 or Something-Something. Without a split a fifth of each class is held out. Network,
    frames, crop and batch are chosen for this machine unless given, and said. Several GPUs: start it by torchrun or
    accelerate launch.

    Example: nonlocal train action --data my-clips

    Example: nonlocal train action --data kinetics --network ours:i3d_resnet50 --frames 64-to-32 --crop 224

    Args:
        task: action.
        data: folder of clips, or a list.
        out: folder of the run: settings, log, TensorBoard curves, checkpoints.
        settings: what is trained.
        config: how.
        on_error: skip a clip that cannot be read (it is listed in broken.jsonl), or fail.
    """
    console = Console()
    if settings == _SETTINGS and config == _CONFIG:
        console.print(f"chosen for this machine: {_WHY}", highlight=False)
    said = {**vars(settings), **config.plain()}
    console.print(json.dumps(said), highlight=False, markup=False, soft_wrap=True)
    result = action.train(data, out, settings, config, on_error=on_error)
    best = "" if result.best is None else f", best {result.best['metric']} {result.best['value']:.3f}"
    console.print(f"{result.status} after {result.step:,} updates, {result.seconds:.0f} s{best}", highlight=False)
    broken = out / "broken.jsonl"
    if broken.exists():
        count = len({json.loads(line)["path"] for line in broken.read_text().splitlines()})
        console.print(f"{count} clips could not be read: {broken}", highlight=False, markup=False)
    if result.status == "stopped":
        console.print("stopped with a checkpoint: the same command goes on", highlight=False)
        sys.exit(STOPPED)
    console.print(f"next: nonlocal test action {result.weights} --data {data}", highlight=False, markup=False)
