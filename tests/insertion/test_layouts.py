"""Layouts of places: channels-first maps, channels-last maps and tokens are told apart, or refused."""

import copy
import warnings

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.insertion.probe import Probe

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def torchvision_model(name, **options):
    models = pytest.importorskip("torchvision", reason="pip install torchvision").models
    models = models.video if "3d" in name else models
    torch.manual_seed(0)
    return getattr(models, name)(weights=None, **options).eval()


def timm_model(name, **options):
    timm = pytest.importorskip("timm", reason="pip install timm")
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


SWIN_NAME, VIT_NAME = "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"
SWIN = {"img_size": 64, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
VIT = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2}
LAST = "channels_last"
# network, place, options, class and layout of the block, channels
PLACES = [
    (lambda: torchvision_model("swin_t"), "features.3.1", {}, nl.NonLocal2d, "channels_last", 192),
    (lambda: torchvision_model("swin_t"), "features.4", {}, nl.NonLocal2d, "channels_last", 384),
    (lambda: torchvision_model("swin_t"), "permute", {}, nl.NonLocal2d, "channels_first", 768),
    (lambda: torchvision_model("swin_v2_t"), "features.1.0", {}, nl.NonLocal2d, "channels_last", 96),
    (lambda: torchvision_model("convnext_tiny"), "features.1.0", {}, nl.NonLocal2d, "channels_first", 96),
    (lambda: torchvision_model("convnext_tiny"), "features.1.0.block.0", {}, nl.NonLocal2d, "channels_first", 96),
    (lambda: torchvision_model("convnext_tiny"), "features.1.0.block.3", {}, nl.NonLocal2d, "channels_last", 384),
    (lambda: torchvision_model("convnext_tiny"), "features.2.0", {}, nl.NonLocal2d, "channels_first", 96),
    (lambda: torchvision_model("resnet18"), "layer3.1", {}, nl.NonLocal2d, "channels_first", 256),
    (lambda: timm_model(SWIN_NAME, **SWIN), "layers.1.blocks.0", {}, nl.NonLocal2d, "channels_last", 48),
    (lambda: timm_model("convnext_atto"), "stages.1.blocks.0.mlp", {}, nl.NonLocal2d, "channels_first", 80),
    (lambda: timm_model(VIT_NAME, **VIT), "blocks.1", {"grid": (4, 4)}, nl.NonLocal2d, "tokens", 24),
    (lambda: timm_model(VIT_NAME, **VIT), "blocks.1.mlp.fc1", {"grid": (4, 4)}, nl.NonLocal2d, "tokens", 96),
    (lambda: timm_model(VIT_NAME, **VIT), "blocks.1", {"layout": LAST}, nl.NonLocal1d, LAST, 24),
]  # fmt: skip


@pytest.mark.parametrize(("build", "at", "options", "kind", "layout", "channels"), PLACES)
def test_the_layout_of_a_place_is_detected(build, at, options, kind, layout, channels):
    model = build()
    with torch.no_grad():
        before = model(IMAGE)
        nl.insert(model, at, IMAGE, **options)
        (block,) = nl.blocks(model).values()
        assert (type(block), block.layout, block.channels) == (kind, layout, channels)
        assert torch.equal(model(IMAGE), before)
    if layout == "tokens":
        assert (block.grid, block.prefix_tokens) == ((4, 4), 1)


