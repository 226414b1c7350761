"""`nonlocal data check`: find broken, empty and duplicate clips, or faults of tracklets, before training on them."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from torch_nonlocal._common.files import check_output_file, printable, write_text
from torch_nonlocal._common.progress import ProgressBar
from torch_nonlocal._common.terminal import terminal
from torch_nonlocal.cli import needs

if TYPE_CHECKING:
    from torch_nonlocal.data.check import CheckReport

SUMMARY = "Check clips or tracklets before training on them: nonlocal data check PATH."
_DIFFERENT_RATES = 1.5  # ratio of the highest to the lowest
_SHOWN = 50  # classes, and groups of duplicates, that are printed; broken clips are all printed


def commands(arguments: Sequence[str]) -> tuple[dict[str, Callable[..., None]], Sequence[str]]:
    """The commands below `nonlocal data`; see `app.COMMANDS`."""
    return {"check": check}, arguments


def check(
    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")],
    *,
    task: Literal["action", "reid"] = "action",
    layout: str = "auto",
    split: str = "",
    root: Path | None = None,
    prefix: str = "",
    fold: int = 1,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    workers: int = 0,
    min_frames: int = 2,
    time_limit: float = 60.0,
) -> None:
    """Read every clip of a data set and report what is wrong with it.

    Reports clips that are broken, empty, too short or contain no video, invalid lines in list files, and classes
    without clips. The exit code is 1 if any is found. Duplicate files are reported but do not fail the check.

    With --task reid, reads every frame of a set of tracklets. Reports broken frames, empty tracklets, wrong names,
    identities in both training and test data, and pictures of two identities; the exit code is 1 if any is found.
    Identities in one camera, tracklets of one frame and frames of different sizes are reported but do not fail the
    check.

    Example: nonlocal data check my-clips --json report.json

    Args:
        data: a folder with one subfolder of videos per class, optionally grouped under train, val and test; a folder
            with lists of clips; or one list. With --task reid: a set of tracklets, or a table of them.
        task: what the data are for: action recognition or re-identification.
        layout: layout of a set of tracklets, such as mars; recognized by default.
        split: train, val or test; all of them by default. With --task reid: the number of a split; by
            default the frames of split 0 and the lists of all splits are checked.
        root: folder of the clips that a list names, if it is not the folder of the list.
        prefix: start of the names in a list that is removed, such as the folder of the clips on another machine.
        fold: number of the split of UCF101 and HMDB51, or value of the column "fold" whose clips are tested.
        json: also write the whole report to this file.
        workers: number of files read in parallel; 0 for one per processor.
        min_frames: minimum number of frames; clips with fewer are reported as too short.
        time_limit: seconds allowed for reading one clip; slower clips are reported as broken.
    """
    if json is not None:
        check_output_file(json, "--json")
    others = {"--root": root, "--prefix": prefix, "--fold": fold != 1, "--min-frames": min_frames != 2}
    wrong = [name for name, given in others.items() if given] if task == "reid" else ["--layout"] * (layout != "auto")
    if wrong:
        raise ValueError(f"{wrong[0]} has no meaning for --task {task}")
    if task == "reid":
        needs.check("data", packages=("PIL",))
        from torch_nonlocal.cli.tracklet_check import check_tracklet_set

        check_tracklet_set(data, layout=layout, split=split, json=json, workers=workers, time_limit=time_limit)
        return
    needs.check("data")
    from torch_nonlocal.data.check import check_clips
    from torch_nonlocal.data.clips import find_clips

    clips = find_clips(data, split or None, on_error="skip", clip_root=root, prefix=prefix, fold=fold)
    with ProgressBar("reading", len(clips), unit="clips") as bar:
        report = check_clips(
            clips, workers=workers or None, min_frames=min_frames, time_limit=time_limit, progress=bar.advance
        )
    # A listed clip without a file has no path: its line in the list and the possible file names identify it.
    named = (replace(clip, reason=clips.missing.get(Path(clip.path), clip.reason)) for clip in report.clips)
    report = replace(report, clips=tuple(named))
    if json is not None:
        write_text(json, report.to_json())
    _print(report)
    if report.broken or report.problems:
        sys.exit(1)


def _print(report: "CheckReport") -> None:
    console = terminal()

    def show(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    table = Table("class", "clips", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    counts = report.counts()
    for name, count in list(counts.items())[:_SHOWN]:
        table.add_row(escape(printable(name)), str(count))
    console.print(table)
    if len(counts) > _SHOWN:
        show(f"and {_counted(len(counts) - _SHOWN, 'more class', 'more classes')}")
    held = f"{_counted(len(report.clips), 'clip')} of {_counted(len(counts), 'class', 'classes')}"
    show(f"{report.root}: {held}, {len(report.good)} good")
    if report.recognized:
        show(f"read as {report.recognized}")
    for line in report.notes:
        show(f"note: {line}")
    show(f"balance: the smallest class has {report.balance():.0%} as many clips as the largest")
    frames, seconds = report.frames(), report.seconds()
    if frames:
        show(f"frames: {frames[0]} to {frames[2]}, median {frames[1]:g}")
    if seconds:
        show(f"seconds: {seconds[0]:.1f} to {seconds[2]:.1f}, median {seconds[1]:.1f}")
    rates = report.rates()
    if rates:
        show(f"frames per second: {rates[0]:.4g} to {rates[2]:.4g}, median {rates[1]:.4g}")
        if rates[2] >= _DIFFERENT_RATES * rates[0]:
            show(f"warning: the frame rates differ; train with --fps {rates[1]:.4g} to give all clips the same span")
    if report.good:
        from torch_nonlocal.media.lengths import Length
        from torch_nonlocal.tasks.action.automatic_frames import automatic_frames

        lengths = [Length(clip.frames, clip.seconds) for clip in report.good]
        show(f"training: {automatic_frames(lengths, sampled=False).reason}")
    sizes = list(report.sizes().items())
    if sizes:
        more = f" and {len(sizes) - 5} more" if len(sizes) > 5 else ""
        show("sizes: " + ", ".join(f"{size} ({count})" for size, count in sizes[:5]) + more)
    for group in report.duplicates[:_SHOWN]:
        kind = "duplicates in different classes" if group in report.contradictions else "duplicates"
        show(f"{kind}: {', '.join(clip.path for clip in group)}")
    if len(report.duplicates) > _SHOWN:
        show(f"and {_counted(len(report.duplicates) - _SHOWN, 'more group', 'more groups')} of duplicates")
    for clip in report.broken:
        show(f"{clip.kind}: {clip.reason}")
    for name in report.unreadable_classes:
        show(f"class {printable(name)!r} has no clip that can be read")
    for line in report.left_out[:_SHOWN]:
        show(f"left out: {line}")
    if len(report.left_out) > _SHOWN:
        show(f"and {_counted(len(report.left_out) - _SHOWN, 'more file', 'more files')} that are no clips")
    for problem in report.problems:
        show(f"problem: {problem}")
    if report.broken or report.problems:
        broken = f"{len(report.broken)} of {_counted(len(report.clips), 'clip')} broken"
        show(f"{broken}, {_counted(len(report.problems), 'other problem')}")


def _counted(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"
