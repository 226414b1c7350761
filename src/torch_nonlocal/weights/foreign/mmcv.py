"""NonLocal of mmcv and networks of mmaction2: every convolution is a child "conv" of its module.

The block pools after phi and g ("g.0.conv"). The embedded Gaussian form is scaled by d^-1/2 unless `use_scale=False`,
which mmaction2's published models use. NonLocal2D of GCNet has the same names but multiplies by d^1/2; only
`source="gcnet"` selects it.
"""

import re
from collections.abc import Collection

from torch_nonlocal.models.video_resnet import TimePlan
from torch_nonlocal.weights.foreign.source import Computes, FoundBlock, NetworkNames, Source, dotted
from torch_nonlocal.weights.places import Place, follow

_NAMED = dotted(
    {
        "theta": ("theta.conv",),
        "phi": ("phi.0.conv", "phi.conv"),
        "g": ("g.0.conv", "g.conv"),
        "out": ("conv_out.conv",),
        "norm": ("conv_out.bn", "conv_out.gn"),
        "score": ("concat_project.conv",),
    }
)
_CONV = re.compile(r"(?P<owner>(?:layer[1-4]\.\d+\.)?)conv(?P<number>[1-3])\.(?P<kind>conv|bn)\.(?P<parameter>\w+)")
_SHORTCUT = re.compile(r"(?P<owner>layer[1-4]\.\d+\.)downsample\.(?P<kind>conv|bn)\.(?P<parameter>\w+)")
BACKBONE, HEAD = "backbone.", "cls_head.fc_cls."


def _in_mmaction2(block: FoundBlock) -> bool:
    return block.name.endswith("non_local_block")


def _computes(block: FoundBlock) -> Computes:
    alike = block.form == "embedded_gaussian"
    scale = "sqrt" if alike and not _in_mmaction2(block) else None
    return Computes(
        block.form,
        2 if block.pools_after else None,
        scale=scale,
        assumed=("pairwise", "scale") if alike else (),
    )


def _computes_gcnet(block: FoundBlock) -> Computes:
    scale = float(block.tensors["g.weight"].shape[0] ** 0.5)
    return Computes(block.form, 2 if block.pools_after else None, scale=scale, assumed=("pairwise", "scale"))


def _place(block: str, blocks: Collection[str], keys: Collection[str]) -> Place:
    place, note = follow(block, blocks, keys)
    return Place(place.removeprefix(BACKBONE), note)


def _rename(key: str) -> str | None:
    if key.startswith(HEAD):
        return f"fc.{key.removeprefix(HEAD)}"
    if not key.startswith(BACKBONE):
        return None
    inside = key.removeprefix(BACKBONE)
    if match := _CONV.fullmatch(inside):
        module = "conv" if match["kind"] == "conv" else "bn"
        return f"{match['owner']}{module}{match['number']}.{match['parameter']}"
    if match := _SHORTCUT.fullmatch(inside):
        return f"{match['owner']}downsample.{0 if match['kind'] == 'conv' else 1}.{match['parameter']}"
    return None


def _time(stem_kernel: int) -> TimePlan:
    return TimePlan(stem_kernel=stem_kernel, stem_stride=2, pool1_kernel=1, pool1_stride=2, pool2_kernel=2)


MMCV = Source(
    name="mmcv",
    project="mmcv or mmaction2",
    named=_NAMED,
    computes=_computes,
    place=_place,
    network=NetworkNames(
        _rename,
        _time,
        notes=("time strides are those of mmaction2's I3D config; inputs use its mean and std, for [0, 255]",),
    ),
)
GCNET = Source(
    name="gcnet",
    project="GCNet's NonLocal2D",
    named=_NAMED,
    computes=_computes_gcnet,
    is_own=lambda _: False,  # the names are those of mmcv
)
