"""NonLocal of mmcv and networks of mmaction2: every convolution is a child "conv" of its module.

The block pools after phi and g ("g.0.conv"). The embedded Gaussian form is scaled by d^-1/2 unless `use_scale=False`,
which mmaction2's published I3D and TSM use, but not its SlowOnly. Checkpoints of mmaction2 hold their configuration as
Python text under "meta", which states form and scale. NonLocal2D of GCNet has the same names but multiplies by d^1/2;
only `source="gcnet"` selects it.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch_nonlocal.layers.options import PAIRWISE
from torch_nonlocal.models.video_resnet import SLOW, TimePlan
from torch_nonlocal.weights.foreign.config_text import entry, read_python
from torch_nonlocal.weights.foreign.source import (
    Computes,
    FoundBlock,
    NetworkNames,
    Source,
    Stated,
    Trunk,
    dotted,
    module_notes,
    only_later_kernels,
)
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


def _is_slow(file: Mapping[str, Any]) -> bool:
    """Whether the network is a SlowOnly: time kernels in its last stages, and none in the stem."""
    return only_later_kernels(file.get("backbone.conv1.conv.weight"), file.get("backbone.layer3.1.conv1.conv.weight"))


def backbone_configuration(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the backbone beside the tensors; empty if there is none."""
    meta = facts.get("meta")
    for config in (entry(meta, "cfg"), entry(meta, "config"), facts.get("cfg")):
        model = read_python(config, "model") if isinstance(config, str) else entry(config, "model")
        if isinstance(backbone := entry(model, "backbone"), Mapping):
            return backbone
    return {}


def _stated(facts: Mapping[str, Any], block: FoundBlock) -> Stated:
    """`non_local_cfg` of the configuration, or the attributes of the module in the file."""
    notes, by = module_notes(facts, block.name), "the module in the file"
    if not notes and _in_mmaction2(block):
        backbone = backbone_configuration(facts)
        notes, by = entry(backbone, "non_local_cfg"), "the file's configuration (meta)"
        if not isinstance(notes, Mapping) or not backbone.get("non_local"):
            return Stated()
        notes = {"mode": "embedded_gaussian", "use_scale": True, **notes}  # mmcv's defaults
    if not notes or str(notes.get("mode")) not in PAIRWISE:
        return Stated()
    options: dict[str, Any] = {"pairwise": str(notes["mode"])}
    if isinstance(notes.get("use_scale"), bool):
        options["scale"] = "sqrt" if notes["use_scale"] and notes["mode"] == "embedded_gaussian" else 1
    return Stated(options, by)


def _computes(block: FoundBlock) -> Computes:
    alike = block.form == "embedded_gaussian"
    scale = "sqrt" if alike and (not _in_mmaction2(block) or _is_slow(block.file)) else None
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
    usual = follow(block, blocks, keys)
    return usual._replace(name=usual.name.removeprefix(BACKBONE))


def _rename(key: str, _keys: Collection[str]) -> str | None:
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


def _time(trunk: Trunk) -> TimePlan:
    """The strides that the file's configuration states, otherwise those of mmaction2's configuration files."""
    usual = SLOW if trunk.is_slow else TimePlan(trunk.stem_kernel, stem_stride=2, pool1_kernel=1, pool2_kernel=2)
    backbone = backbone_configuration(trunk.facts)
    for name, expected in (("style", "pytorch"), ("temporal_strides", [1] * 4), ("spatial_strides", [1, 2, 2, 2])):
        found = backbone.get(name, expected)
        if (list(found) if isinstance(found, tuple) else found) != expected:
            raise ValueError(f"its backbone has {name}={backbone[name]!r}, a VideoResNet has {expected!r}")
    strides = {
        ours: value
        for ours, theirs in (("stem_stride", "conv1_stride_t"), ("pool1_stride", "pool1_stride_t"))
        if isinstance(value := backbone.get(theirs), int) and value > 0
    }
    pools = {True: (2, 2), False: (1, 1)}.get(backbone.get("with_pool2", ...))
    if pools:
        strides |= {"pool2_kernel": pools[0], "pool2_stride": pools[1]}
    return replace(usual, **strides)


MMCV = Source(
    name="mmcv",
    project="mmcv or mmaction2",
    named=_NAMED,
    computes=_computes,
    place=_place,
    stated=_stated,
    network=NetworkNames(
        _rename,
        _time,
        notes=(
            "inputs use mmaction2's mean and std, for [0, 255]; strides are those of its configuration files if the "
            "file holds no configuration",
        ),
        suffix="mmaction2",
    ),
)
GCNET = Source(
    name="gcnet",
    project="GCNet's NonLocal2D",
    named=_NAMED,
    computes=_computes_gcnet,
    is_own=lambda _: False,  # the names are those of mmcv
)
