"""PyTorch models of gluon-cv: theta, phi, g, W, bn; W and bn also appear as "W_bn.0" and "W_bn.1".

Only the embedded Gaussian form without pooling works in its code; it is scaled by d^-1/2. Networks have the names
"first_stage", "res_layers" and "fc".
"""

import re
from collections.abc import Collection

from torch_nonlocal.models.video_resnet import SLOW, TimePlan
from torch_nonlocal.weights.foreign.source import Computes, FoundBlock, NetworkNames, Source, Trunk, dotted
from torch_nonlocal.weights.places import Place, follow

_BLOCK = re.compile(r"res_layers\.(?P<stage>\d)\.(?P<index>\d+)\.nonlocal_block")
_INSIDE = re.compile(r"res_layers\.(?P<stage>[0-3])\.(?P<rest>\d+\.(?:(?:conv|bn)[1-3]|downsample\.[01])\.\w+)")
_ENDS = {"first_stage.0.": "conv1.", "first_stage.1.": "bn1.", "fc.": "fc.", "head.1.": "fc."}


def _is_own(block: FoundBlock) -> bool:
    return "norm.weight" in block.tensors or block.name.endswith("nonlocal_block")


def _place(block: str, blocks: Collection[str], keys: Collection[str]) -> Place:
    match = _BLOCK.fullmatch(block)
    if match is None:
        return follow(block, blocks, keys)
    alias = block.removesuffix(".nonlocal_block")
    return Place(f"layer{int(match['stage']) + 1}.{match['index']}", alias=alias)


def _rename(key: str, _keys: Collection[str]) -> str | None:
    for theirs, ours in _ENDS.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    match = _INSIDE.fullmatch(key)
    return match and f"layer{int(match['stage']) + 1}.{match['rest']}"


def _time(trunk: Trunk) -> TimePlan:
    if trunk.is_slow:
        return SLOW
    return TimePlan(stem_kernel=trunk.stem_kernel, stem_stride=2, pool1_kernel=1, pool1_stride=2, pool2_kernel=2)


GLUONCV = Source(
    name="gluoncv",
    project="gluon-cv (torch)",
    named=dotted({"theta": ("theta",), "phi": ("phi",), "g": ("g",), "out": ("W", "W_bn.0"), "norm": ("bn", "W_bn.1")}),
    computes=lambda block: Computes(block.form, None, scale="sqrt", assumed=()),
    is_own=_is_own,
    place=_place,
    network=NetworkNames(_rename, _time, suffix="gluoncv"),
)
