"""Whole ResNets of other projects are converted: every tensor has its place, and the scores are equal."""

import pytest
import torch
import torch.nn.functional as F
from foreign_layouts import caffe2_blobs, formula, named_as, random_parts, save_pickle

import torch_nonlocal as nl
from torch_nonlocal.weights import convert_weights

COUNTS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
NORM = ("weight", "bias", "running_mean", "running_var")
CAFFE2_NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
CLASSES = 5
PAPER_5 = ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"]


def inflated(stage, index):
    """Whether a residual block of I3D has a time kernel: all of res2, every second of res3 and res4, one of res5."""
    return (True, index % 2 == 0, index % 2 == 0, index % 2 == 1)[stage]


def layers(depth, i3d, middle=False, slow=False):
    """(stage, block, convolution, weight shape) without stem and fc; stage 0 is res2, convolution 0 the shortcut."""
    width_in = 64
    for stage, count in enumerate(COUNTS[depth]):
        width = 64 * 2**stage
        for index in range(count):
            t = 3 if (stage >= 2 if slow else i3d and inflated(stage, index)) else 1
            t1, t2 = (1, t) if middle else (t, 1)
            if index == 0:
                yield stage, index, 0, (4 * width, width_in, 1, 1, 1)
            yield stage, index, 1, (width, width_in, t1, 1, 1)
            yield stage, index, 2, (width, width, t2, 3, 3)
            yield stage, index, 3, (4 * width, width, 1, 1, 1)
            width_in = 4 * width


def caffe2_names(stage, index, number):
    branch = f"res{stage + 2}_{index}_branch" + ("1" if number == 0 else "2" + " abc"[number])
    return f"{branch}_w", {name: f"{branch}_bn_{short}" for name, short in CAFFE2_NORM.items()}


def slowfast_names(stage, index, number):
    start = f"s{stage + 2}.pathway0_res{index}."
    module = "branch1" if number == 0 else "branch2." + " abc"[number]
    return f"{start}{module}.weight", {name: f"{start}{module}_bn.{name}" for name in NORM}


def mmaction2_names(stage, index, number):
    module = f"backbone.layer{stage + 1}.{index}." + ("downsample" if number == 0 else f"conv{number}")
    return f"{module}.conv.weight", {name: f"{module}.bn.{name}" for name in NORM}


def gluoncv_names(stage, index, number):
    start = f"res_layers.{stage}.{index}."
    conv, norm = ("downsample.0", "downsample.1") if number == 0 else (f"conv{number}", f"bn{number}")
    return f"{start}{conv}.weight", {name: f"{start}{norm}.{name}" for name in NORM}


def pytorchvideo_names(pooled):
    def names(stage, index, number):
        start = f"blocks.{stage + 1 + (pooled and stage > 0)}.res_blocks.{index}."
        conv, norm = (
            ("branch1_conv", "branch1_norm") if number == 0 else (f"branch2.{n}_{'_abc'[number]}" for n in PARTS)
        )
        return f"{start}{conv}.weight", {name: f"{start}{norm}.{name}" for name in NORM}

    return names


PARTS = ("conv", "norm")


def plain_norm(module):
    return {name: f"{module}.{name}" for name in NORM}


def pytorchvideo(pooled):
    head = "blocks.6.proj" if pooled else "blocks.5.proj"
    ends = (f"{head}.weight", f"{head}.bias")
    return pytorchvideo_names(pooled), "blocks.0.conv.weight", plain_norm("blocks.0.norm"), ends, ""


# source -> names of residual blocks, stem, norm of the stem, last layer and non-local block
LAYOUTS = {
    "caffe2": (
        caffe2_names,
        "conv1_w",
        {name: f"res_conv1_bn_{short}" for name, short in CAFFE2_NORM.items()},
        ("pred_w", "pred_b"),
        "nonlocal_conv{3}_{1}",
    ),
    "slowfast": (
        slowfast_names,
        "s1.pathway0_stem.conv.weight",
        plain_norm("s1.pathway0_stem.bn"),
        ("head.projection.weight", "head.projection.bias"),
        "s{3}.pathway0_nonlocal{1}",
    ),
    "mmcv": (
        mmaction2_names,
        "backbone.conv1.conv.weight",
        plain_norm("backbone.conv1.bn"),
        ("cls_head.fc_cls.weight", "cls_head.fc_cls.bias"),
        "backbone.layer{2}.{1}.non_local_block",
    ),
    "gluoncv": (
        gluoncv_names,
        "first_stage.0.weight",
        plain_norm("first_stage.1"),
        ("fc.weight", "fc.bias"),
        "res_layers.{1}.{1}.nonlocal_block",
    ),
    "pytorchvideo": pytorchvideo(pooled=True),
    "pytorchvideo slow": pytorchvideo(pooled=False),
}


