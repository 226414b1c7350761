"""Candidate places for blocks in a network, and the places that the paper's results recommend."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from torch_nonlocal._common.wrappers import join, named_children, named_modules
from torch_nonlocal.insertion.presets import preset_places, spread, stages

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
_MOST_RECOMMENDED = {8: 2, 16: 3}  # number of blocks by the stride of the map: res3 and res4 of "paper-5"


def candidates(model: nn.Module, outputs: Mapping[str, list[Any]]) -> list[str]:
    """Return the names of the candidate places: every residual block of the stages of the network or of its encoder.

    In a network without stages, the candidates are the outermost modules with convolutions that are not containers and
    return one tensor. In a plain sequence of layers, they are the layers before each pooling and the last layer.

    Args:
        model: any network.
        outputs: outputs of every module by name, one item per run.
    """
    modules = named_modules(model)
    found = [block for blocks in stages(model).values() for block in blocks] or _units(modules[""], "", outputs)
    return [name for name in found if name in modules]  # each module once


def recommended(model: nn.Module, sizes: Mapping[str, tuple[int, ...]], input_size: tuple[int, ...]) -> list[str]:
    """Return the recommended places: "paper-5", or in networks without four stages two at stride 8, three at 16.

    Args:
        model: any network.
        sizes: height and width (the length of sequences) of the map at each candidate, in the network's order.
        input_size: height and width (or length) of the network's input, as its first convolution sees it.
    """
    if len(stages(model)) == 4:
        return [name for name in preset_places(model, "paper-5") if name in sizes]
    by_stride: dict[int, list[str]] = {}
    for name, size in sizes.items():
        strides = [full / part for full, part in zip(input_size[-len(size) :], size, strict=True)]
        by_stride.setdefault(2 ** round(math.log2(max(strides))), []).append(name)
    chosen = [name for stride, most in _MOST_RECOMMENDED.items() for name in spread(by_stride.get(stride, []), most)]
    if not chosen and by_stride:
        chosen = spread(by_stride[max(by_stride)], 1)
    return [name for name in sizes if name in chosen]


def _units(module: nn.Module, name: str, outputs: Mapping[str, list[Any]]) -> list[str]:
    inside = {join(name, child): one for child, one in named_children(module).items()}
    returns_several = any(not isinstance(one, Tensor) for one in outputs.get(name, ()))  # a backbone's maps, say
    if name and not isinstance(module, _CONTAINERS) and not returns_several:
        return [name] if inside and _has_convolution(module) else []
    if isinstance(module, nn.Sequential) and all(not list(one.children()) for one in inside.values()):
        return _ends(inside) if _has_convolution(module) else []
    return [unit for path, one in inside.items() for unit in _units(one, path, outputs)]


def _ends(layers: Mapping[str, nn.Module]) -> list[str]:
    """Return the layers before each pooling, and the last layer."""
    names, ends = list(layers), []
    for name, after in zip(names, [*names[1:], ""], strict=True):
        if not isinstance(layers[name], _POOLS) and (not after or isinstance(layers[after], _POOLS)):
            ends.append(name)
    return ends


def _has_convolution(module: nn.Module) -> bool:
    return any(isinstance(one, _CONVS) for one in module.modules())
