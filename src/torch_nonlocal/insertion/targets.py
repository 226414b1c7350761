"""Places: resolves names, globs, modules and lists of these to the modules that blocks follow."""

import difflib
import fnmatch
import re
from collections.abc import Iterable
from typing import TypeAlias

from torch import nn

from torch_nonlocal.insertion.presets import preset_places
from torch_nonlocal.layers import NonLocal

_MAX_PLACE = 1000  # characters
Places: TypeAlias = str | nn.Module | Iterable[str | nn.Module]
"""A module name, a glob, a preset such as "paper-5", a module, or an iterable of these."""


def find_targets(model: nn.Module, at: Places) -> dict[str, nn.Module]:
    """Resolve `at` to modules by full name, in the network's order.

    `*` matches within one name segment, `**` across segments; `?` and `[...]` work as in a shell. "paper-1", "paper-5"
    and "paper-10" are the placements of `presets`. A Sequential resolves to its last module, because a child added to
    the Sequential itself runs as one more layer.

    Args:
        model: any network.
        at: a name, a glob, a preset, a module of `model`, or an iterable of these.

    Raises:
        TypeError: if `at` is of another type.
        ValueError: if a name or glob matches nothing (the message suggests the nearest name), a module is not in the
            model, or a container would run the block as one of its children.
    """
    if not isinstance(at, str | nn.Module | Iterable):
        raise TypeError(f"at: expected a name, a glob, a module or a list of these, got {type(at).__name__}")
    named = {name: module for name, module in model.named_modules() if not _inside_block(model, name)}
    chosen: dict[str, nn.Module] = {}
    for one in [at] if isinstance(at, str | nn.Module) else at:
        preset = isinstance(one, str) and one not in named and one.startswith("paper-")
        for name in preset_places(model, str(one)) if preset else _matches(named, one):
            place = _last_of_sequential(name, named)
            chosen[place] = named[place]
    if not chosen:
        raise ValueError("at is empty: expected at least one name, glob or module")
    return {name: chosen[name] for name in named if name in chosen}


def _matches(named: dict[str, nn.Module], one: str | nn.Module) -> list[str]:
    if isinstance(one, nn.Module):
        names = [name for name, module in named.items() if module is one]
        if not names:
            raise ValueError(f"at: the given {type(one).__name__} is not a module of this model")
        return names
    if not isinstance(one, str):
        raise TypeError(f"at: expected names, globs or modules, got {type(one).__name__}")
    if one in named and one:
        return [one]
    if len(one) > _MAX_PLACE:
        raise ValueError(f"at: a place of {len(one):,} characters, expected at most {_MAX_PLACE:,}")
    pattern = _Glob(one)
    names = [name for name in named if name and pattern.matches(name)]
    if not names:
        raise ValueError(_no_match(one, named))
    return names


def _no_match(given: str, named: dict[str, nn.Module]) -> str:
    """The message for a name without a match. Suggestions may match by last segments ("layr3" in a detector)."""
    stem = given.split("*")[0].rstrip(".")
    depth = stem.count(".") + 1
    by_tail = {".".join(name.split(".")[-depth:]): name for name in reversed(named)}
    near = difflib.get_close_matches(stem, by_tail, n=1, cutoff=0.6)
    hint = "; "
    if near:
        suggestion = by_tail[near[0]] + given[len(stem) :]
        if not any(_Glob(suggestion).matches(name) for name in named):
            suggestion = by_tail[near[0]]
        hint = f"; did you mean {suggestion!r}? "
    shown = [name for name in named if name and name.count(".") <= 1]
    listing = ", ".join(shown[:40]) + (", ..." if len(shown) > 40 else "")
    return f"no module matches {given!r}{hint}modules: {listing}"


class _Glob:
    """A glob as an automaton: the work is the length of the name times that of the pattern, without backtracking.

    State i: the first i tokens match what was read. All states are bits of one integer, so a character is one step.
    """

    def __init__(self, pattern: str) -> None:
        self._tokens: list[str] = []
        for token in re.findall(r"\*\*|\*|\?|\[[^\]]+\]|[^*?]", pattern):
            last = self._tokens[-1] if self._tokens else ""
            if token in ("*", "**") and last in ("*", "**"):
                self._tokens[-1] = max(token, last)  # two stars in a row match what the longer one matches
            else:
                self._tokens.append(token)
        self._stars = sum(1 << i for i, token in enumerate(self._tokens) if token in ("*", "**"))
        self._stays: dict[str, int] = {}
        self._moves: dict[str, int] = {}

    def matches(self, name: str) -> bool:
        """Whether the whole name matches."""
        states = self._skipped(1)
        for char in name:
            if char not in self._stays:
                takes = [_takes(token, char) for token in self._tokens]
                both = sum(1 << i for i, one in enumerate(takes) if one)
                self._stays[char], self._moves[char] = both & self._stars, both & ~self._stars
            states = self._skipped(states & self._stays[char] | (states & self._moves[char]) << 1)
        return bool(states >> len(self._tokens) & 1)

    def _skipped(self, states: int) -> int:
        """States reached without a character: a star matches nothing as well."""
        return states | (states & self._stars) << 1


def _takes(token: str, char: str) -> bool:
    """Whether a token of a glob can match a character."""
    if token == "**":
        return True
    if token in ("*", "?"):
        return char != "."
    if len(token) == 1:
        return token == char
    return fnmatch.fnmatchcase(char, token)


def _last_of_sequential(name: str, named: dict[str, nn.Module]) -> str:
    module = named[name]
    while isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        runs_in_order = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
        children = list(module.named_children())
        if not runs_in_order or not children:
            raise ValueError(
                f"{name!r} is a {type(module).__name__}, a container that may run a block added to it as one of its "
                "children. Choose a module inside it"
                + (f", such as {_join(name, children[-1][0])!r}" if children else "")
                + ", or the module after it"
            )
        name, module = _join(name, children[-1][0]), children[-1][1]
    return name


def _join(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child


def _inside_block(model: nn.Module, name: str) -> bool:
    parts = name.split(".")
    if "non_local" not in parts:
        return False
    owner = model.get_submodule(".".join(parts[: parts.index("non_local") + 1]))
    return isinstance(owner, NonLocal)