def rows(source, depth=50, i3d=True, middle=False, slow=False):
    """(key of the source, key of VideoResNet, shape) of every tensor without the non-local blocks."""
    names, stem, stem_norm, (fc_weight, fc_bias), _ = LAYOUTS[source]
    table = [(stem, "conv1.weight", (64, 3, 5 if i3d and not slow else 1, 7, 7))]
    table += [(theirs, f"bn1.{name}", (64,)) for name, theirs in stem_norm.items()]
    for stage, index, number, shape in layers(depth, i3d, middle, slow):
        conv, norm = names(stage, index, number)
        ours = f"layer{stage + 1}.{index}."
        ours_conv, ours_norm = ("downsample.0", "downsample.1") if number == 0 else (f"conv{number}", f"bn{number}")
        table.append((conv, f"{ours}{ours_conv}.weight", shape))
        table += [(theirs, f"{ours}{ours_norm}.{name}", (shape[0],)) for name, theirs in norm.items()]
    return [*table, (fc_weight, "fc.weight", (CLASSES, 2048)), (fc_bias, "fc.bias", (CLASSES,))]


def numbered(table):
    """Tensors filled with their number, in half precision, which keeps files small."""
    return {
        theirs: torch.full(shape, float(number), dtype=torch.half) for number, (theirs, _, shape) in enumerate(table)
    }


@pytest.mark.parametrize(
    ("source", "depth", "kernels", "name"),
    [
        ("slowfast", 50, {}, "i3d_resnet50_8x8"),
        ("slowfast", 50, {"slow": True}, "slow_resnet50"),
        ("mmcv", 50, {}, "i3d_resnet50.mmaction2"),
        ("mmcv", 101, {"slow": True}, "slow_resnet101"),
        ("gluoncv", 50, {}, "i3d_resnet50.gluoncv"),
        ("slowfast", 101, {"i3d": False}, "c2d_resnet101_8x8"),
        ("mmcv", 50, {"middle": True}, "i3d_resnet50_3x3x3.mmaction2"),
        ("pytorchvideo", 50, {}, "i3d_resnet50_8x8"),
        ("pytorchvideo slow", 50, {"slow": True}, "slow_resnet50"),
    ],
)
def test_every_tensor_gets_its_name(tmp_path, source, depth, kernels, name):
    table = rows(source, depth, **kernels)
    torch.save({"state_dict": numbered(table)}, tmp_path / "theirs.pth")
    converted = convert_weights(tmp_path / "theirs.pth")
    network = converted.network
    assert network is not None
    assert converted.source == source.split()[0]
    assert network.arguments == {"name": name, "num_classes": CLASSES}
    for number, (_, ours, shape) in enumerate(table):
        assert network.state[ours].shape == shape
        assert network.state[ours].flatten()[0] == number, ours
    with torch.device("meta"):
        expected = nl.create_model(name, num_classes=CLASSES).state_dict()
    assert set(network.state) == {key for key in expected if not key.endswith("num_batches_tracked")}
    assert converted.left_over == []
    assert converted.renamed == {theirs: ours for theirs, ours, _ in table}


def test_networks_include_their_blocks(tmp_path):
    state = numbered(rows("slowfast"))
    for index in (1, 3):
        parts = random_parts(3, channels=512, inner=256, seed=index)
        state |= named_as("slowfast", parts, f"s3.pathway0_nonlocal{index}")
    state["optimizer.step"] = torch.zeros(1)
    torch.save({"model_state": state}, tmp_path / "theirs.pyth")
    converted = convert_weights(tmp_path / "theirs.pyth")
    network = converted.network
    assert network is not None
    assert network.arguments == {
        "name": "i3d_resnet50_8x8",
        "num_classes": CLASSES,
        "non_local": ["layer2.1", "layer2.3"],
        "pairwise": "embedded_gaussian",
        "subsample": 2,
        "pool_first": True,
        "scale": "sqrt",
        "norm": "batch",
    }
    assert torch.equal(network.state["layer2.3.non_local.g.weight"], parts["g.weight"])
    assert converted.left_over == ["optimizer.step"]


