"""Which of the contents of a checkpoint are its weights."""

import re
from typing import Any

from torch import Tensor

from torch_nonlocal._common.foreign_objects import ModuleState
from torch_nonlocal._common.numpy_values import NumpyArray, plain
from torch_nonlocal._common.wrappers import SEGMENTS

WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "net_state_dict", "module"),
    *("weights", "params", "backbone", "blobs", "tensors"),
    *("ema_state_dict", "state_dict_ema", "model_ema", "params_ema", "ema"),
)
"""Keys under which training scripts store weights, the first that is present first: averages are the last choice."""

_OF_WRAPPERS = re.compile(rf"(?<![^.])(?:{'|'.join(sorted(SEGMENTS))})\.")
_OPTIMIZER_KEYS = ("param_groups", "lr_lambdas", "_schedulers")
_MAX_DEPTH = 4  # of wrappers in wrappers; a hostile file can hold itself


def unwrapped(content: dict[Any, Any], depth: int = 0) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors by name and everything beside them, from the innermost wrapper that has tensors; None if none has.

    Without a usual wrapper and without tensors at the top, all other dictionaries of tensors count: a single one as a
    wrapper, several with their keys as prefixes, such as "generator" and "discriminator".
    """
    if depth >= _MAX_DEPTH:
        return _direct(content)
    for key in WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, dict) and (found := unwrapped(inner, depth + 1)):
            return _inside(content, key, found)
    return _direct(content) or _others(content, depth)


def _direct(content: dict[Any, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    names = [key for key, value in content.items() if isinstance(value, Tensor)]
    if not names:
        arrays = [key for key, value in content.items() if isinstance(value, NumpyArray)]
        names = [key for key in arrays if not getattr(content[key], "unread", None)] or arrays
    if not names:
        return None
    tensors = {str(key): _tensor(content[key]) for key in names}
    chosen = set(names)
    facts = {str(key): value for key, value in content.items() if key not in chosen}
    return tensors, {**facts, "modules": content.modules} if isinstance(content, ModuleState) else facts


def _tensor(value: Any) -> Tensor:
    return (value.tensor() if isinstance(value, NumpyArray) else plain(value)).detach()


def _others(content: dict[Any, Any], depth: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    found = {
        key: inside
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, dict) and not _is_of_training(key, value)
        if (inside := unwrapped(value, depth + 1))
    }
    if not found:
        return None
    if len(found) == 1:
        ((key, inside),) = found.items()
        return _inside(content, key, inside)
    tensors = {f"{key}.{bare_name(name)}": one for key, (inner, _) in found.items() for name, one in inner.items()}
    return tensors, {str(key): one for key, one in content.items() if key not in found}


def bare_name(name: str) -> str:
    """A name as in the network itself: without the segments of wrappers and the prefix of data-parallel modules."""
    name = _OF_WRAPPERS.sub("", name)
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def _inside(
    content: dict[Any, Any], key: Any, found: tuple[dict[str, Tensor], dict[str, Any]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, facts = found
    return tensors, {**facts, **{str(name): one for name, one in content.items() if name != key}}


def _is_of_training(key: str, value: dict[Any, Any]) -> bool:
    """Whether a dictionary holds the state of an optimizer or of what belongs to it."""
    return "optim" in key.lower() or "sched" in key.lower() or any(one in value for one in _OPTIMIZER_KEYS)
