"""Converted blocks are loaded into the networks of the projects that they come from."""

import pytest
import torch
from foreign_layouts import formula, named_as, random_parts
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.weights import convert_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
X = torch.randn(2, 8, 2, 4, 6, generator=torch.Generator().manual_seed(2)).double()


class Residual(nn.Module):
    """A residual block like mmaction2's, which tells by a plain attribute whether it applies its own block."""

    def __init__(self, non_local=False):
        super().__init__()
        self.non_local = non_local
        self.conv = nn.Conv3d(8, 8, 1)
        if non_local:
            self.non_local_block = nn.ModuleDict({"g": nn.ModuleDict({"conv": nn.Conv3d(8, 4, 1)})})

    def forward(self, x):
        return torch.relu(self.conv(x) + x)


class Stage(nn.Module):
    """A stage like PySlowFast's, whose residual blocks are attributes."""

    def __init__(self):
        super().__init__()
        for index in range(2):
            self.add_module(f"pathway0_res{index}", Residual())

    def forward(self, x):
        return self.pathway0_res1(self.pathway0_res0(x))


def network(*names, inside=None):
    """A network of stages by name, such as "s3", optionally inside another module."""
    torch.manual_seed(3)
    stages = nn.Sequential()
    for name in names:
        stages.add_module(name, Stage() if name[0] == "s" else nn.Sequential(Residual(), Residual()))
    model = nn.Sequential()
    model.add_module(inside or "s", stages)
    return (model if inside else stages).double().eval()


def converted_file(path, layout, blocks, **options):
    state = {}
    for name, parts in blocks.items():
        state |= named_as(layout, parts, name)
    torch.save(state, path / "theirs.pth")
    convert_weights(path / "theirs.pth", **options).save(path / "ours.pt")
    return path / "ours.pt"


