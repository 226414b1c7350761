"""Placements of the paper, and of NVAN, for ResNet-like networks of any depth. Stages are found by structure.

A stage is a module whose children are all residual blocks of one class. A network with four stages has res2 to res5:
the ResNets, ResNeXts, RegNets, ConvNeXts and Swins of torchvision and timm, video ResNets, and detectors and
segmentation networks with such a backbone or encoder.
"""

from torch import nn

from torch_nonlocal._common.wrappers import join, named_children, named_modules
from torch_nonlocal.insertion.attachment import CHILD, plain_type

PRESETS = ("paper-1", "paper-5", "paper-10", "nvan")
_COUNTS = {"paper-5": (2, 3), "paper-10": (4, 6)}  # blocks in res3 and in res4 (section 5.1, "going deeper")
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def preset_places(model: nn.Module, preset: str) -> list[str]:
    """Return the names of the modules that a preset inserts blocks after.

    "paper-1" inserts one block before the last residual block of res4. "paper-5" inserts two in res3 and three in res4,
    "paper-10" four and six. They are evenly spaced and the last one ends the stage: every other residual block of a
    ResNet-50, residual blocks 6, 13 and 20 in res4 of a ResNet-101 with "paper-5". A stage with fewer residual blocks
    gets one block after each. "nvan" inserts blocks after the last two residual blocks of res3 and the last three of
    res4.

    Args:
        model: a network with four stages.
        preset: one of `PRESETS`.

    Raises:
        ValueError: if the preset is unknown or the network does not have four stages. The message lists the stages.
    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, section 5.1 and table 2; Liu et al., Spatially and
    temporally efficient non-local attention network for video-based person re-identification (NVAN), BMVC 2019.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: expected one of {', '.join(map(repr, PRESETS))}")
    found = stages(model)
    if len(found) != 4:
        listing = ", ".join(f"{name} ({len(blocks)})" for name, blocks in found.items()) or "none"
        raise ValueError(
            f"at={preset!r} requires a ResNet-like network with four stages of residual blocks of one class; "
            f"stages of {type(model).__name__}: {len(found)}, {listing}. Name the places, such as at='layer3.*'"
        )
    _, res3, res4, _ = found.values()
    if preset == "nvan":
        return [*res3[-2:], *res4[-3:]]
    if preset == "paper-1":
        return [res4[max(len(res4) - 2, 0)]]
    in_res3, in_res4 = _COUNTS[preset]
    return spread(res3, in_res3) + spread(res4, in_res4)


def stages(model: nn.Module) -> dict[str, list[str]]:
    """Return the names of the residual blocks of each stage, in the network's order, without wrappers.

    In a network with an encoder and other stages, such as those of a decoder, the four stages of the encoder are
    returned: four stages in a row with residual blocks of one class whose width grows. Stages may be nested: the stages
    of a list of stages of one class are considered if the outer ones contain no encoder.
    """
    modules = named_modules(model)
    outer = {name: blocks for name, blocks in _stages(modules[""], "").items() if name in modules}  # each stage once
    inner: dict[str, list[str]] = {}
    for name, blocks in outer.items():
        inside = [_stages(modules[block], block) for block in blocks]
        nested = all(len(one) == 1 for one in inside)  # each of these blocks is a stage itself
        inner |= {path: own for one in inside for path, own in one.items()} if nested else {name: blocks}
    for found in (outer, inner):
        if len(found) == 4:
            return found
        encoder = _encoder(modules, found)
        if encoder:
            return encoder
    return outer


def _encoder(modules: dict[str, nn.Module], found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the first four stages in a row with blocks of one class whose width grows, empty if there are none.

    Stages in a row whose names differ in their numbers alone ("layer1", "layer2") come first.
    """
    widths = {name: _width(modules[blocks[-1]]) for name, blocks in found.items()}
    for numbered in (True, False):
        runs: list[list[str]] = []
        for name, blocks in found.items():
            before = runs[-1][-1] if runs else None
            goes_on = before is not None and (
                plain_type(modules[blocks[-1]]) is plain_type(modules[found[before][-1]])
                and widths[before] <= widths[name]
                and (not numbered or _without_digits(before) == _without_digits(name))
            )
            if goes_on:
                runs[-1].append(name)
            else:
                runs.append([name])
        for run in runs:
            if len(run) == 4 and widths[run[0]] < widths[run[-1]]:
                return {name: found[name] for name in run}
    return {}


def _without_digits(name: str) -> str:
    return "".join(char for char in name if not char.isdigit())


def _width(block: nn.Module) -> int:
    """Return the number of output channels of the last convolution or linear map of a block."""
    layers = [module for name, module in block.named_modules() if CHILD not in name.split(".")]
    widths = [getattr(one, "out_channels", getattr(one, "out_features", None)) for one in layers]
    return next((width for width in reversed(widths) if isinstance(width, int)), 0)


def _stages(module: nn.Module, name: str) -> dict[str, list[str]]:
    children = {join(name, child): one for child, one in named_children(module).items() if child != CHILD}
    found: dict[str, list[str]] = {}
    if not isinstance(module, nn.ModuleDict) and _are_blocks_of_a_kind(list(children.values())):
        if len(children) > 1:
            return {name: list(children)}
        ((path, child),) = children.items()
        found = _stages(child, path)
        return found if len(found) > 1 else {name: [path]}  # a network inside a module of its own, or one block
    for path, child in children.items():
        found |= _stages(child, path)
    return found


def _are_blocks_of_a_kind(children: list[nn.Module]) -> bool:
    return bool(children) and len({plain_type(child) for child in children}) == 1 and _is_residual_block(children[0])


def _is_residual_block(module: nn.Module) -> bool:
    """Return whether a module has convolutions inside, or linear maps and a normalization (a transformer's block)."""
    if isinstance(module, _CONTAINERS + _CONVS) or next(module.children(), None) is None:
        return False
    inside = list(module.modules())
    if any(isinstance(one, _CONVS) for one in inside):
        return True
    return any(isinstance(one, nn.Linear) for one in inside) and any("Norm" in type(one).__name__ for one in inside)


def spread(blocks: list[str], count: int) -> list[str]:
    """Return at most `count` evenly spaced items: the last of each of `count` equal runs."""
    count = min(count, len(blocks))
    step = len(blocks) // count if count else 1
    return blocks[step - 1 : step * count : step]
