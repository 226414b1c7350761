"""Sets in which two cameras see the same persons: half of the persons train, the others are tested, in several splits.

Of the test persons, the first camera has the queries and the second one the gallery.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from torch_nonlocal._common.text import listed
from torch_nonlocal.data.tracklets.layout import Reader
from torch_nonlocal.data.tracklets.tracklet import Tracklet, TrackletData

Pair = tuple[Tracklet, Tracklet]
"""A person in the first and in the second camera."""


def pairs_of_folders(
    reader: Reader,
    cameras: Mapping[str, Path],
    rule: str,
    expected: str,
    is_person: Callable[[str], bool] = lambda folder: True,
) -> dict[str, Pair]:
    """The persons of two folders of cameras, each with a folder of pictures per person, sorted by name.

    Args:
        reader: of the set.
        cameras: folder of each of the two cameras, by name.
        rule: pattern of the names of frames; {folder} and {person} stand for the names of the folders.
        expected: the rule, for messages.
        is_person: whether a folder is that of a person to use.
    """
    found: dict[str, list[Tracklet]] = {}
    for camera, folder in cameras.items():
        for person in filter(is_person, reader.listing(folder).folders):
            name = f"{folder.name}/{person}"
            pattern = re.compile(rule.format(folder=re.escape(folder.name), person=re.escape(person)))
            pictures = reader.listing(folder / person).pictures
            good = [one for one in pictures if pattern.fullmatch(one)]
            for wrong in sorted(set(pictures) - set(good)):
                reader.problem("wrong name", f"{name}/{wrong}", f"expected {expected}")
            one = reader.from_pictures(name, person, camera, folder / person, good)
            if one is not None:
                found.setdefault(person, []).append(one)
    return pairs_of(reader, found)


def pairs_of(reader: Reader, found: Mapping[str, Sequence[Tracklet]]) -> dict[str, Pair]:
    """The persons with a tracklet of each camera; others are problems."""
    pairs: dict[str, Pair] = {}
    for person, tracklets in sorted(found.items()):
        if len(tracklets) == 2:
            pairs[person] = (tracklets[0], tracklets[1])
        else:
            reader.problem("one camera", person, f"only camera {tracklets[0].camera} has frames; it is left out")
    return pairs


def read_split(
    layout: str,
    reader: Reader,
    pairs: Mapping[str, Pair],
    persons: tuple[Collection[str], Collection[str]],
    *,
    splits: int,
    notes: Sequence[str] = (),
) -> TrackletData:
    """A set with given training and test persons.

    Args:
        layout: its name.
        reader: of the set.
        pairs: the tracklets of each person.
        persons: training and test persons.
        splits: number of splits of the set.
        notes: lines that say how the persons were split.
    """
    train, test = (sorted(names) for names in persons)
    both = set(train) & set(test)
    if both:
        raise ValueError(f"{str(reader.root)!r}: {listed(sorted(both))} train and are tested in a split")
    return TrackletData(
        layout,
        reader.root,
        tuple(one for name in train for one in pairs[name]),
        tuple(pairs[name][0] for name in test),
        tuple(pairs[name][1] for name in test),
        splits=splits,
        problems=reader.problems,
        notes=(*notes, "the first camera has the queries, the second one the gallery"),
    )
