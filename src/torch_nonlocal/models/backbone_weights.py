"""Weights of a whole network for its part before the global pool: names in a file as names in the part."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from torch_nonlocal.models.feature_maps import feature_maps

_FLAT_BLOCK = re.compile(r"(features\.\d+\.conv)\.(\d+)\.(\w+)")
_FLAT_EXPANDED = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
_FLAT_FIRST = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}  # the first block does not expand its input


def modules_in_maps(build: Callable[[], nn.Module]) -> dict[str, str]:
    """Modules of a network's part before its global pool: name in the part by name in the network.

    The random state is restored afterwards.

    Args:
        build: returns the network, which `feature_maps` takes apart.
    """
    with torch.random.fork_rng(devices=[]):
        network = build()
    whole = {name: id(module) for name, module in network.named_modules(remove_duplicate=False)}
    maps = feature_maps(network)
    part = {id(module): name for name, module in maps.named_modules()}
    return {name: part[one] for name, one in whole.items() if one in part}


def for_maps(tensors: Mapping[str, Tensor], modules: Mapping[str, str]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a network's part before its global pool.

    Args:
        tensors: tensors of the whole network by name, such as a state dict of torchvision or timm. Those of MobileNetV2
            may have the names of its first implementation in PyTorch: features.1.conv.3 for features.1.conv.1.
        modules: as `modules_in_maps` returns them.

    Returns:
        The tensors by their names in the part, and the names of the others, such as a classifier's.
    """
    found: dict[str, Tensor] = {}
    others = []
    is_flat = "features.1.conv.4.weight" in tensors and "features.1.conv.0.0" in modules
    for name, tensor in tensors.items():
        inner = _in_maps(_torchvision_name(name) if is_flat else name, modules)
        if inner is None:
            others.append(name)
        else:
            found[inner] = tensor
    return found, others


def _in_maps(name: str, modules: Mapping[str, str]) -> str | None:
    """The name of a tensor in the part, by the innermost module around it that the part has; None if it has none.

    The network itself is no such module for the tensors of its children, such as a classifier.
    """
    parts = name.split(".")
    for length in range(len(parts) - 1, 0 if len(parts) > 1 else -1, -1):
        inner = modules.get(".".join(parts[:length]))
        if inner is not None:
            return ".".join([*([inner] if inner else []), *parts[length:]])
    return None


def _torchvision_name(name: str) -> str:
    found = _FLAT_BLOCK.fullmatch(name)
    if found is None:
        return name
    layers = _FLAT_FIRST if found[1] == "features.1.conv" else _FLAT_EXPANDED
    return f"{found[1]}.{layers.get(found[2], found[2])}.{found[3]}"
