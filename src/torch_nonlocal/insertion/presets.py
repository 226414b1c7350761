"""The paper's placements, for ResNet-like networks of any depth: stages and blocks are found by structure, not by name.

A stage is a module whose children are all residual blocks of one class. Networks with four of them have res2 to res5:
ResNets, ResNeXts, RegNets and ConvNeXts of torchvision and timm, video ResNets, detectors and segmenters on these.
"""

from torch import nn

PRESETS = ("paper-1", "paper-5", "paper-10")
_COUNTS = {"paper-5": (2, 3), "paper-10": (4, 6)}  # blocks in res3 and in res4 (section 5.1, "going deeper")
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def preset_places(model: nn.Module, preset: str) -> list[str]:
    """Names of the modules that a preset puts blocks after.

    "paper-1": right before the last residual block of res4. "paper-5": two in res3 and three in res4; "paper-10": four
    and six. They are spread evenly, ending each run of blocks: every other block of a ResNet-50, blocks 6, 13 and 20 of
    a ResNet-101's res4 in "paper-5". A stage with fewer residual blocks gets one after each.

    Args:
        model: a network with four stages.
        preset: one of `PRESETS`.

    Raises:
        ValueError: another preset, or a network without four stages; the message lists the stages found.
    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, section 5.1 and table 2.
    """
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}: expected one of {', '.join(map(repr, PRESETS))}")
    found = stages(model)
    if len(found) != 4:
        listing = ", ".join(f"{name} ({len(blocks)})" for name, blocks in found.items()) or "none"
        raise ValueError(
            f"at={preset!r} needs a ResNet-like network, four stages of residual blocks of one class; "
            f"{type(model).__name__} has {len(found)}: {listing}. Name the places instead, such as at='layer3.*'"
        )
    _, res3, res4, _ = found.values()
    if preset == "paper-1":
        return [res4[max(len(res4) - 2, 0)]]
    in_res3, in_res4 = _COUNTS[preset]
    return spread(res3, in_res3) + spread(res4, in_res4)


def stages(model: nn.Module) -> dict[str, list[str]]:
    """The stages of a network by name, each with the names of its residual blocks, in the network's order.

    Outermost ones; where these are not four but hold four (a list of stages of one class), those.
    """
    outer = _stages(model, "")
    inner = {
        name: blocks
        for stage in outer.values()
        for block in stage
        for name, blocks in _stages(model.get_submodule(block), block).items()
    }
    return inner if len(outer) != 4 and len(inner) == 4 else outer


def _stages(module: nn.Module, name: str) -> dict[str, list[str]]:
    children = {f"{name}.{child}" if name else child: inside for child, inside in module.named_children()}
    if not isinstance(module, nn.ModuleDict) and _are_blocks_of_a_kind(list(children.values())):
        return {name: list(children)}
    found: dict[str, list[str]] = {}
    for path, child in children.items():
        found |= _stages(child, path)
    return found


def _are_blocks_of_a_kind(children: list[nn.Module]) -> bool:
    return bool(children) and len({type(child) for child in children}) == 1 and _is_residual_block(children[0])


def _is_residual_block(module: nn.Module) -> bool:
    if isinstance(module, _CONTAINERS + _CONVS) or next(module.children(), None) is None:
        return False
    return any(isinstance(inside, _CONVS) for inside in module.modules())


def spread(blocks: list[str], count: int) -> list[str]:
    """At most `count` blocks, each the last of an equal run."""
    count = min(count, len(blocks))
    step = len(blocks) // count if count else 1
    return blocks[step - 1 : step * count : step]
