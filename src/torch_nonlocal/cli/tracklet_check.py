"""`nonlocal data check --task reid`: what a set of tracklets holds, and what is wrong with it."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from torch_nonlocal._common.files import printable, write_text
from torch_nonlocal._common.progress import ProgressBar
from torch_nonlocal._common.terminal import terminal
from torch_nonlocal._common.text import counted

if TYPE_CHECKING:
    from torch_nonlocal.data.tracklets.check import TrackletCheck

_SHOWN = 20  # lines of each kind of remark or problem


def check_tracklet_set(
    root: Path, *, layout: str, split: str, json: Path | None, workers: int, time_limit: float
) -> None:
    """Check a set of tracklets, print the report, and exit with 1 if there is a problem."""
    if split and not split.isdecimal():
        raise ValueError(f"--split {split}: expected the number of a split, from 0, for --task reid")
    from torch_nonlocal.data.tracklets.check import check_tracklets, files_to_read
    from torch_nonlocal.data.tracklets.find import find_tracklets
    from torch_nonlocal.data.tracklets.splits import faults_of_splits
    from torch_nonlocal.tasks.reid.small_sets import too_small_for_defaults

    number = int(split[:9] or 0)
    data = find_tracklets(root, layout, number)
    others = faults_of_splits(root, layout, () if split else range(1, data.splits), data)
    with ProgressBar("reading", files_to_read(data), unit="tracklets") as bar:
        report = check_tracklets(data, workers=workers or None, time_limit=time_limit, progress=bar.advance)
    remarks = (*report.remarks, *too_small_for_defaults(data, root, number))
    report = replace(report, problems=(*report.problems, *others), remarks=remarks)
    if json is not None:
        write_text(json, report.to_json())
    _print(report)
    if report.problems:
        sys.exit(1)


def _print(report: "TrackletCheck") -> None:
    from torch_nonlocal.data.tracklets.faults import lines_of

    console = terminal()

    def show(text: str) -> None:
        console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    table = Table(
        "part", "identities", "cameras", "tracklets", "frames", "length", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name, part in report.parts.items():
        lengths = "" if part.lengths is None else "{} to {}, median {:g}".format(*(part.lengths[i] for i in (0, 2, 1)))
        numbers = part.identities, part.cameras, part.tracklets, part.frames
        table.add_row(name, *(f"{number:,}" for number in numbers), lengths)
    console.print(table)
    splits = f", {report.splits} splits" if report.splits > 1 else ""
    show(f"{report.root}: layout {report.layout}{splits}")
    for name, part in report.parts.items():
        if part.junk or part.distractors:
            show(
                f"{name}: {counted(part.junk, 'junk tracklet')}, {counted(part.distractors, 'tracklet')} of distractors"
            )
    for note in report.notes:
        show(f"note: {note}")
    for title, found in (("remark", report.remarks), ("problem", report.problems)):
        for line in lines_of(found, most=_SHOWN):
            show(f"{title}: {line}")
    if report.problems:
        show(counted(len(report.problems), "problem"))
