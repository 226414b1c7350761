"""Converted blocks of every source compute the same in a user's network as in the code of their project."""

from collections import OrderedDict

import pytest
import torch
from foreign_layouts import NAMES, caffe2_blobs, formula, named_as, random_parts, save_pickle
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.weights import convert_weights

SPACE = {1: 2, 2: 2, 3: (1, 2, 2)}
SIZES = {1: (10,), 2: (6, 8), 3: (3, 4, 6)}


def network(dims, channels):
    torch.manual_seed(1)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return nn.Sequential(OrderedDict(first=conv(3, channels, 1), act=nn.ReLU())).double().eval()


def assert_computes(path, dims, parts, tmp_path, formula_options, **read_options):
    """Convert, save and load the only block of a file after "first", and compare it with the formula."""
    converted = convert_weights(path, **read_options, places=places_of(path, **read_options))
    saved = tmp_path / "ours.pt"
    converted.save(saved, whole=False)
    channels = parts["g.weight"].shape[1]
    model = network(dims, channels)
    x = torch.randn(2, 3, *SIZES[dims], generator=torch.Generator().manual_seed(2)).double()
    features = model.first(x)
    expected = formula(features, parts, **formula_options)
    nl.load_blocks(model, saved)
    assert (expected - features).abs().max() > 0.1, (
        "the block must change its input for the comparison to mean anything"
    )
    torch.testing.assert_close(model.first(x), expected, rtol=1e-5, atol=1e-5)
    return converted


def places_of(path, **read_options):
    return {place: "first" for place in convert_weights(path, **read_options).plan}


# name -> (layout, dims, options of the parts, options of the formula, options of the user, expected source)
CASES = {
    "alexhex7 pooled 3d": ("alexhex7 pooled", 3, {}, {"pool": SPACE[3]}, {}, "alexhex7"),
    "alexhex7 pooled 1d": ("alexhex7 pooled", 1, {}, {"pool": 2}, {}, "alexhex7"),
    "alexhex7 gaussian": ("alexhex7 pooled", 2, {"form": "gaussian"}, {"pool": 2}, {}, "alexhex7"),
    "alexhex7 bare": ("alexhex7 bare", 2, {"norm": None}, {}, {}, "alexhex7"),
    "alexhex7 dot": ("alexhex7", 1, {}, {"form": "dot_product"}, {"pairwise": "dot_product"}, "alexhex7"),
    "alexhex7 concatenation": ("alexhex7 pooled", 2, {"form": "concatenation"}, {"pool": 2}, {}, "alexhex7"),
    "alexhex7, pooled by the user": ("alexhex7", 3, {}, {"pool": SPACE[3]}, {"subsample": 2}, "alexhex7"),
    "densepose group norm": ("alexhex7 pooled", 2, {"norm": "group"}, {"pool": 2, "groups": 8}, {}, "alexhex7"),
    "agw": ("alexhex7", 2, {"inner": 1}, {"form": "dot_product"}, {}, "agw"),
    "tea1528": ("tea1528", 3, {}, {}, {}, "tea1528"),
    "tea1528 gaussian": ("tea1528", 1, {"form": "gaussian"}, {}, {}, "tea1528"),
    "tea1528 dot": ("tea1528", 2, {}, {"form": "dot_product"}, {"pairwise": "dot_product"}, "tea1528"),
    "tea1528 biased w_f": ("tea1528", 2, {"form": "concatenation", "score_bias": True}, {}, {}, "tea1528"),
    "slowfast": ("slowfast", 3, {}, {"pool": SPACE[3], "pool_first": True, "scale": 0.5}, {}, "slowfast"),
    "slowfast dot": (
        "slowfast",
        3,
        {},
        {"form": "dot_product", "pool": SPACE[3], "pool_first": True},
        {"pairwise": "dot_product"},
        "slowfast",
    ),
    "slowfast unpooled": ("slowfast", 3, {}, {"scale": 0.5}, {"subsample": 1}, "slowfast"),
    "pytorchvideo": ("pytorchvideo", 3, {}, {"scale": 0.5}, {}, "pytorchvideo"),
    "pytorchvideo pooled": (
        "pytorchvideo",
        3,
        {"norm": None},
        {"scale": 0.5, "pool": (2, 2, 2), "pool_first": True},
        {"subsample": (2, 2, 2)},
        "pytorchvideo",
    ),
    "mmcv": ("mmcv", 2, {"norm": None}, {"scale": 0.5}, {}, "mmcv"),
    "mmcv unscaled": ("mmcv", 2, {"norm": None}, {}, {"scale": 1}, "mmcv"),
    "mmcv normed, pooled": ("mmcv pooled", 3, {"biases": "inside"}, {"scale": 0.5, "pool": SPACE[3]}, {}, "mmcv"),
    "mmcv gaussian": (
        "mmcv pooled",
        3,
        {"form": "gaussian", "biases": "inside"},
        {"form": "gaussian", "pool": SPACE[3]},
        {},
        "mmcv",
    ),
    "mmcv concatenation": ("mmcv pooled", 2, {"form": "concatenation"}, {"pool": 2}, {}, "mmcv"),
    "gcnet": ("mmcv", 2, {}, {"scale": 2.0}, {"source": "gcnet"}, "gcnet"),
    "timm": ("timm", 2, {"channels": 16}, {"scale": 0.25}, {}, "timm"),
    "cgnl": ("cgnl", 2, {"biases": False}, {"scale": 0.5}, {}, "cgnl"),
    "gluoncv": ("gluoncv", 3, {}, {"scale": 0.5}, {}, "gluoncv"),
}


