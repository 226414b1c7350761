"""`nonlocal data check`: what is wrong with a folder of clips, before training on it."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from torch_nonlocal._common.files import replacing
from torch_nonlocal.data.check import CheckReport, check_clips
from torch_nonlocal.data.clips import find_clips

data = tyro.extras.SubcommandApp()
"""The commands below `nonlocal data`."""

_SHOWN = 50  # classes, or duplicates, before "and n more"; broken clips are all named


@data.command
def check(
    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")],
    *,
    split: str = "",
    json: Path | None = None,
    workers: int = 0,
    min_frames: int = 2,
    time_limit: float = 60.0,
) -> None:
    """Read every clip of a data set and say what is wrong with it.

    Named are clips that are broken, empty, too short, audio only or no videos, lists' lines that are wrong, classes
    without clips, and copies of the same file. Ends with exit code 1 if something is broken (copies are only told).

    Example: nonlocal data check clips/ --json report.json

    Args:
        root: a folder of classes, with or without train/val/test, a folder with lists, or one list.
        split: train, val or test; all if left out.
        json: also write everything to this file.
        workers: files read at once; 0 takes one for each processor.
        min_frames: clips of fewer frames are too short.
        time_limit: seconds after which a clip counts as broken.
    """
    clips = find_clips(root, split or None, on_error="skip")
    with Progress(
        TextColumn("reading"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("reading", total=len(clips))
        report = check_clips(
            clips,
            workers=workers or None,
            min_frames=min_frames,
            time_limit=time_limit,
            progress=lambda: bar.advance(task),
        )
    # A clip of a list that is nowhere is known by its line and the names it might have had, not by a path.
    named = (replace(clip, reason=clips.missing.get(Path(clip.path), clip.reason)) for clip in report.clips)
    report = replace(report, clips=tuple(named))
    if json is not None:
        with replacing(json) as temporary:
            temporary.write_text(report.to_json(), "utf-8")
    _print(report)
    if report.broken or report.problems:
        sys.exit(1)


def _print(report: CheckReport) -> None:
    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    table = Table("class", "clips", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    counts = report.counts()
    for name, count in list(counts.items())[:_SHOWN]:
        table.add_row(escape(name), str(count))
    console.print(table)
    if len(counts) > _SHOWN:
        say(f"and {_counted(len(counts) - _SHOWN, 'more class', 'more classes')}")
    held = f"{_counted(len(report.clips), 'clip')} of {_counted(len(counts), 'class', 'classes')}"
    say(f"{report.root}: {held}, {len(report.good)} good")
    say(f"balance: the smallest class has {report.balance():.0%} of the clips of the largest")
    frames, seconds = report.frames(), report.seconds()
    if frames:
        say(f"frames: {frames[0]} to {frames[2]}, median {frames[1]:g}")
    if seconds:
        say(f"seconds: {seconds[0]:.1f} to {seconds[2]:.1f}, median {seconds[1]:.1f}")
    sizes = list(report.sizes().items())
    if sizes:
        more = f" and {len(sizes) - 5} more" if len(sizes) > 5 else ""
        say("sizes: " + ", ".join(f"{size} ({count})" for size, count in sizes[:5]) + more)
    for group in report.duplicates[:_SHOWN]:
        told = "the same file in different classes" if group in report.contradictions else "the same file"
        say(f"{told}: {', '.join(clip.path for clip in group)}")
    if len(report.duplicates) > _SHOWN:
        say(f"and {_counted(len(report.duplicates) - _SHOWN, 'more group', 'more groups')} of copies")
    for clip in report.broken:
        say(f"{clip.kind}: {clip.reason}")
    for problem in report.problems:
        say(f"problem: {problem}")
    if report.broken or report.problems:
        broken = f"{len(report.broken)} of {_counted(len(report.clips), 'clip')} broken"
        say(f"{broken}, {_counted(len(report.problems), 'other problem')}")


def _counted(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"
