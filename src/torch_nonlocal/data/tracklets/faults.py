"""What is wrong with the identities, cameras and parts of a set of tracklets. No frame is read."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.data.tracklets.tracklet import Problem, Tracklet, TrackletData, camera_numbers

CLOSED_SETS = ("polarbearvidid",)
"""Layouts whose published splits test the identities that they train on."""
FEWEST_IDENTITIES = 2
"""Training needs as many: it separates identities."""

_WHOLE = re.compile(r"(\d+)\.0+")
_SPELLING = "the names differ only in case, leading zeros, spaces or the encoding of a letter"


def lines_of(problems: Iterable[Problem], *, most: int) -> list[str]:
    """A line per problem: the first of each kind, and how many more there are."""
    kinds: dict[str, list[str]] = {}
    for one in problems:
        kinds.setdefault(one.kind, []).append(f"{one.name}: {one.reason}")
    lines = []
    for kind, reasons in kinds.items():
        lines += [f"{kind}: {reason}" for reason in reasons[:most]]
        if len(reasons) > most:
            lines.append(f"{kind}: and {len(reasons) - most:,} more")
    return lines


def persons(tracklets: Iterable[Tracklet]) -> dict[str, set[str]]:
    """The cameras of each identity that is neither junk nor a distractor."""
    cameras: dict[str, set[str]] = {}
    for one in tracklets:
        if one.role == "person":
            cameras.setdefault(one.identity, set()).add(one.camera)
    return cameras


def unusable(data: TrackletData) -> list[Problem]:
    """Faults for which a set should not be used, or for which training or a test refuses it."""
    if not data.train and not data.gallery and not data.query:
        return [Problem("empty set", data.layout, "no tracklet is left")]
    return [*_shared_identities(data), *_too_few(data), *_wrong_queries(data), *_without_matches(data)]


def doubtful(data: TrackletData) -> list[Problem]:
    """What may be a fault: a set without one of its parts, identities of one camera, names that are nearly the same."""
    return [*missing_part(data), *_one_camera(data), *_similar_names(data)]


def _shared_identities(data: TrackletData) -> list[Problem]:
    if data.layout in CLOSED_SETS:
        return []
    shared = sorted(persons(data.train).keys() & persons((*data.query, *data.gallery)).keys())
    reason = "it is in the training data and in the test data"
    return [Problem("shared identity", name, reason) for name in shared]


def _too_few(data: TrackletData) -> Iterator[Problem]:
    """Training data of one identity; also those of random halves, of which the test has one identity more."""
    count = len(persons(data.train))
    if count < FEWEST_IDENTITIES and (data.train or data.splits > 1):
        has = counted(count, "identity", "identities")
        yield Problem(
            "too few identities", "train", f"the training data have {has}, expected {FEWEST_IDENTITIES} or more"
        )


def _wrong_queries(data: TrackletData) -> list[Problem]:
    wrong = [one for one in data.query if one.role != "person"]
    return [Problem("wrong query", one.name, f"it is {one.role}, expected a person: it has no match") for one in wrong]


def _without_matches(data: TrackletData) -> list[Problem]:
    """The fault that nothing can be measured: no query with a match in another camera."""
    if not data.gallery:
        reason = f"{counted(len(data.query), 'query', 'queries')} and no gallery"
        return [Problem("no match", data.layout, reason)] if data.query else []
    everything = data.gallery if data.query_index is not None else (*data.gallery, *data.query)
    numbers = camera_numbers(everything)
    rows = data.query_index or range(len(data.gallery), len(everything))
    cameras: dict[str, set[int]] = {}
    for one, number in zip(data.gallery, numbers, strict=False):
        if one.role == "person":
            cameras.setdefault(one.identity, set()).add(number)
    if any(cameras.get(one.identity, set()) - {numbers[row]} for one, row in zip(data.query, rows, strict=True)):
        return []
    has_none = f"none of {counted(len(data.query), 'query', 'queries')} has a match in another camera"
    reason = has_none if data.query else "there are no queries: expected an identity in two cameras"
    return [Problem("no match", data.layout, reason)]


def missing_part(data: TrackletData) -> Iterator[Problem]:
    """A remark about a set that has only training data, or only test data."""
    if not data.train and data.splits == 1:
        yield Problem("no training data", data.layout, "all tracklets are test data: there is nothing to train on")
    if not data.gallery and not data.query:
        yield Problem("no test data", data.layout, "all tracklets are training data: there is nothing to test on")


def _one_camera(data: TrackletData) -> list[Problem]:
    test = (*data.query, *data.gallery)
    found = []
    for part, tracklets, of_all, of_one in (
        ("training", data.train, "there are no pairs across cameras", "it has no pair across cameras"),
        ("test", test, "each counts as a camera of its own", "its queries have no match"),
    ):
        names = {one.camera for one in tracklets}
        if len(names) == 1:
            reason = f"all {part} tracklets are of camera {min(names)}: {of_all}"
            found.append(Problem("one camera", data.layout, reason))
            continue
        for name, cameras in sorted(persons(tracklets).items()):
            if len(cameras) == 1:
                reason = f"the {part} data show it in camera {min(cameras)} only; {of_one}"
                found.append(Problem("one camera", name, reason))
    return found


def _similar_names(data: TrackletData) -> Iterator[Problem]:
    """Names of identities or cameras that are probably one: those of another spelling share no tracklet otherwise."""
    everything = (*data.train, *data.query, *data.gallery)
    for name, *others in _spellings(persons(everything)):
        yield Problem("similar identities", name, f"it may be the identity {listed(others)}: {_SPELLING}")
    uses = Counter(one.camera for one in everything)
    for name, *others in _spellings(uses):
        if any(uses[each] > 1 for each in (name, *others)):  # otherwise tracklets are cameras of their own
            yield Problem("similar cameras", name, f"it may be the camera {listed(others)}: {_SPELLING}")


def _spellings(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that are the same but for their spelling."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())
        plain = _WHOLE.sub(r"\1", plain) if _WHOLE.fullmatch(plain) else plain
        groups.setdefault(re.sub(r"(?<![\d.])\d+", lambda number: number[0].lstrip("0") or "0", plain), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
