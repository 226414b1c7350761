"""Faults of the splits of a set. No frame is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.text import listed
from torch_nonlocal.data.tracklets.faults import unusable
from torch_nonlocal.data.tracklets.find import find_tracklets
from torch_nonlocal.data.tracklets.tracklet import Problem, TrackletData


def faults_of_splits(root: Path, layout: str, splits: Iterable[int], checked: TrackletData) -> list[Problem]:
    """Faults of further splits of a set, each once, with the numbers of the splits.

    Args:
        root: folder of the set, or a table.
        layout: as for `find_tracklets`.
        splits: their numbers.
        checked: the set by another split, whose faults are left out.
    """
    known = {*checked.problems, *unusable(checked)}
    damaged: list[Problem] = []
    found: dict[Problem, list[str]] = {}
    for split in splits:
        try:
            data = find_tracklets(root, layout, split)
        except ValueError as error:
            damaged.append(Problem("damaged split", f"split {split}", str(error)))
            continue
        for one in (*data.problems, *unusable(data)):
            if one not in known:
                found.setdefault(one, []).append(str(split))
    return damaged + [
        Problem(one.kind, printable(one.name), printable(f"{one.reason} (split {listed(numbers, most=10)})"))
        for one, numbers in found.items()
    ]