@pytest.mark.parametrize("case", CASES)
def test_blocks_compute_the_same_as_in_their_project(case, tmp_path):
    layout, dims, parts_options, formula_options, read_options, source = CASES[case]
    parts = random_parts(dims, **parts_options)
    formula_options = {"form": parts_options.get("form", "embedded"), **formula_options}
    path = tmp_path / "theirs.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in named_as(layout, parts, "net.nl").items()}}, path)
    converted = assert_computes(path, dims, parts, tmp_path, formula_options, **read_options)
    assert converted.source == source
    assert converted.left_over == []


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("norm", ["batch", "affine", None])
def test_blocks_of_caffe2_pickles_compute_the_same_as_the_code_of_the_paper(tmp_path, norm, protocol):
    parts = random_parts(3, norm=norm)
    path = tmp_path / "theirs.pkl"
    save_pickle(path, {"blobs": caffe2_blobs(parts, "nonlocal_conv3_1")}, protocol)
    expected = {"pool": SPACE[3], "pool_first": True, "scale": 0.5}
    converted = assert_computes(path, 3, parts, tmp_path, expected)
    assert converted.source == "caffe2"
    assert all(key.endswith("_momentum") for key in converted.left_over)


def test_blocks_of_mmaction2_are_not_scaled(tmp_path):
    parts = random_parts(3, biases="inside")
    path = tmp_path / "theirs.pth"
    torch.save(named_as("mmcv pooled", parts, "backbone.layer2.1.non_local_block"), path)
    converted = assert_computes(path, 3, parts, tmp_path, {"pool": SPACE[3]})
    assert any("scale=None" in said for said in converted.assumptions)


def test_safetensors_files_are_converted(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="pip install 'torch-nonlocal[checkpoints]'")
    parts = random_parts(2)
    path = tmp_path / "theirs.safetensors"
    safetensors.save_file(named_as("timm", parts, "attn"), path)
    assert_computes(path, 2, parts, tmp_path, {"scale": 8**-0.5})


def test_arrays_in_fortran_order_keep_their_values(tmp_path):
    numpy = pytest.importorskip("numpy")
    parts = random_parts(3)
    blobs = caffe2_blobs(parts, "nonlocal_conv3_1")
    blobs = {key: numpy.asfortranarray(value) for key, value in blobs.items()}
    save_pickle(tmp_path / "theirs.pkl", {"blobs": blobs})
    converted = convert_weights(tmp_path / "theirs.pkl")
    assert torch.equal(converted.tensors["layer2.1/theta.weight"], parts["theta.weight"])


