"""Input descriptions of networks, and normalization by them."""

import ast
import copy
import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.models.build import build, inputs_named
from torch_nonlocal.models.inputs import EFFICIENTNET_LITE0, GRAY, IMAGENET, RGB, Inputs, inputs_of

WHITE = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
SOURCE = Path(nl.__file__).parent
OTHER = Inputs((0.1, 0.2, 0.3), (0.5, 0.25, 2.0), size=(32, 48), frames=8)


def noise(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_normalize_subtracts_the_mean_and_divides_by_the_std(shape):
    batch, axes = noise(*shape), (-1, *[1] * (len(shape) - 2))
    mean, std = (torch.tensor(one, dtype=torch.float64).view(axes) for one in (OTHER.mean, OTHER.std))
    expected = (batch.double() / 255 - mean) / std
    torch.testing.assert_close(OTHER.normalize(batch), expected.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(OTHER.normalize(batch.double() / 255), expected, rtol=1e-12, atol=1e-14)


def test_normalize_keeps_floating_dtypes_and_its_argument():
    batch = torch.rand(1, 3, 4, 4, dtype=torch.float16)
    before = batch.clone()
    assert OTHER.normalize(batch).dtype == torch.float16
    assert RGB.normalize(batch).data_ptr() != batch.data_ptr()
    assert torch.equal(batch, before)


def test_identity_inputs_give_values_in_0_to_1_exactly():
    batch = noise(1, 1, 2, 16, 16)
    assert torch.equal(GRAY.normalize(batch), batch.float() / 255)
    assert torch.equal(GRAY.normalize(batch.float() / 255), batch.float() / 255)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inputs((), ()), "one number per channel each"),
        (lambda: Inputs((0.5,), (0.5, 0.5)), "one number per channel each"),
        (lambda: Inputs((0.5,), (0.0,)), "std more than 0"),
        (lambda: Inputs((0.5,), (0.5,), size=(0, 4)), r"size: got \(0, 4\)"),
        (lambda: Inputs((0.5,), (0.5,), frames=0), "frames: got 0"),
        (lambda: IMAGENET.normalize(WHITE[:, :1]), r"got \(1, 1, 2, 2\), expected clips \(B, 3, T, H, W\)"),
        (lambda: IMAGENET.normalize(WHITE[0]), r"got \(3, 2, 2\), expected clips \(B, 3, T, H, W\) or images"),
        (lambda: IMAGENET.normalize(WHITE.int()), "got torch.int32, expected torch.uint8"),
        (lambda: Inputs.from_dict({"mean": [0.5]}), "expected mean, std and optionally size"),
        (lambda: Inputs.from_dict({"mean": [0.5], "std": [0.5], "crop": 3}), "got keys mean, std, crop"),
        (lambda: Inputs.from_dict({"mean": 0.5, "std": [0.5]}), "expected lists of numbers"),
        (lambda: Inputs.from_dict({"mean": [0.5], "std": [0.5], "channels": 3}), "channels: got 3, but mean has 1"),
        (lambda: Inputs.from_dict({**IMAGENET.to_dict(), "color_order": "BGR"}), "got 'BGR', expected 'RGB'"),
    ],
)
def test_bad_descriptions_and_batches_raise_with_what_was_expected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("inputs", [IMAGENET, GRAY, OTHER])
def test_a_description_survives_json(inputs):
    assert Inputs.from_dict(json.loads(json.dumps(inputs.to_dict()))) == inputs


KINETICS = Inputs((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989), size=(112, 112))
NETWORKS = {
    "torchvision:resnet18": replace(IMAGENET, size=(224, 224)),
    "torchvision:r3d_18": KINETICS,
    "torchvision:mvit_v1_b": Inputs((0.45,) * 3, (0.225,) * 3, size=(224, 224)),
    "torchvision:ssdlite320_mobilenet_v3_large": RGB,
    "timm:resnet18": replace(IMAGENET, size=(224, 224)),
    "timm:test_vit": Inputs((0.5,) * 3, (0.5,) * 3, size=(160, 160)),
    "packaged": EFFICIENTNET_LITE0,
    "ours:c2d_resnet50": replace(IMAGENET, size=(224, 224), frames=32),
    "ours:i3d_resnet50_8x8": replace(IMAGENET, size=(224, 224), frames=8),
}


@pytest.mark.parametrize(("name", "inputs"), NETWORKS.items())
def test_networks_by_name_carry_the_inputs_of_their_source(name, inputs):
    for package in ("torchvision", "timm"):
        pytest.importorskip(package, reason="pip install 'torch-nonlocal[train]'")
    assert inputs_named(name) == inputs
    with torch.device("meta") if name.startswith("ours") else torch.random.fork_rng(devices=[]):
        assert inputs_of(build(name)) == inputs