# name -> (layout, name of the block, network, place in it, options of the formula)
LIVE = {
    "PySlowFast": (
        "slowfast", "s3.pathway0_nonlocal1", lambda: network("s2", "s3"), "s3.pathway0_res1",
        {"pool": (1, 2, 2), "pool_first": True, "scale": 0.5},
    ),
    "PySlowFast in a wrapper": (
        "slowfast", "s3.pathway0_nonlocal0", lambda: network("s2", "s3", inside="model"), "model.s3.pathway0_res0",
        {"pool": (1, 2, 2), "pool_first": True, "scale": 0.5},
    ),
    "mmaction2": (
        "mmcv pooled", "backbone.layer2.0.non_local_block", lambda: network("layer1", "layer2", inside="backbone"),
        "backbone.layer2.0", {"pool": (1, 2, 2)},
    ),
    "mmaction2's backbone": (
        "mmcv pooled", "backbone.layer2.0.non_local_block", lambda: network("layer1", "layer2"), "layer2.0",
        {"pool": (1, 2, 2)},
    ),
    "gluon-cv": (
        "gluoncv", "res_layers.1.0.nonlocal_block",
        lambda: nn.ModuleDict({"res_layers": nn.ModuleList(network("layer1", "layer2").children())}),
        "res_layers.1.0", {"scale": 0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIVE)
def test_places_are_found_by_the_names_of_the_checkpoint(tmp_path, case):
    layout, name, make, place, expected = LIVE[case]
    model, parts = make(), random_parts(3)
    host = model.get_submodule(place)
    features = host(X)
    keys = list(model.state_dict())
    nl.load_blocks(model, converted_file(tmp_path, layout, {name: parts}))
    assert list(nl.blocks(model)) == [place]
    torch.testing.assert_close(host(X), formula(features, parts, **expected), rtol=1e-5, atol=1e-5)
    nl.remove(model)
    assert list(model.state_dict()) == keys
    assert host.non_local is False, "the network's own attribute is kept"
    torch.testing.assert_close(host(X), features)


def test_plain_attributes_are_no_blocks():
    model = network("layer1", "layer2")
    nl.insert(model, at="layer2.*", example_input=X)
    assert list(nl.blocks(model)) == ["layer2.0", "layer2.1"]
    with pytest.raises(ValueError, match=r"'layer2\.0' has a block already"):
        nl.insert(model, at="layer2.0", example_input=X)
    nl.remove(model)
    assert "layer2.0" in str(nl.plan(model, X))


def test_a_child_of_another_kind_is_named():
    model = nn.Sequential(nn.Sequential(nn.Conv3d(8, 8, 1)))
    model[0][0].add_module("non_local", nn.Conv3d(8, 8, 1))
    with pytest.raises(ValueError, match="child named 'non_local' of type Conv3d"):
        nl.insert(model, at="0.0", example_input=X)


@pytest.mark.parametrize(
    ("layout", "name", "model"),
    [
        (
            "mmcv",
            "backbone.layer2.0.non_local_block",
            lambda: nn.ModuleDict({"layer2": nn.ModuleList([Residual(non_local=True)])}),
        ),
        (
            "alexhex7",
            "layer2.1",  # as AP3D, whose blocks are elements of the stage: the second residual block is layer2.2
            lambda: nn.ModuleDict({
                "layer2": nn.ModuleList([Residual(), nn.ModuleDict({"g": nn.Conv3d(8, 4, 1)}), Residual()])
            }),
        ),
    ],
)  # fmt: skip
def test_networks_with_their_own_blocks_are_left_unchanged(tmp_path, layout, name, model):
    model = model()
    others = {f"layer2.{index}.conv.weight": torch.zeros(1) for index in (0, 2)}
    torch.save({**others, **named_as(layout, random_parts(3), name)}, tmp_path / "theirs.pth")
    convert_weights(tmp_path / "theirs.pth").save(tmp_path / "ours.pt")
    with pytest.raises(ValueError, match=r"applies the block itself, at 'layer2\.\d.*nl.replace"):
        nl.load_blocks(model, tmp_path / "ours.pt")
    assert not nl.blocks(model)


class Shifted(nn.Module):
    """A residual block for images, as in TSM."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return torch.relu(self.conv(x) + x)


def test_networks_that_see_frames_as_images(tmp_path):
    torch.manual_seed(3)
    model = nn.ModuleDict({"base_model": nn.ModuleDict({"layer2": nn.Sequential(Shifted())})}).double().eval()
    images = X.transpose(1, 2).flatten(0, 1)
    parts = random_parts(3)
    others = {"base_model.layer2.0.block.conv.weight": torch.zeros(1, 1, 1, 1)}
    torch.save({**named_as("alexhex7 pooled", parts, "base_model.layer2.0.nl"), **others}, tmp_path / "theirs.pth")
    convert_weights(tmp_path / "theirs.pth", frames=2).save(tmp_path / "ours.pt")
    place = model.get_submodule("base_model.layer2.0")
    features = place(images)
    nl.load_blocks(model, tmp_path / "ours.pt")
    clips = features.unflatten(0, (2, 2)).transpose(1, 2)
    expected = formula(clips, parts, pool=(1, 2, 2)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(place(images), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"expected \(B \* 2, 8, H, W\), got \(3, 8"):
        place(images[:3])
    with pytest.raises(ValueError, match=r"frames=0.*number of frames"):
        convert_weights(tmp_path / "theirs.pth", frames=0)


def test_blocks_on_images_of_frames_are_watched_and_planned():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()).eval()
    images = torch.randn(8, 3, 16, 20)
    assert "8x8x10 frames" in str(nl.plan(net, images, layout="frames", grid=(4,)))
    nl.insert(net, "1", images, layout="frames", grid=(4,), subsample=2)
    with nl.watch(net) as records:
        net(images)
    geometry = records["1"].geometry
    assert (geometry.grid, geometry.key_grid, geometry.input_size) == ((4, 8, 10), (4, 4, 5), (4, 16, 20))
    assert (geometry.offset, geometry.stride, geometry.probed) == ((0.0, 0.0, 0.0), (1.0, 2.0, 2.0), True)
    exported = torch.export.export(net, (images,)).module()
    torch.testing.assert_close(exported(images), net(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nl.NonLocal2d(8, layout="frames", grid=(4,)), "applies to NonLocal3d"),
        (lambda: nl.NonLocal3d(8, layout="frames", grid=(4, 4)), "number of frames of a clip"),
        (lambda: nl.NonLocal3d(8, layout="frames"), "number of frames of a clip"),
    ],
)
def test_wrong_numbers_of_frames_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
