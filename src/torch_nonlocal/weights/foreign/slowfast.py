"""PySlowFast: names such as "s3.pathway0_nonlocal1.conv_theta".

The block pools x before phi and g and scales the softmax by d^-1/2. Its checkpoints hold the configuration as YAML
under "cfg", which states form and pooling; files of its model zoo do not. There, C2D and I3D use the softmax, and Slow
and SlowFast the dot product.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch_nonlocal.models.video_resnet import I3D_8X8, SLOW, TimePlan
from torch_nonlocal.weights.foreign.config_text import entry, read_yaml
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


_FORMS = {"softmax": "embedded_gaussian", "dot_product": "dot_product"}


def _is_own(block: FoundBlock) -> bool:
    spelled = block.keys.get("norm.weight", "").split(".")
    return spelled[-2:-1] == ["bn"] or _BLOCK.fullmatch(block.name) is not None


def _place(block: str, blocks: Collection[str], keys: Collection[str]) -> Place:
    match = _BLOCK.fullmatch(block)
    if match is None:
        return follow(block, blocks, keys)
    own = f"s{match['stage']}.pathway{match['pathway']}_res{match['index']}"
    if "s1.pathway1_stem.conv.weight" in keys or match["pathway"] != "0":  # only SlowFast networks have two pathways
        return Place(own)
    return Place(f"layer{int(match['stage']) - 1}.{match['index']}", alias=own)


def _rename(key: str, _keys: Collection[str]) -> str | None:
    head, _, parameter = key.rpartition(".")
    if head.startswith("s1.pathway0_stem."):
        module = _STEM.get(head.removeprefix("s1.pathway0_stem."))
        return module and f"{module}.{parameter}"
    if head == "head.projection":
        return f"fc.{parameter}"
    match = _RESIDUAL.fullmatch(head)
    module = match and _BRANCHES.get(match["rest"])
    return f"layer{int(match['stage']) - 1}.{match['index']}.{module}.{parameter}" if match and module else None


def _time(trunk: Trunk) -> TimePlan:
    if trunk.is_slow:
        return SLOW
    plan = replace(I3D_8X8, stem_kernel=trunk.stem_kernel)
    arch = str(entry(configuration(trunk.facts), "MODEL", "ARCH"))
    return replace(plan, pool2_kernel=1, pool2_stride=1) if arch.endswith("_nopool") else plan


def _computes(block: FoundBlock) -> Computes:
    form = "dot_product" if block.form == "embedded_gaussian" and _has_slow_pathway(block.file) else block.form
    return Computes(form, 2, pool_first=True, scale="sqrt", assumed=("pairwise", "subsample", "scale"))


def _has_slow_pathway(keys: Mapping[str, Any]) -> bool:
    """Whether the network is a Slow or SlowFast: time kernels of res4 in all blocks, and none in the stem."""
    return only_later_kernels(keys.get("s1.pathway0_stem.conv.weight"), keys.get("s4.pathway0_res1.branch2.a.weight"))


def configuration(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration beside the tensors; empty if there is none."""
    config = facts.get("cfg")
    if isinstance(config, str):
        return read_yaml(config)
    return config if isinstance(config, Mapping) else {}


def stated(facts: Mapping[str, Any], block: FoundBlock) -> Stated:
    """NONLOCAL.INSTANTIATION, POOL and GROUP of the configuration, or the attributes of the module in the file."""
    if notes := module_notes(facts, block.name):
        pool = notes.get("pool_size") if notes.get("use_pool", True) else None
        return _stated(notes.get("instantiation"), pool or [1, 1, 1], "the module in the file")
    config, match = configuration(facts), _BLOCK.fullmatch(block.name)
    if match is None or not config:
        return Stated()
    stage, pathway = int(match["stage"]) - 2, int(match["pathway"])
    group = _nested(entry(config, "NONLOCAL", "GROUP"), stage, pathway)
    if isinstance(group, int) and group > 1:
        raise ValueError(
            f"{block.name!r} sees its frames in {group} groups (NONLOCAL.GROUP in the file's configuration); a block "
            "of torch-nonlocal sees all frames"
        )
    pool = _nested(entry(config, "NONLOCAL", "POOL"), stage, pathway)
    return _stated(entry(config, "NONLOCAL", "INSTANTIATION"), pool, "the file's configuration (cfg)")


def _stated(instantiation: Any, pool: Any, by: str) -> Stated:
    options: dict[str, Any] = {}
    if isinstance(instantiation, str) and instantiation in _FORMS:
        options |= {"pairwise": _FORMS[instantiation], "scale": "sqrt"}
    if isinstance(pool, list | tuple) and len(pool) == 3 and all(isinstance(one, int) and one > 0 for one in pool):
        options["subsample"] = tuple(pool) if max(pool) > 1 else 1
    return Stated(options, by)


def _nested(value: Any, *indices: int) -> Any:
    for index in indices:
        value = value[index] if isinstance(value, list | tuple) and 0 <= index < len(value) else None
    return value


SLOWFAST = Source(
    name="slowfast",
    project="PySlowFast",
    named=dotted(MODULES),
    computes=_computes,
    is_own=_is_own,
    place=_place,
    stated=stated,
    network=NetworkNames(_rename, _time, notes=("inputs are (x / 255 - 0.45) / 0.225 in PySlowFast's config",)),
)