def test_a_swin_runs_at_other_sizes_and_equals_a_block_on_the_permuted_map():
    model = nl.insert(torchvision_model("swin_t"), "features.3.1", IMAGE)
    block = nl.blocks(model)["features.3.1"]
    nn.init.normal_(block.norm.weight)
    reference = nl.NonLocal2d(192).eval()
    reference.load_state_dict(block.state_dict())
    twin = nl.remove(copy.deepcopy(model))
    handle = twin.get_submodule("features.3.1").register_forward_hook(
        lambda _module, _args, map_BHWC: reference(map_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    )
    for size in (64, 96):
        x = torch.randn(2, 3, size, size)
        with torch.no_grad():
            torch.testing.assert_close(model(x), twin(x))
    handle.remove()


def test_a_video_swin():
    model = torchvision_model("swin3d_t")
    nl.insert(model, "features.2.1", torch.randn(1, 3, 4, 32, 32))
    (block,) = nl.blocks(model).values()
    assert (type(block), block.layout, block.channels) == (nl.NonLocal3d, "channels_last", 192)


class Layers(nn.Module):
    """Modules one after another, with the places "a", "b", ..."""

    def __init__(self, *layers):
        super().__init__()
        for name, layer in zip("abcdef", layers, strict=False):
            self.add_module(name, layer)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


class Do(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def last(x):
    return x.movedim(1, -1)


def opaque(x):
    """A permutation to channels-last that the trace of axes cannot follow."""
    return torch.stack([torch.stack(one.unbind(0), -1) for one in x.unbind(0)])


def same(x):
    """The input as a new tensor, which the trace of axes cannot follow."""
    return torch.stack(x.unbind(0))


# layers, place, input, layout; maps have C == H == W where sizes allow it
SQUARE = [
    ((nn.Conv2d(3, 8, 1), Do(torch.relu)), "b", (1, 3, 8, 8), "channels_first"),
    ((nn.Conv2d(3, 8, 1), Do(last)), "b", (1, 3, 8, 8), "channels_last"),
    ((nn.Conv2d(3, 8, 1), Do(last), Do(last)), "b", (1, 3, 8, 8), "channels_last"),
    ((Do(last), nn.Linear(3, 8)), "b", (1, 3, 8, 8), "channels_last"),
    ((Do(last), nn.Linear(3, 8), Do(lambda x: x.flatten(1, 2).unflatten(1, (8, 8)))), "c", (1, 3, 8, 8), LAST),
    ((nn.Conv2d(3, 8, 1), Do(lambda x: x.flatten(2).view(1, 8, 8, 8) * 2 + x)), "b", (1, 3, 8, 8), "channels_first"),
    ((Do(opaque), nn.LayerNorm(8)), "a", (1, 8, 8, 8), "channels_last"),
    ((Do(opaque), Do(lambda x: x.roll(1, 1).permute(0, 3, 1, 2)), nn.Conv2d(8, 8, 1)), "a", (1, 8, 8, 8), LAST),
    ((Do(lambda x: x.clone()), nn.BatchNorm2d(8)), "a", (1, 8, 8, 8), "channels_first"),
    ((nn.Conv1d(3, 8, 1), Do(last)), "b", (1, 3, 8), "channels_last"),
    ((nn.Conv1d(3, 8, 1), Do(torch.relu)), "b", (1, 3, 8), "channels_first"),
    ((nn.Linear(8, 8), nn.ReLU()), "b", (1, 8, 8), "channels_last"),
    ((nn.Conv3d(3, 8, 1), Do(last), nn.LayerNorm(8)), "b", (1, 3, 8, 8, 8), "channels_last"),
    ((nn.Conv3d(3, 8, 1), nn.GroupNorm(2, 8)), "b", (1, 3, 8, 8, 8), "channels_first"),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "at", "shape", "layout"), SQUARE)
def test_operations_tell_axes_of_equal_size_apart(layers, at, shape, layout):
    model = Layers(*layers).eval()
    x = torch.randn(shape)
    before = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a place after a convolution
        nl.insert(model, at, x)
    (block,) = nl.blocks(model).values()
    assert (block.layout, block.channels, block.dims) == (layout, 8, len(shape) - 2)
    assert torch.equal(model(x), before)


# function from input to output, input, layout; no operation shows an axis, so a second run decides
BY_SIZE = [
    (opaque, (2, 5, 8, 6), "channels_last"),
    (same, (2, 5, 64, 64), "channels_first"),
    (opaque, (2, 5, 16), "channels_last"),
    (same, (2, 5, 16), "channels_first"),
]


@pytest.mark.parametrize(("function", "shape", "layout"), BY_SIZE)
def test_a_second_run_at_another_size_decides_where_no_operation_does(function, shape, layout):
    model, x = Layers(Do(function)), torch.randn(shape)
    nl.insert(model, "a", x)
    (block,) = nl.blocks(model).values()
    assert (block.layout, block.channels) == (layout, 5)


class FixedSize(nn.Module):
    """A network that refuses other sizes after its first layer, and remembers inputs."""

    def __init__(self, function):
        super().__init__()
        self.first = Do(function)
        self.register_buffer("count", torch.zeros(()))
        self.norm = nn.BatchNorm2d(3)
        self.sizes = ()

    def forward(self, x):
        self.count += 1
        self.sizes = (*self.sizes, tuple(x.shape))
        self.cache = x
        y = self.first(x)
        if x.shape[-1] != 64:
            raise RuntimeError("expected 64 pixels")
        return y, torch.rand(2), self.norm(x)


@pytest.mark.parametrize(("function", "layout"), [(opaque, "channels_last"), (same, "channels_first")])
def test_networks_of_a_fixed_size_keep_their_state(function, layout):
    model, x = FixedSize(function).train(), torch.randn(2, 3, 64, 64)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    output = Probe(model, {"first": model.first}, x).output("first", {})
    assert (output.layout, output.channels) == (layout, 3)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert model.sizes == ()
    assert not hasattr(model, "cache")


class Named(nn.Module):
    """A network with other inputs than a tensor."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(3, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, images, scale=1.0):
        images = torch.stack(images) if isinstance(images, list) else images
        return self.norm(self.proj(images.permute(0, 2, 3, 1)) * scale)


@pytest.mark.parametrize(
    "example",
    [{"images": torch.randn(1, 3, 8, 8), "scale": 2.0}, (torch.randn(1, 3, 8, 8), 2.0), [torch.randn(3, 8, 8)] * 2],
    ids=["dict", "tuple", "list"],
)
def test_examples_of_every_kind(example):
    model = nl.insert(Named(), ["proj", "norm"], example)
    assert [(block.layout, block.channels) for block in nl.blocks(model).values()] == [("channels_last", 8)] * 2


class SequenceFirst(nn.Module):
    """Tokens (N, B, C), as nn.TransformerEncoderLayer takes them by default."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16)

    def forward(self, x):
        return self.layer(self.patches(x).flatten(2).permute(2, 0, 1))


class Torn(nn.Module):
    """A place whose output is a map of a convolution and then, without a permutation, the input of a linear map."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 1), nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(self.conv(x))


REFUSED = [
    (
        lambda: timm_model(VIT_NAME, **VIT), "blocks.1", IMAGE, {},
        r"'blocks.1' \(Block\) returns \(1, 17, 24\), tokens \(B, N, C\): pass grid=.* such as grid=\(4, 4\) for a "
        "square after 1 prefix token",
    ),
    (
        lambda: timm_model(VIT_NAME, **VIT), "blocks.1", IMAGE, {"grid": (5, 5)},
        r"returns 17 tokens, and grid=\(5, 5\) has 25 positions: pass a smaller grid",
    ),
    (
        lambda: timm_model(VIT_NAME, **{**VIT, "img_size": 128}), "blocks.1", IMAGE.repeat(1, 1, 2, 2),
        {"grid": (4, 4)}, "pass prefix_tokens=49 if 49 other tokens precede them",
    ),
    (
        lambda: Layers(nn.Conv2d(3, 8, 1)), "a", IMAGE, {"grid": (64, 64)},
        r"returns a map \(1, 8, 64, 64\): grid= applies to tokens",
    ),
    (
        lambda: Layers(nn.Conv2d(3, 8, 1)), "a", IMAGE, {"layout": "tokens", "grid": (64, 64)},
        "layout='tokens' and grid= apply to tokens",
    ),
    (lambda: Layers(nn.Conv2d(3, 8, 1)), "a", None, {"layout": "channels_last"}, "pass example_input="),
    (SequenceFirst, "layer", IMAGE.repeat(2, 1, 1, 1), {}, r"returns \(256, 2, 8\) with the batch on axis 1"),
    (SequenceFirst, "layer", IMAGE, {"grid": (16, 16)}, r"returns \(256, 1, 8\) with the batch on axis 1"),
    (
        Torn, "conv", IMAGE[..., :8, :8], {},
        "channels on axis 1 by the operations before it, and on axis 3 by those after",
    ),
    (
        lambda: Layers(nn.Conv2d(3, 8, 1), Do(lambda x: x[:, None])), "b", IMAGE, {},
        "channels on axis 2: expected axis 1 or the last",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("build", "at", "example", "options", "message"), REFUSED)
def test_uncertain_places_are_refused_and_the_model_is_unchanged(build, at, example, options, message):
    model = build()
    with pytest.raises(ValueError, match=message) as error:
        nl.insert(model, at, example, **options)
    assert "\n" not in str(error.value)
    assert not nl.blocks(model)


def test_an_explicit_layout_wins():
    model = Torn()
    for layout in ("channels_first", "channels_last"):
        nl.insert(model, "conv", torch.randn(1, 3, 8, 8), layout=layout)
        assert nl.blocks(model)["conv"].layout == layout
        nl.remove(model)


def test_more_prefix_tokens_than_usual_can_be_given():
    model = timm_model(VIT_NAME, img_size=128, embed_dim=24, depth=1, num_heads=2)
    image = torch.randn(1, 3, 128, 128)
    nl.insert(model, "blocks.0", image, grid=(4, 4), prefix_tokens=49)
    assert nl.blocks(model)["blocks.0"].prefix_tokens == 49


def test_tokens_of_another_image_size_raise():
    model = timm_model(VIT_NAME, **VIT, dynamic_img_size=True)
    nl.insert(model, "blocks.1", IMAGE, grid=(4, 4))
    with pytest.raises(ValueError, match=r"expected \(B, 1 \+ 16 \(4x4 grid\), 24\), got \(1, 26, 24\)"):
        model(torch.randn(1, 3, 80, 80))


@pytest.mark.parametrize("name", ["swin", "vit"])
def test_block_files_watch_and_copies_keep_the_layout(name, tmp_path):
    build = {
        "swin": lambda: timm_model(SWIN_NAME, **SWIN),
        "vit": lambda: timm_model(VIT_NAME, **VIT),
    }[name]
    at, options = ("layers.0.blocks.1", {}) if name == "swin" else ("blocks.0", {"grid": (4, 4)})
    model = nl.insert(build(), at, IMAGE, **options)
    block = nl.blocks(model)[at]
    nn.init.ones_(block.norm.weight)
    nl.save_blocks(model, tmp_path / "blocks.pt")
    loaded = nl.load_blocks(build(), tmp_path / "blocks.pt")
    assert nl.blocks(loaded)[at].config == block.config
    with torch.no_grad():
        want = model(IMAGE)
        assert torch.equal(loaded.eval()(IMAGE), want)
        assert torch.equal(copy.deepcopy(model)(IMAGE), want)
        with nl.watch(model) as seen:
            model(IMAGE)
    grid = (16, 16) if name == "swin" else (4, 4)
    record = seen[at]
    assert record.geometry.grid == grid
    assert record.geometry.input_size == (64, 64)
    torch.testing.assert_close(record.rows([(1, 2)]).sum(), torch.tensor(1.0))


def test_pixels_of_a_channels_last_place_are_those_of_the_channels_first_place():
    maps = []
    for layers, at in (((nn.Conv2d(3, 8, 4, 4), nn.ReLU()), "b"), ((nn.Conv2d(3, 8, 4, 4), Do(last)), "b")):
        model = nl.insert(Layers(*layers).eval(), at, IMAGE)
        with torch.no_grad(), nl.watch(model) as seen:
            model(IMAGE)
        maps.append(seen["b"].geometry)
        assert seen["b"].geometry.probed
    assert maps[0] == maps[1]


class Autocast(nn.Module):
    """A network that runs under autocast inside its forward."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 16, 3, dtype=dtype), nn.ReLU()

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.act(self.conv(x)).float()


@pytest.mark.parametrize("at", ["conv", "act"])
@pytest.mark.parametrize("outside", [True, False])
def test_under_autocast_a_block_takes_the_dtype_of_parameters(at, outside):
    model = Autocast() if not outside else Layers(nn.Conv2d(3, 16, 3), nn.ReLU())
    place = at if not outside else {"conv": "a", "act": "b"}[at]
    with warnings.catch_warnings(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=outside):
        warnings.simplefilter("ignore")
        nl.insert(model, place, torch.randn(1, 3, 16, 16))
    assert {parameter.dtype for parameter in nl.blocks(model)[place].parameters()} == {torch.float32}


def test_without_autocast_a_block_takes_the_dtype_of_the_output():
    model = Layers(nn.Conv2d(3, 16, 3, dtype=torch.float64), nn.ReLU())
    nl.insert(model, "b", torch.randn(1, 3, 16, 16, dtype=torch.float64))
    assert nl.blocks(model)["b"].g.weight.dtype == torch.float64


def test_the_trace_leaves_outputs_as_they_are():
    model = timm_model(SWIN_NAME, **SWIN)
    with torch.no_grad():
        want = model(IMAGE)
    probe = Probe(model, {"": model}, IMAGE)
    assert torch.equal(probe.outputs[""][0], want)
    assert probe.axes.input_size == (64, 64)
