"""The rule that decides which clips are held out of data without a split.

Clips that belong together form a group: copies (equal content), clips of one recording, and files of one folder that
differ in their suffix only. A hash of the recording's name, or of the content if the name tells no recording, decides
for the group: it is held out with the probability of the fraction. So adding, deleting or renaming other clips moves no
clip. Two exceptions: a class that would have no training clips trains on one group (of the largest hash), and if no
clip at all is held out, each class of two or more groups holds out one (of the smallest hash). Clips that an earlier
run has assigned keep their side, and so do new members of their group.
"""

from __future__ import annotations

import hashlib
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
    labels: set[int] = field(default_factory=set)
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
    _represent_classes(groups)
    result = [False] * len(members)
    for group in groups:
        for one in group.members:
            is_known = _is_known(members[one], known)
            result[one] = known[members[one].fingerprint] != "train" if is_known else group.held
    return result


def _is_known(member: Member, known: Mapping[str, str]) -> bool:
    return member.fingerprint in known


def _represent_classes(groups: list[_Group]) -> None:
    by_class: dict[int, list[_Group]] = {}
    for group in groups:
        for label in group.labels:
            by_class.setdefault(label, []).append(group)
    for own in by_class.values():
        free = [group for group in own if not group.earlier]
        if all(group.held for group in own) and free:
            max(free, key=lambda group: group.value).held = False
    if any(group.held or True in group.earlier for group in groups):
        return
    training = {label: sum(not group.held for group in own) for label, own in by_class.items()}
    for label in sorted(by_class):
        own = [group for group in by_class[label] if not group.held]
        free = [group for group in own if not group.earlier and all(training[one] > 1 for one in group.labels)]
        if free and len(own) == len(by_class[label]):
            chosen = min(free, key=lambda group: group.value)
            chosen.held = True
            for one in chosen.labels:
                training[one] -= 1


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
