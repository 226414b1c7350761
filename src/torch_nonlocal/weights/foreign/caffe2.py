"""Caffe2 blobs of video-nonlocal-net, such as "nonlocal_conv3_1_theta_w" and "res2_0_branch2a_bn_riv".

The block pools x by 1 x 2 x 2 before phi and g and scales the softmax by d^-1/2. The 32 x 4 and 128-frame models are
"affine": norms of the network have only weight and bias, and their blocks have no norm.
"""

import re
from collections.abc import Collection
from dataclasses import replace

from torch_nonlocal.models.video_resnet import I3D_8X8, TimePlan
from torch_nonlocal.weights.foreign.source import Computes, Named, NetworkNames, Source, Trunk, norm_key
from torch_nonlocal.weights.places import Place, follow

_BLOCK = re.compile(r"nonlocal_conv(?P<stage>\d)_(?P<index>\d+)")
_PART = re.compile(rf"(?P<block>{_BLOCK.pattern})_(?:(?P<conv>theta|phi|g|out)_(?P<kind>[wb])|bn_(?P<norm>s|b|rm|riv))")
_CONV_KINDS = {"w": "weight", "b": "bias"}
_RESIDUAL = re.compile(r"res(?P<stage>[2-5])_(?P<index>\d+)_branch(?P<branch>1|2[abc])_(?P<rest>w|bn_(?:s|b|rm|riv))")
_ENDS = {"conv1_w": "conv1.weight", "pred_w": "fc.weight", "pred_b": "fc.bias"}


def _named(key: str) -> Named | None:
    match = _PART.fullmatch(key)
    if match is None:
        return None
    if match["conv"]:
        return Named(match["block"], f"{match['conv']}.{_CONV_KINDS[match['kind']]}")
    return Named(match["block"], f"norm.{norm_key(match['norm'])}")


def _place(block: str, blocks: Collection[str], keys: Collection[str]) -> Place:
    match = _BLOCK.fullmatch(block)
    if match is None:
        return follow(block, blocks, keys)
    affine = "res_conv1_bn_s" in keys and "res_conv1_bn_rm" not in keys
    grouped = f"{block}: blocks of res3 in affine models see 4 frames at a time; the converted block sees all frames"
    return Place(
        f"layer{int(match['stage']) - 1}.{match['index']}", grouped if affine and match["stage"] == "3" else None
    )


def _rename(key: str, _keys: Collection[str]) -> str | None:
    if key in _ENDS:
        return _ENDS[key]
    if key.startswith("res_conv1_bn_"):
        parameter = norm_key(key.removeprefix("res_conv1_bn_"))
        return parameter and f"bn1.{parameter}"
    match = _RESIDUAL.fullmatch(key)
    if match is None:
        return None
    number = 0 if match["branch"] == "1" else "abc".index(match["branch"][1]) + 1
    if match["rest"] == "w":
        module = f"conv{number}.weight" if number else "downsample.0.weight"
    else:
        parameter = norm_key(match["rest"].removeprefix("bn_"))
        module = f"bn{number}.{parameter}" if number else f"downsample.1.{parameter}"
    return f"layer{int(match['stage']) - 1}.{match['index']}.{module}"


def _time(trunk: Trunk) -> TimePlan:
    return replace(I3D_8X8, stem_kernel=trunk.stem_kernel, pool1_padding=0)


CAFFE2 = Source(
    name="caffe2",
    project="video-nonlocal-net (Caffe2)",
    named=_named,
    computes=lambda block: Computes(
        block.form, 2, pool_first=True, scale="sqrt", assumed=("pairwise", "subsample", "scale")
    ),
    place=_place,
    network=NetworkNames(
        _rename, _time, notes=("inputs are (x - 114.75) / 57.375 for x in [0, 255]",), suffix="caffe2"
    ),
    affine=True,
)
