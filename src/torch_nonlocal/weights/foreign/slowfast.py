"""PySlowFast: names such as "s3.pathway0_nonlocal1.conv_theta".

The block pools x before phi and g and scales the softmax by d^-1/2. Whole networks are its C2D and I3D, which have a
single pathway and the time strides of the "_8x8" models of torch-nonlocal.
"""

import re
from collections.abc import Collection

from torch_nonlocal.models.video_resnet import TimePlan
from torch_nonlocal.weights.foreign.source import Computes, FoundBlock, NetworkNames, Source, dotted
from torch_nonlocal.weights.places import Place, follow

MODULES = {
    "theta": ("conv_theta",),
    "phi": ("conv_phi",),
    "g": ("conv_g",),
    "out": ("conv_out",),
    "norm": ("bn", "norm"),
}
_BLOCK = re.compile(r"s(?P<stage>\d)\.pathway(?P<pathway>\d)_nonlocal(?P<index>\d+)")
_RESIDUAL = re.compile(r"s(?P<stage>[2-5])\.pathway0_res(?P<index>\d+)\.(?P<rest>.+)")
_STEM = {"conv": "conv1", "bn": "bn1"}
_BRANCHES = {"branch1": "downsample.0", "branch1_bn": "downsample.1"}
_BRANCHES |= {f"branch2.{letter}": f"conv{number}" for number, letter in enumerate("abc", 1)}
_BRANCHES |= {f"branch2.{letter}_bn": f"bn{number}" for number, letter in enumerate("abc", 1)}


def _is_own(block: FoundBlock) -> bool:
    spelled = block.keys.get("norm.weight", "").split(".")
    return spelled[-2:-1] == ["bn"] or _BLOCK.fullmatch(block.name) is not None


def _place(block: str, blocks: Collection[str], keys: Collection[str]) -> Place:
    match = _BLOCK.fullmatch(block)
    if match is None:
        return follow(block, blocks, keys)
    if any(".pathway1_" in key for key in keys):  # only SlowFast networks have two pathways
        return Place(f"s{match['stage']}.pathway{match['pathway']}_res{match['index']}")
    return Place(f"layer{int(match['stage']) - 1}.{match['index']}")


def _rename(key: str) -> str | None:
    head, _, parameter = key.rpartition(".")
    if head.startswith("s1.pathway0_stem."):
        module = _STEM.get(head.removeprefix("s1.pathway0_stem."))
        return module and f"{module}.{parameter}"
    if head == "head.projection":
        return f"fc.{parameter}"
    match = _RESIDUAL.fullmatch(head)
    module = match and _BRANCHES.get(match["rest"])
    return f"layer{int(match['stage']) - 1}.{match['index']}.{module}.{parameter}" if match and module else None


def _time(stem_kernel: int) -> TimePlan:
    return TimePlan(stem_kernel=stem_kernel, stem_stride=1, pool1_kernel=1, pool1_stride=1, pool2_kernel=2)


SLOWFAST = Source(
    name="slowfast",
    project="PySlowFast",
    named=dotted(MODULES),
    computes=lambda block: Computes(
        block.form, 2, pool_first=True, scale="sqrt", assumed=("pairwise", "subsample", "scale")
    ),
    is_own=_is_own,
    place=_place,
    network=NetworkNames(_rename, _time, notes=("inputs are (x / 255 - 0.45) / 0.225 in PySlowFast's config",)),
)