# (layout, block, other keys of the file, expected place)
PLACES = [
    ("alexhex7", "layer2.1.nl", (), "layer2.1"),
    ("alexhex7", "nl_1", ("conv_1.weight",), "nl_1"),
    ("alexhex7", "", (), ""),
    ("alexhex7 pooled", "layer2.2", ("layer2.0.conv1.weight", "layer2.1.conv1.weight"), "layer2.1"),
    ("cgnl", "layer3.5", tuple(f"layer3.{i}.conv1.weight" for i in (0, 1, 2, 3, 4, 6)), "layer3.4"),
    ("tea1528", "base.layer2.0.non_local", (), "base.layer2.0"),
    ("slowfast", "s3.pathway0_nonlocal1", (), "layer2.1"),
    ("slowfast", "s4.pathway1_nonlocal3", ("s1.pathway1_stem.conv.weight",), "s4.pathway1_res3"),
    ("mmcv pooled", "backbone.layer3.5.non_local_block", (), "layer3.5"),
    ("gluoncv", "res_layers.1.3.nonlocal_block", (), "layer2.3"),
    ("timm", "layer3.1.se", ("layer3.1.bn3.weight", "layer3.1.bn2.weight"), "layer3.1.bn3"),
    ("timm", "layer1.0.se", ("layer1.0.bn2.weight",), "layer1.0.bn2"),
    ("alexhex7", "base.NL_2.0", tuple(f"base.layer2.{i}.conv1.weight" for i in range(4)), "base.layer2.3"),
]


@pytest.mark.parametrize(("layout", "block", "others", "place"), PLACES)
def test_the_place_is_the_module_that_the_block_follows(tmp_path, layout, block, others, place):
    path = tmp_path / "theirs.pth"
    torch.save({**named_as(layout, random_parts(2), block), **{key: torch.zeros(3) for key in others}}, path)
    converted = convert_weights(path)
    assert list(converted.plan) == [place]
    assert converted.left_over == list(others)


def test_several_blocks_in_a_sequential_are_counted_without_each_other(tmp_path):
    parts = random_parts(3)
    state = {f"layer2.{i}.conv1.weight": torch.zeros(1) for i in (0, 1, 3, 4)}
    state |= named_as("alexhex7 pooled", parts, "layer2.2") | named_as("alexhex7 pooled", parts, "layer2.5")
    torch.save(state, tmp_path / "theirs.pth")
    assert list(convert_weights(tmp_path / "theirs.pth").plan) == ["layer2.1", "layer2.3"]


def test_agw_blocks_follow_the_last_residual_blocks(tmp_path):
    state = {f"layer3.{i}.conv1.weight": torch.zeros(1) for i in range(6)}
    for index in range(3):
        state |= named_as("alexhex7", random_parts(2, inner=1), f"NL_3.{index}")
    torch.save(state, tmp_path / "theirs.pth")
    assert list(convert_weights(tmp_path / "theirs.pth").plan) == ["layer3.3", "layer3.4", "layer3.5"]


def test_assumptions_name_what_neither_the_keys_nor_the_user_determine(tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save(named_as("slowfast", random_parts(3), "s3.pathway0_nonlocal1"), path)
    said = " ".join(convert_weights(path).assumptions)
    assert all(word in said for word in ("pairwise='embedded_gaussian'", "subsample=2", "scale='sqrt'"))
    assert convert_weights(path, pairwise="embedded_gaussian", subsample=2, scale="sqrt").assumptions == []


def test_clips_in_a_network_of_images_are_reported(tmp_path):
    path = tmp_path / "theirs.pth"
    state = named_as("alexhex7 pooled", random_parts(3), "base_model.layer2.0.nl")
    torch.save({**state, "base_model.layer2.0.block.conv1.weight": torch.zeros(2, 2, 1, 1)}, path)
    converted = convert_weights(path)
    assert list(converted.plan) == ["base_model.layer2.0"]
    assert any("2D convolutions" in said for said in converted.assumptions)


def test_half_precision_weights_stay_half(tmp_path):
    path = tmp_path / "theirs.pth"
    parts = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in random_parts(2).items()}
    torch.save(named_as("timm", parts, "attn"), path)
    assert {tensor.dtype for tensor in convert_weights(path).tensors.values()} == {torch.float16, torch.int64}


def test_every_layout_is_tested():
    assert {case[0] for case in CASES.values()} == set(NAMES)