@pytest.mark.parametrize(
    ("name", "white"),
    [
        ("torchvision:resnet18", [2.249, 2.429, 2.640]),
        ("torchvision:r3d_18", [2.490, 2.733, 2.874]),
        ("timm:test_vit", [1.0, 1.0, 1.0]),
        ("packaged", [1.0, 1.0, 1.0]),
        ("ours:i3d_resnet50", [2.249, 2.429, 2.640]),
    ],
)
def test_white_has_the_value_that_the_weights_were_trained_with(name, white):
    for package in ("torchvision", "timm"):
        pytest.importorskip(package, reason="pip install 'torch-nonlocal[train]'")
    torch.testing.assert_close(
        inputs_named(name).normalize(WHITE)[0, :, 0, 0], torch.tensor(white), rtol=0, atol=5.1e-4
    )


FILE = """
from torch import nn

def plain():
    return nn.Conv2d(3, 4, 3)

def described():
    model = nn.Conv2d(1, 4, 3)
    model.inputs = {"mean": [0.25], "std": [0.5]}
    return model

def other():
    return [1, 2]
"""


def test_a_network_from_a_file_has_its_own_inputs_or_those_of_imagenet_with_a_warning(tmp_path, caplog):
    (tmp_path / "net.py").write_text(FILE)
    before = torch.get_rng_state()
    with caplog.at_level(logging.WARNING, "torch_nonlocal"):
        assert inputs_named(f"{tmp_path}/net.py:described") == Inputs((0.25,), (0.5,))
        assert not caplog.text
        assert inputs_named(f"{tmp_path}/net.py:plain") == IMAGENET
    assert "Conv2d has no attribute `inputs`: ImageNet's mean" in caplog.text
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="returned list, expected a network"):
        build(f"{tmp_path}/net.py:other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r3d_18", "did you mean 'torchvision:r3d_18'"),
        ("i3d_resnet50", "did you mean 'ours:i3d_resnet50'"),
        ("packagd", "did you mean 'packaged'"),
        ("torchvision:r3d_19", "torchvision has no model 'r3d_19'; did you mean 'r3d_18'"),
        ("timm:resnet5x", "timm has no model 'resnet5x'; did you mean 'resnet5"),
        ("ours:i3d_resnet5", "no model 'i3d_resnet5'; did you mean 'i3d_resnet50'"),
    ],
)
@pytest.mark.parametrize("function", [build, inputs_named])
def test_unknown_networks_raise_with_the_nearest_name(function, name, message):
    for package in ("torchvision", "timm"):
        pytest.importorskip(package, reason="pip install 'torch-nonlocal[train]'")
    with pytest.raises(ValueError, match=message):
        function(name)


class TestTheAttribute:
    """The attribute `inputs` leaves everything else about a network as it is."""

    @pytest.fixture
    def model(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        model.inputs = OTHER
        return model.eval()

    def test_it_is_not_part_of_the_state(self, model):
        assert set(model.state_dict()) == {"0.weight", "0.bias"}

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), nl.inflate])
    def test_copies_and_inflated_networks_have_it(self, model, copied):
        assert inputs_of(copied(model)) == OTHER

    def test_a_network_with_blocks_has_it(self, model):
        nl.insert(model, "0", example_input=torch.zeros(1, 3, 4, 4))
        assert inputs_of(model) == OTHER

    def test_exported_and_compiled_networks_give_the_same(self, model):
        x = OTHER.normalize(noise(1, 3, 4, 4))
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), model(x))
        assert inputs_of(compiled) == OTHER


def test_the_old_names_of_media_warn():
    import torch_nonlocal.media

    with pytest.warns(DeprecationWarning, match="models.inputs.IMAGENET.mean"):
        assert IMAGENET.mean == torch_nonlocal.media.IMAGENET_MEAN


KNOWN = {value for inputs in NETWORKS.values() for value in (*inputs.mean, *inputs.std)} - {0.0, 0.45, 0.5, 1.0}


def normalizations(tree):
    """Lines of code that divide or multiply by 255, or hold a known mean or std; texts do not count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            values = [node.right]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and "div" in node.func.attr:
            values = node.args
        else:
            values = []
        inner = [one for value in values for one in ast.walk(value)]
        if any(isinstance(one, ast.Constant) and one.value in (255, 255.0) for one in inner):
            yield node.lineno
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and node.value in KNOWN:
            yield node.lineno


def test_normalization_has_one_home():
    found = {
        f"{path.relative_to(SOURCE).as_posix()}:{line}"
        for path in SOURCE.rglob("*.py")
        for line in normalizations(ast.parse(path.read_text()))
    }
    assert {place.split(":")[0] for place in found} == {"models/inputs.py"}, sorted(found)
    for code in ("x / 255", "x.float().div_(255)", "(x - 0.485) / 0.229", "x.mul(1 / (255 * std))"):
        assert list(normalizations(ast.parse(code)))
