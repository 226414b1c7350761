"""Places: resolves names, globs, modules and lists of these to the modules that blocks follow."""

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable
from typing import TypeAlias

import torch
from torch import nn

from torch_nonlocal._common import wrappers
from torch_nonlocal.insertion.presets import PRESETS, preset_places
from torch_nonlocal.layers import Block

_MAX_PLACE = 1000  # characters
Places: TypeAlias = str | nn.Module | Iterable[str | nn.Module]
"""A module name, a glob, a preset such as "paper-5", a module, or an iterable of these."""


def find_targets(model: nn.Module, at: Places) -> dict[str, nn.Module]:
    """Resolve `at` to modules by full name, in the network's order.

    `*` matches within one name segment, `**` across segments; `?` and `[...]` work as in a shell. "paper-1", "paper-5",
    "paper-10" and "nvan" are the placements of `presets`. A Sequential resolves to its last module, because a child
    added to the Sequential itself runs as one more layer.

    Wrappers (see `_common.wrappers`) are skipped: names and modules are those of the wrapped network. A module that is
    registered under several names is found by each of them and returned under the first one.

    Args:
        model: any network, with or without wrappers.
        at: a name, a glob, a preset, a module of `model`, or an iterable of these.

    Raises:
        TypeError: if `at` is of another type.
        ValueError: if a name or glob matches nothing (the message suggests the nearest name), a module is not in the
            model, a container would run the block as one of its children, or a module is a TorchScript module.
    """
    if not isinstance(at, str | nn.Module | Iterable):
        raise TypeError(f"at: expected a name, a glob, a module or a list of these, got {type(at).__name__}")
    names = Names(model)
    chosen: set[nn.Module] = set()
    for one in [at] if isinstance(at, str | nn.Module) else at:
        if isinstance(one, str) and (one in PRESETS or one.startswith("paper-")) and one not in names.places:
            matches = [(name, names.places[name]) for name in preset_places(model, one)]
        else:
            matches = names.matches(one)
        chosen.update(_last_of_sequential(name, module) for name, module in matches)
    if not chosen:
        raise ValueError("at is empty: expected at least one name, glob or module")
    return {name: module for name, module in names.first.items() if module in chosen}


def separated(text: str) -> list[str]:
    """The places in a text, separated by commas; commas in brackets, as in the glob "layer[2,3].*", do not separate.

    Raises:
        ValueError: the text is longer than a place may be.
    """
    _check_length(text)
    return re.split(r",(?![^\[]*\])", text)


def preset_targets(model: nn.Module, at: Places) -> set[str]:
    """Return the names of the places that only a preset in `at` chooses, none if `at` has no preset."""
    given = [at] if isinstance(at, str) else list(at) if isinstance(at, Collection) else []
    presets = [one for one in given if isinstance(one, str) and one in PRESETS]
    others = [one for one in given if one not in presets]
    if not presets:
        return set()
    return find_targets(model, presets).keys() - (find_targets(model, others).keys() if others else set())


class Names:
    """The names of the modules of a network outside its blocks.

    Attributes:
        first: each module by its first name.
        places: modules by all their names.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        named = wrappers.named_modules(model)
        blocks = [module for name, module in named.items() if _is_block_name(name) and isinstance(module, Block)]
        inside = {module for block in blocks for module in block.modules()}
        self.first = {name: module for name, module in named.items() if module not in inside}
        self._known = set(self.first.values())
        self.places = self._outside_blocks(wrappers.all_names(model))

    def matches(self, one: str | nn.Module) -> list[tuple[str, nn.Module]]:
        """Return the names and modules that a name, a glob or a module stands for."""
        if isinstance(one, nn.Module):
            module = wrappers.unwrapped(one)
            if module not in self._known:
                raise ValueError(f"at: the given {type(one).__name__} is not a module of this model")
            return [(name, known) for name, known in self.first.items() if known is module]
        if not isinstance(one, str):
            raise TypeError(f"at: expected names, globs or modules, got {type(one).__name__}")
        _check_length(one)
        found = _matching(self.places, one)
        if not found:  # the name may be the one that PyTorch gives, with the segments of wrappers
            found = _matching(self._outside_blocks(wrappers.names_with_wrappers(self._model)), one)
        if not found:
            raise ValueError(_no_match(one, self.places))
        return found

    def _outside_blocks(self, names: Iterable[tuple[str, nn.Module]]) -> dict[str, nn.Module]:
        return {name: module for name, module in names if module in self._known}


def _check_length(place: str) -> None:
    if len(place) > _MAX_PLACE:
        raise ValueError(f"at: a place of {len(place):,} characters, expected at most {_MAX_PLACE:,}")


def nearest_name(given: str, names: Iterable[str]) -> str | None:
    """Return the most similar name, or None. Similarity may be that of last segments ("layr3" in a detector)."""
    depth = given.count(".") + 1
    by_tail = {".".join(name.split(".")[-depth:]): name for name in reversed(list(names))}
    near = difflib.get_close_matches(given, by_tail, n=1, cutoff=0.6)
    return by_tail[near[0]] if near else None


def _matching(places: dict[str, nn.Module], one: str) -> list[tuple[str, nn.Module]]:
    if one and one in places:
        return [(one, places[one])]
    pattern = _Glob(one)
    return [(name, module) for name, module in places.items() if name and pattern.matches(name)]


def _no_match(given: str, places: Iterable[str]) -> str:
    """The message for a name without a match."""
    stem = given.split("*")[0].rstrip(".")
    near = nearest_name(stem, places)
    hint = "; "
    if near is not None:
        suggestion = near + given[len(stem) :]
        if not any(_Glob(suggestion).matches(name) for name in places):
            suggestion = near
        hint = f"; did you mean {suggestion!r}? "
    shown = [name for name in places if name and name.count(".") <= 1]
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


def _last_of_sequential(name: str, module: nn.Module) -> nn.Module:
    while isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        runs_in_order = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
        children = list(wrappers.named_children(module).items())
        if not runs_in_order or not children:
            raise ValueError(
                f"{name!r} is a {type(module).__name__}, a container that may run a block added to it as one of its "
                "children. Choose a module inside it"
                + (f", such as {wrappers.join(name, children[-1][0])!r}" if children else "")
                + ", or the module after it"
            )
        name, module = wrappers.join(name, children[-1][0]), children[-1][1]
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"{name!r} is a TorchScript module, which blocks cannot follow: choose a module around it, or insert the "
            "block before torch.jit.trace"
        )
    return module


def _is_block_name(name: str) -> bool:
    return name.rpartition(".")[2] == "non_local"
