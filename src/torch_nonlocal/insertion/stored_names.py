"""Names of places in block files, matched to the modules of a network with another nesting or other wrappers."""

from collections.abc import Iterable, Iterator

from torch import nn

from torch_nonlocal._common.text import listed
from torch_nonlocal._common.wrappers import SEGMENTS
from torch_nonlocal.insertion.targets import Names, nearest_name

_Path = tuple[str, ...]


def match_names(stored: Iterable[str], model: nn.Module, present: Iterable[str]) -> dict[str, str]:
    """Return the name of a network's module for each name of a block file.

    Segments that only wrappers add ("_orig_mod") are dropped. If the network then lacks a name, a common prefix is
    added to all names or stripped from all of them, if exactly one makes all names fit: "model.layer3.1" of a file
    stands for "layer3.1" and the reverse.

    Args:
        stored: names of the file.
        model: the network.
        present: names of the network's blocks. Of several prefixes that fit, one that covers these is chosen.

    Raises:
        ValueError: if no prefix or more than one fits. The message gives the nearest names.
    """
    names = Names(model)
    first = {module: name for name, module in names.first.items()}
    known = {tuple(name.split(".")): first[module] for name, module in names.places.items() if name}
    known[()] = ""
    stored = list(stored)
    paths = [tuple(part for part in name.split(".") if part and part not in SEGMENTS) for name in stored]
    if all(path in known for path in paths):
        return {name: known[path] for name, path in zip(stored, paths, strict=True)}
    fitting = {tuple(known[path] for path in moved) for moved in _moved(paths, known) if all(p in known for p in moved)}
    if len(fitting) > 1:
        fitting = {found for found in fitting if set(present) <= set(found)} if any(present) else fitting
    if len(fitting) != 1:
        lacking = next(i for i, path in enumerate(paths) if path not in known)
        raise ValueError(_message(stored[lacking], [found[lacking] for found in fitting], names.first))
    return dict(zip(stored, fitting.pop(), strict=True))


def own_block(block: str, part: str, model: nn.Module) -> str | None:
    """Return the name of a network's own module that a converted block was made from, or None if it has none.

    Args:
        block: name of the module in its checkpoint, such as "layer2.1.nl", with or without prefixes of the network.
        part: name of a module inside it, such as "g.0", which tells it from other modules of its name.
        model: the network.
    """
    modules = Names(model).first
    for name in modules:
        same = name == block or name.endswith(f".{block}") or (name and block.endswith(f".{name}"))
        if same and block and f"{name}.{part}".removeprefix(".") in modules:
            return name
    return None


def _moved(paths: list[_Path], known: Iterable[_Path]) -> Iterator[list[_Path]]:
    """Yield the paths with each common prefix that can be stripped or added."""
    common = next(
        i for i in range(len(paths[0]) + 1) if i == len(paths[0]) or len({path[: i + 1] for path in paths}) > 1
    )
    for count in range(1, common + 1):
        if all(len(path) > count for path in paths):  # the network itself is no place for a nested name
            yield [path[count:] for path in paths]
    bases = [paths]
    if all(path[:1] == ("module",) and len(path) > 1 for path in paths):  # of data parallelism
        bases.append([path[1:] for path in paths])
    for base in bases:
        for path in known:
            if base[0] and len(path) > len(base[0]) and path[-len(base[0]) :] == base[0]:
                prefix = path[: -len(base[0])]
                yield [(*prefix, *one) for one in base]


def _message(name: str, fitting: list[str], names: Iterable[str]) -> str:
    if fitting:
        return (
            f"has a block for {name!r}, which this model does not have; it may stand for "
            f"{listed(map(repr, sorted(fitting)))}: insert the blocks first, or load into that part of the model"
        )
    near = nearest_name(name, names)
    shown = [one for one in names if one and one.count(".") <= 1]
    return (
        f"has a block for {name!r}, which this model does not have; "
        + (f"did you mean {near!r}? " if near else "")
        + f"modules: {listed(shown, most=20)}. For a converted file, `nonlocal convert --place {name}=MODULE` sets "
        "the module that the block follows"
    )
