"""PyTorchVideo: the block of PySlowFast with "norm" for "bn", without pooling by default.

Its ResNets (c2d_r50, i3d_r50, slow_r50 and their like) use no block. Those with a pool after res2 count it as a block
of the network, so that res3 is "blocks.3" there and "blocks.2" in slow_r50.
"""

import re
from collections.abc import Collection
from dataclasses import replace

from torch_nonlocal.models.video_resnet import I3D_8X8, SLOW, TimePlan
from torch_nonlocal.weights.foreign.slowfast import MODULES, stated
from torch_nonlocal.weights.foreign.source import Computes, NetworkNames, Source, Trunk, dotted

_RESIDUAL = re.compile(r"blocks\.(?P<stage>[1-5])\.res_blocks\.(?P<index>\d+)\.(?P<rest>.+)\.(?P<parameter>\w+)")
_STEM = {"conv": "conv1", "norm": "bn1"}
_BRANCHES = {"branch1_conv": "downsample.0", "branch1_norm": "downsample.1"}
_BRANCHES |= {f"branch2.conv_{letter}": f"conv{number}" for number, letter in enumerate("abc", 1)}
_BRANCHES |= {f"branch2.norm_{letter}": f"bn{number}" for number, letter in enumerate("abc", 1)}


def _rename(key: str, keys: Collection[str]) -> str | None:
    pooled = "blocks.6.proj.weight" in keys
    head, _, parameter = key.rpartition(".")
    if head.startswith("blocks.0."):
        module = _STEM.get(head.removeprefix("blocks.0."))
        return module and f"{module}.{parameter}"
    if head == f"blocks.{6 if pooled else 5}.proj":
        return f"fc.{parameter}"
    match = _RESIDUAL.fullmatch(key)
    module = match and _BRANCHES.get(match["rest"])
    if not match or not module:
        return None
    stage = int(match["stage"]) - (pooled and int(match["stage"]) > 2)
    return f"layer{stage}.{match['index']}.{module}.{parameter}"


def _time(trunk: Trunk) -> TimePlan:
    return SLOW if trunk.is_slow else replace(I3D_8X8, stem_kernel=trunk.stem_kernel)


PYTORCHVIDEO = Source(
    name="pytorchvideo",
    project="PyTorchVideo",
    named=dotted(MODULES),
    computes=lambda block: Computes(
        block.form, None, pool_first=True, scale="sqrt", assumed=("pairwise", "subsample", "scale")
    ),
    stated=stated,
    network=NetworkNames(_rename, _time, notes=("inputs are (x / 255 - 0.45) / 0.225 in PyTorchVideo's hub",)),
)
