"""The items that a run is trained and evaluated on: what differs between two lists of them."""

import json
from collections.abc import Mapping
from typing import Any

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.text import listed

Items = Mapping[str, Mapping[str, Any]]
"""By part ("training", "held out") and name, a JSON value that changes with the item, such as its label and size."""

_SHOWN = 3


def plain_items(items: Items) -> dict[str, dict[str, Any]]:
    """Items as JSON holds them.

    Raises:
        TypeError, ValueError: they have no such form.
        AttributeError: they are not mappings of mappings.
    """
    return {part: dict(found.items()) for part, found in json.loads(json.dumps(items)).items()}


def item_differences(saved: Items, given: Items) -> str:
    """What differs, in words, with counts and some names; "" if nothing does."""
    parts = list(dict.fromkeys([*saved, *given]))
    found = []
    for part in parts:
        old, new = saved.get(part, {}), given.get(part, {})
        changes = {
            "added": [name for name in new if name not in old],
            "removed": [name for name in old if name not in new],
            "changed": [name for name in new if name in old and old[name] != new[name]],
        }
        words = [f"{len(names):,} {how} ({_shown(names)})" for how, names in changes.items() if names]
        if not words and list(old) != list(new):
            words = ["the same items in another order"]
        if words:
            found.append(f"{part}: {', '.join(words)}")
    for old in parts:
        for new in parts:
            moved = [name for name in saved.get(old, {}) if old != new and name in given.get(new, {})]
            moved = [name for name in moved if name not in saved.get(new, {})]
            if moved:
                found.append(f"{len(moved):,} moved from {old} to {new} ({_shown(moved)})")
    return "; ".join(found)


def _shown(names: list[str]) -> str:
    return listed(map(printable, names), most=_SHOWN)
