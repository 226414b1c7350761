"""Parameters that accelerate keeps away from a module: on the meta device, with the values in a hook."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def stored_value(module: nn.Module, name: str) -> Tensor | None:
    """Return the value of a parameter or buffer of an offloaded module, or None if no hook holds it."""
    for hook in _hooks(module):
        values = getattr(hook, "weights_map", None)
        if values is not None and getattr(hook, "offload", False):
            return values[name]
    return None


def execution_device(module: nn.Module) -> torch.device | None:
    """Return the device on which the hooks of an offloaded module run it, or None without such hooks."""
    for inside in module.modules():
        for hook in _hooks(inside):
            device = getattr(hook, "execution_device", None)
            if device is not None and getattr(hook, "offload", False):
                return torch.device(device)
    return None


def _hooks(module: nn.Module) -> Iterator[Any]:
    hook = module.__dict__.get("_hf_hook")
    yield from getattr(hook, "hooks", () if hook is None else (hook,))  # a SequentialHook holds several
