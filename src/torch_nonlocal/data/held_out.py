"""The rule that decides which clips are held out of data without a split.

Clips that belong together form a group: copies (equal content), clips of one recording, and files of one folder that
differ in their suffix only. A hash of the recording's name, or of the content if the name tells no recording, decides
for the group: it is held out with the probability of the fraction. So adding, deleting or renaming other clips moves
few clips or none.

Of a few clips, a hash may hold out far more or fewer than the fraction. Each class therefore has bounds, half and one
and a half times the fraction of its clips (at least one clip if the fraction makes one; all but one at most). Groups of
the largest hashes go back to training while a class is above its bounds, and groups of the smallest hashes are held out
while it is below them. If no clip at all is held out, each class of two or more groups holds out one. Clips that an
earlier run has assigned keep their side, and so do new members of their group.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch_nonlocal.data.recordings import base_name


class Member(NamedTuple):
    """What the rule takes into account of a clip.

    Attributes:
        name: path relative to the root.
        labels: its classes.
        content: `content_digest` of its file; "" if unknown.
        fingerprint: key of the clip in `known`.
        recording: name of its recording; None if unknown.
    """

    name: str
    labels: tuple[int, ...]
    content: str
    fingerprint: str
    recording: str | None


@dataclass
class _Group:
    members: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)  # clips of each class
    earlier: set[bool] = field(default_factory=set)  # sides in `known`
    value: float = 0.0
    held: bool = False


def held_out(members: Sequence[Member], fraction: float, seed: int, known: Mapping[str, str]) -> list[bool]:
    """Whether each clip is held out.

    Args:
        members: the clips.
        fraction: probability of a group to be held out.
        seed: seed of the hash.
        known: earlier assignments, from fingerprint to "train" or another split.
    """
    groups = _groups(members)
    for group in groups:
        group.value = _uniform(min(group.keys), seed)  # recordings sort before contents, those before names
        group.earlier = {
            known[members[one].fingerprint] != "train" for one in group.members if _is_known(members[one], known)
        }
        group.held = group.earlier == {True} if group.earlier else group.value < fraction
    _keep_bounds(groups, fraction)
    _hold_out_some(groups)
    result = [False] * len(members)
    for group in groups:
        for one in group.members:
            is_known = _is_known(members[one], known)
            result[one] = known[members[one].fingerprint] != "train" if is_known else group.held
    return result


def _is_known(member: Member, known: Mapping[str, str]) -> bool:
    return member.fingerprint in known


def _keep_bounds(groups: list[_Group], fraction: float) -> None:
    """Move groups that are not of an earlier run until each class is within its bounds, as far as that is possible."""
    by_class = _by_class(groups)
    clips = {label: sum(group.labels[label] for group in own) for label, own in by_class.items()}
    least = {label: max(int(count * fraction / 2), int(count * fraction >= 1)) for label, count in clips.items()}
    most = {label: min(math.ceil(count * fraction * 1.5), count - 1) for label, count in clips.items()}
    held: Counter[int] = Counter()
    for group in groups:
        if group.held:
            held.update(group.labels)
    for label in sorted(by_class):
        own = [group for group in by_class[label] if not group.earlier]
        for group in reversed(own):
            if held[label] > most[label] and group.held:
                group.held = False
                held.subtract(group.labels)
    for label in sorted(by_class):
        for group in by_class[label]:
            fits = all(held[one] + count <= most[one] for one, count in group.labels.items())
            if held[label] < least[label] and fits and not group.held and not group.earlier:
                group.held = True
                held.update(group.labels)


def _hold_out_some(groups: list[_Group]) -> None:
    """If nothing is held out, hold out one group of each class that has two or more."""
    if any(group.held or True in group.earlier for group in groups):
        return
    by_class = _by_class(groups)
    training = {label: len(own) for label, own in by_class.items()}
    for label in sorted(by_class):
        if training[label] < len(by_class[label]):
            continue
        for group in by_class[label]:
            if not group.earlier and all(training[one] > 1 for one in group.labels):
                group.held = True
                for one in group.labels:
                    training[one] -= 1
                break


def _by_class(groups: list[_Group]) -> dict[int, list[_Group]]:
    """The groups of each class, smallest hash first."""
    by_class: dict[int, list[_Group]] = {}
    for group in sorted(groups, key=lambda group: group.value):
        for label in group.labels:
            by_class.setdefault(label, []).append(group)
    return by_class


def _groups(members: Sequence[Member]) -> list[_Group]:
    """Connected components of the clips that share a key."""
    above = list(range(len(members)))
    first: dict[str, int] = {}

    def top(one: int) -> int:
        while above[one] != one:
            above[one] = above[above[one]]
            one = above[one]
        return one

    for one, member in enumerate(members):
        keys = [f"base:{base_name(member.name)}"]
        keys += [f"content:{member.content}"] if member.content else []
        keys += [f"a recording:{member.recording}"] if member.recording else []
        for key in keys:
            above[top(one)] = top(first.setdefault(key, one))
    groups: dict[int, _Group] = {}
    for one, member in enumerate(members):
        group = groups.setdefault(top(one), _Group())
        group.members.append(one)
        group.labels.update(member.labels)
        if member.recording:
            group.keys.append(f"1 {member.recording}")
        group.keys.append(f"2 {member.content}" if member.content else f"3 {member.name}")
    return list(groups.values())


def _uniform(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on the key and the seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=7).digest()) / 2**56