# difference from a VideoResNet -> (change of the table, pattern of the reason)
NOT_OURS = {
    "slow pathway": (lambda t: [(a, b, (*s[:2], 1, *s[3:]) if b == "conv1.weight" else s) for a, b, s in t], "differ"),
    "three frames": (
        lambda t: [(a, b, (*s[:2], 3, *s[3:]) if b == "conv1.weight" else s) for a, b, s in t],
        "first kernel",
    ),
    "without last layer": (lambda t: [row for row in t if not row[1].startswith("fc.")], "a last layer"),
    "cut off": (lambda t: [row for row in t if row[1] != "layer3.2.conv2.weight"], r"layer3.2.conv2.weight is missing"),
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_other_networks_give_their_blocks_and_a_reason(tmp_path, case):
    change, said = NOT_OURS[case]
    state = numbered(change(rows("slowfast"))) | named_as("slowfast", random_parts(3), "s3.pathway0_nonlocal1")
    torch.save(state, tmp_path / "theirs.pth")
    converted = convert_weights(tmp_path / "theirs.pth")
    assert converted.network is None
    assert list(converted.plan) == ["s3.pathway0_res1"]
    assert said in str(converted.no_network)
    with pytest.raises(ValueError, match="no whole network to save"):
        converted.save(tmp_path / "ours.pt", whole=True)
    assert not (tmp_path / "ours.pt").exists()


def random_network(table):
    """Random tensors by the source's and by our names, scaled to keep activations small."""
    generator = torch.Generator().manual_seed(0)
    theirs, ours = {}, {}
    for name, our_name, shape in table:
        if len(shape) > 1:
            value = torch.randn(shape, generator=generator) * (2 / torch.Size(shape[1:]).numel()) ** 0.5
        elif our_name.endswith(("running_var", ".weight")):
            value = torch.rand(shape, generator=generator) + 0.5
        else:
            value = torch.randn(shape, generator=generator) * 0.2
        theirs[name] = ours[our_name] = value
    return theirs, ours


def scores_of(x, state, stem_stride, pool1_stride, pool2):
    """Scores of a ResNet with tensors by our names; pool1 is 1x3x3 padded by one pixel, pool2 is None or its size."""

    def normed(x, name):
        mean, variance, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias)

    def convolved(x, name, stride):
        weight = state[f"{name}.weight"]
        return F.conv3d(x, weight, stride=stride, padding=[size // 2 for size in weight.shape[2:]])

    x = torch.relu(normed(convolved(x, "conv1", (stem_stride, 2, 2)), "bn1"))
    x = F.max_pool3d(x, (1, 3, 3), (pool1_stride, 2, 2), (0, 1, 1))
    for stage, count in enumerate(COUNTS[50], 1):
        for index in range(count):
            name, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            y = torch.relu(normed(convolved(x, f"{name}.conv1", 1), f"{name}.bn1"))
            y = torch.relu(normed(convolved(y, f"{name}.conv2", (1, stride, stride)), f"{name}.bn2"))
            y = normed(convolved(y, f"{name}.conv3", 1), f"{name}.bn3")
            if index == 0:
                x = normed(convolved(x, f"{name}.downsample.0", (1, stride, stride)), f"{name}.downsample.1")
            x = torch.relu(x + y)
        if stage == 1 and pool2:
            x = F.max_pool3d(x, (pool2, 1, 1))
    return x.mean((2, 3, 4)) @ state["fc.weight"].T + state["fc.bias"]


NOPOOL = {"cfg": "MODEL:\n  ARCH: i3d_nopool\n"}
STRIDES = {"meta": {"cfg": "model = dict(backbone=dict(conv1_stride_t=1, pool1_stride_t=2, with_pool2=False))"}}
# name -> (source, options of the tables, values beside the tensors, stride of conv1 and pool1, pool2)
NETWORKS = {
    "mmaction2's I3D": ("mmcv", {}, {}, (2, 2, 2)),
    "mmaction2's configuration": ("mmcv", {}, STRIDES, (1, 2, None)),
    "mmaction2's SlowOnly": ("mmcv", {"slow": True}, {}, (1, 1, None)),
    "gluon-cv": ("gluoncv", {}, {}, (2, 2, 2)),
    "PySlowFast's I3D": ("slowfast", {}, {}, (1, 1, 2)),
    "PySlowFast's I3D without pool2": ("slowfast", {}, NOPOOL, (1, 1, None)),
    "PySlowFast's Slow": ("slowfast", {"slow": True}, {}, (1, 1, None)),
    "PyTorchVideo": ("pytorchvideo", {}, {}, (1, 1, 2)),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_the_printed_call_builds_the_same_network(tmp_path, case):
    source, kernels, beside, strides = NETWORKS[case]
    theirs, ours = random_network(rows(source, **kernels))
    torch.save({"state_dict": theirs, **beside}, tmp_path / "theirs.pth")
    converted = convert_weights(tmp_path / "theirs.pth")
    converted.save(tmp_path / "ours.pt")
    assert converted.network is not None
    call = converted.network.call(str(tmp_path / "ours.pt"))
    model = eval(call, {"nl": nl}).eval()
    clip = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = scores_of(clip, ours, *strides)
        torch.testing.assert_close(model(clip), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_file_alone_gives_the_network_with_its_blocks(tmp_path, suffix):
    pytest.importorskip("safetensors") if suffix == ".safetensors" else None
    state = numbered(rows("slowfast"))
    parts = random_parts(3, channels=512, inner=256)
    state |= named_as("slowfast", parts, "s3.pathway0_nonlocal1")
    config = "MODEL:\n  ARCH: i3d_nopool\nNONLOCAL:\n  INSTANTIATION: dot_product\n  POOL:\n  - []\n  - - [1, 2, 2]\n"
    torch.save({"model_state": state, "cfg": config}, tmp_path / "theirs.pyth")
    path = tmp_path / f"ours{suffix}"
    converted = convert_weights(tmp_path / "theirs.pyth")
    converted.save(path)
    model = nl.create_model(str(path))
    assert model.time.pool2_stride == 1
    assert model.fc.out_features == CLASSES
    block = nl.blocks(model)["layer2.1"]
    assert (block.pairwise, block.subsample, block.pool_first) == ("dot_product", (1, 2, 2), True)
    torch.testing.assert_close(block.g.weight, parts["g.weight"])
    with pytest.raises(ValueError, match="states its network"):
        nl.create_model(str(path), non_local="paper-1")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"depth": 50}',
        '{"depth": 9000, "kernel": null, "num_classes": 5, "time": {}, "non_local": [], "options": {}}',
        '{"depth": 50, "kernel": null, "num_classes": 1000000000, "time": {}, "non_local": [], "options": {}}',
        '{"depth": 50, "kernel": null, "num_classes": 5, "time": {"a": 1}, "non_local": [], "options": {}}',
        '{"depth": 50, "kernel": null, "num_classes": 5, "time": {"stem_stride": -1}, "non_local": [], "options": {}}',
        '{"depth": 50, "kernel": null, "num_classes": 5, "time": {}, "non_local": ["**"], "options": {"weights": "x"}}',
        '{"depth": 50, "kernel": null, "num_classes": 5, "time": {}, "non_local": ["**"], "options": {"norm": "x"}}',
    ],
)
def test_wrong_architectures_in_files_are_refused(tmp_path, text):
    content = {"format": "torch-nonlocal network 1", "architecture": text, "state_dict": {"fc.bias": torch.ones(5)}}
    torch.save(content, tmp_path / "ours.pt")
    with pytest.raises(ValueError, match=r"ours\.pt"):
        nl.create_model(str(tmp_path / "ours.pt"))


def test_other_strides_in_a_configuration_are_named(tmp_path):
    meta = {"cfg": "model = dict(backbone=dict(temporal_strides=(1, 2, 1, 1)))"}
    torch.save({"state_dict": numbered(rows("mmcv")), "meta": meta}, tmp_path / "theirs.pth")
    converted = convert_weights(tmp_path / "theirs.pth")
    assert converted.network is None
    assert "temporal_strides=[1, 2, 1, 1]" in str(converted.no_network)


def random_blobs(affine):
    """Caffe2 blobs of an I3D-R50 with five blocks, scaled to keep activations small."""
    generator = torch.Generator().manual_seed(0)
    blobs = {}
    for theirs, ours, shape in rows("caffe2"):
        if len(shape) > 1:
            fan = torch.Size(shape[1:]).numel()
            value = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        elif ours.endswith(("running_var", ".weight")):
            value = torch.rand(shape, generator=generator) + 0.5
        else:
            value = torch.randn(shape, generator=generator) * 0.2
        if not (affine and theirs.endswith(("_rm", "_riv"))):
            blobs[theirs] = value
    blocks = {}
    for stage, index in ((3, 1), (3, 3), (4, 1), (4, 3), (4, 5)):
        width = 128 * 2 ** (stage - 1)
        parts = random_parts(
            3, channels=width, inner=width // 2, norm=None if affine else "batch", seed=10 * stage + index
        )
        parts = {name: tensor * 0.2 if name.endswith("weight") else tensor for name, tensor in parts.items()}
        blocks[stage, index] = parts
    return blobs, blocks


def reference_scores(clip, blobs, blocks):
    """I3D-R50 of video-nonlocal-net: stem without stride in time, pools 1x3x3 (unpadded) and 2x1x1."""
    blobs = {key: value.double() for key, value in blobs.items()}

    def normed(x, name):
        s, b = (blobs[f"{name}_{short}"].view(1, -1, 1, 1, 1) for short in "sb")
        if f"{name}_rm" not in blobs:
            return x * s + b
        mean, variance = (blobs[f"{name}_{short}"].view(1, -1, 1, 1, 1) for short in ("rm", "riv"))
        return (x - mean) / (variance + 1e-5).sqrt() * s + b

    def convolved(x, name, stride=1):
        weight = blobs[f"{name}_w"]
        padding = tuple(size // 2 for size in weight.shape[2:])
        return F.conv3d(x, weight, stride=(1, stride, stride), padding=padding)

    x = torch.relu(normed(convolved(clip.double(), "conv1", 2), "res_conv1_bn"))
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2))
    for stage, count in enumerate(COUNTS[50], 2):
        for index in range(count):
            name, stride = f"res{stage}_{index}_branch", 2 if stage > 2 and index == 0 else 1
            y = torch.relu(normed(convolved(x, f"{name}2a"), f"{name}2a_bn"))
            y = torch.relu(normed(convolved(y, f"{name}2b", stride), f"{name}2b_bn"))
            y = normed(convolved(y, f"{name}2c"), f"{name}2c_bn")
            x = torch.relu(y + (normed(convolved(x, f"{name}1", stride), f"{name}1_bn") if index == 0 else x))
            if (stage, index) in blocks:
                inner = blocks[stage, index]["g.weight"].shape[0]
                x = formula(x, blocks[stage, index], pool=(1, 2, 2), pool_first=True, scale=inner**-0.5)
        if stage == 2:
            x = F.max_pool3d(x, (2, 1, 1))
    return x.mean((2, 3, 4)) @ blobs["pred_w"].T + blobs["pred_b"]


@pytest.mark.slow
@pytest.mark.parametrize("affine", [False, True])
def test_caffe2_networks_give_the_same_scores(tmp_path, affine):
    if affine:
        pytest.importorskip("safetensors", reason="pip install 'torch-nonlocal[checkpoints]'")
    saved = tmp_path / ("ours.safetensors" if affine else "ours.pt")
    blobs, blocks = random_blobs(affine)
    clip = torch.randn(1, 3, 4, 48, 48, generator=torch.Generator().manual_seed(1))
    expected = reference_scores(clip, blobs, blocks)

    arrays = {name: tensor.numpy() for name, tensor in blobs.items()}
    for (stage, index), parts in blocks.items():
        arrays |= caffe2_blobs(parts, f"nonlocal_conv{stage}_{index}")
    save_pickle(tmp_path / "theirs.pkl", {"blobs": arrays}, protocol=4)
    converted = convert_weights(tmp_path / "theirs.pkl")
    network = converted.network
    assert network is not None
    assert network.arguments["name"] == "i3d_resnet50_8x8.caffe2"
    assert network.arguments["non_local"] == PAPER_5
    assert network.arguments["norm"] == (None if affine else "batch")
    assert affine == any("4 frames at a time" in sentence for sentence in converted.assumptions)
    assert not any("in the source" in sentence for sentence in network.differences)

    converted.save(saved)
    theirs = nl.create_model(**network.arguments, weights=saved).double().eval()
    with torch.no_grad():
        scores = theirs(clip.double())
    assert (reference_scores(clip, blobs, {}) - expected).abs().max() > 0.01 * expected.abs().max()
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
