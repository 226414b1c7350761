"""Centers of receptive fields match those derived by hand, and the model is unchanged."""

import copy

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.attention import Geometry, probe_geometry, receptive, watch
from torch_nonlocal.models.relation_net import RelationNet


def conv3(a, b, kernel, stride=1, padding=None, **options):
    kernel = (kernel,) * 3 if isinstance(kernel, int) else kernel
    padding = tuple(k // 2 for k in kernel) if padding is None else padding
    return nn.Sequential(nn.Conv3d(a, b, kernel, stride, padding, **options), nn.BatchNorm3d(b), nn.ReLU())


class Bottleneck(nn.Module):
    """The bottleneck of C2D (time=1) and of I3D (time=3)."""

    def __init__(self, channels, time, stride=1):
        super().__init__()
        self.body = nn.Sequential(
            conv3(channels, 4, (time, 1, 1)),
            conv3(4, 4, (1, 3, 3), (1, stride, stride)),
            nn.Conv3d(4, channels, 1),
        )
        self.skip = nn.Conv3d(channels, channels, 1, (1, stride, stride))

    def forward(self, x):
        return torch.relu(self.body(x) + self.skip(x))


def c2d():
    """The paper's C2D: kernels of size 1 in time, and pooling in time."""
    return nn.Sequential(
        conv3(3, 8, (1, 7, 7), 2, (0, 3, 3)),
        nn.MaxPool3d(3, 2, 1),
        Bottleneck(8, 1),
        nn.MaxPool3d((3, 1, 1), (2, 1, 1), (1, 0, 0)),
        Bottleneck(8, 1, 2),
    )


def i3d():
    """I3D: a 5x7x7 stem with stride 2, and 3x1x1 kernels in bottlenecks."""
    return nn.Sequential(
        conv3(3, 8, (5, 7, 7), (2, 2, 2)),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        Bottleneck(8, 3),
        nn.MaxPool3d((2, 1, 1), (2, 1, 1)),
        Bottleneck(8, 3, 2),
    )


def unpadded():
    """The center of index 0 is (5 - 1) / 2 = 2 after the first convolution and 2 + 2 * 1 after the second."""
    return nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU(), nn.Conv2d(4, 4, 3))


def pooled():
    """Two poolings by 2: the center is the middle of four pixels."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(2))


def dilated():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=4, dilation=4), nn.Hardtanh())


def upsampled():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 8, 1), nn.Upsample(scale_factor=2, mode="nearest"), nn.ReLU6())


def one_sided():
    """Causal in time: an output depends on its own frame and the two before."""
    return nn.Sequential(nn.ConstantPad3d((1, 1, 1, 1, 2, 0), 0.0), nn.Conv3d(3, 4, 3))


def grouped():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.BatchNorm2d(4).train())


@pytest.mark.parametrize(
    ("net", "place", "size", "offset", "stride"),
    [
        (c2d, "0", (16, 64, 64), (0, 0, 0), (2, 2, 2)),
        (c2d, "4", (16, 64, 64), (0, 0, 0), (8, 8, 8)),
        (i3d, "2", (16, 64, 64), (0, 0, 0), (2, 4, 4)),
        (i3d, "4", (16, 64, 64), (1, 0, 0), (4, 8, 8)),
        (unpadded, "2", (41, 37), (4, 4), (2, 2)),
        (pooled, "3", (32, 30), (1.5, 1.5), (4, 4)),
        (dilated, "1", (32, 32), (0, 0), (2, 2)),
        (upsampled, "2", (64, 48), (-2, -2), (4, 4)),
        (one_sided, "1", (8, 16, 16), (-1, 0, 0), (1, 1, 1)),
        (grouped, "3", (16, 16), (0, 0), (2, 2)),
        (lambda: nn.Sequential(nn.Conv1d(3, 4, 4, 4)), "0", (64,), (1.5,), (4,)),
    ],
)
def test_centers_match_those_derived_by_hand(net, place, size, offset, stride):
    found = probe_geometry(net(), place, size)
    assert found.probed
    assert found.offset == offset
    assert found.stride == stride
    assert found.input_size == size


def test_relation_net():
    found = probe_geometry(RelationNet(4), "conv3", (8, 32, 32), channels=1)
    assert (found.grid, found.offset, found.stride) == ((4, 8, 8), (0, 0, 0), (2, 4, 4))


def test_r3d_18():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.video.r3d_18()
    layers = {f"layer{n}": getattr(model, f"layer{n}") for n in (1, 2, 3, 4)}
    blocks = {f"{name}.1": nl.insert(model, at=layer) and layer[-1].non_local for name, layer in layers.items()}
    with watch(model.eval()) as seen:
        model(torch.randn(1, 3, 8, 32, 32))
    assert list(seen) == list(blocks)
    for n, record in enumerate(seen.values(), start=1):
        assert record.geometry.probed
        assert record.geometry.offset == (0, 0, 0)
        assert record.geometry.stride == (2 ** (n - 1), 2**n, 2**n)


def test_resnet18():
    torchvision = pytest.importorskip("torchvision")
    found = probe_geometry(torchvision.models.resnet18(), "layer4", (224, 200))
    assert (found.grid, found.offset, found.stride, found.probed) == ((7, 7), (0, 0), (32, 32), True)


def test_2d_backbone_frame_by_frame():
    timm = pytest.importorskip("timm")
    model = timm.create_model("efficientnet_lite0", pretrained=False)
    found = probe_geometry(model, "blocks.4", (6, 272, 640), per_frame=True)
    assert found.grid == (6, 17, 40)
    assert (found.offset, found.stride, found.probed) == ((0, 0, 0), (1, 16, 16), True)


class Squeeze(nn.Module):
    """Squeeze-and-excitation: every output depends on every pixel."""

    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True).sigmoid()


@pytest.mark.parametrize(
    "net",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), Squeeze()),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(8)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveMaxPool2d((7, 8))),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 4 * 64), nn.Unflatten(1, (4, 8, 8))),
    ],
)
def test_grid_divides_the_input_evenly_without_a_rule(net):
    found = probe_geometry(net(), str(len(net()) - 1), (24, 24))
    assert not found.probed
    assert found == Geometry.evenly(found.grid, found.grid, (1, 1), (24, 24))


def test_rule_is_checked_against_the_size_of_each_input():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), nn.AdaptiveAvgPool2d(16)
    )  # a strip of 128 pixels happens to divide evenly
    assert not probe_geometry(net, "1", (64, 64)).probed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_probing_leaves_the_model_unchanged(dtype):
    net = i3d().to(dtype)
    net[1].eval()
    nl.insert(net, at=["2", "4"], example_input=torch.randn(1, 3, 8, 32, 32, dtype=dtype))
    calls = []
    net[0].register_forward_hook(lambda *_: calls.append("hook"))
    net[2].register_forward_pre_hook(lambda *_: calls.append("pre"))
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    keys = [set(vars(module)) for module in net.modules()]
    state = torch.get_rng_state()
    flags = (torch.backends.cudnn.enabled, torch.is_grad_enabled())
    found = probe_geometry(net, "4", (16, 64, 64))
    assert found.probed
    assert found.stride == (4, 8, 8)
    assert calls == []
    assert modes == [module.training for module in net.modules()]
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    assert keys == [set(vars(module)) for module in net.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert flags == (torch.backends.cudnn.enabled, torch.is_grad_enabled())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    net[0].register_forward_hook(lambda *_: calls.append("later"))
    net(torch.randn(1, 3, 8, 32, 32, dtype=dtype))
    assert calls == ["hook", "later", "pre"]


def test_network_is_probed_again_only_after_a_change_of_its_architecture(monkeypatch):
    net, runs = unpadded(), []
    affected = receptive._Probe.affected
    monkeypatch.setattr(receptive._Probe, "affected", lambda *a: runs.append(1) or affected(*a))
    probe_geometry(net, "2", (41, 37))
    first = len(runs)
    probe_geometry(net, "2", (64, 64))
    assert len(runs) == first > 0
    net[0].stride = (4, 4)
    assert probe_geometry(net, "2", (64, 64)).stride == (4, 4)


def test_old_name_of_the_module_argument_warns():
    with pytest.warns(DeprecationWarning, match=r"probe_geometry\(place=\) is deprecated; use at="):
        found = probe_geometry(unpadded(), place="2", input_size=(41, 37))
    assert found == probe_geometry(unpadded(), at="2", input_size=(41, 37))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probe_geometry(unpadded(), "layer3", (32, 32)), "no module 'layer3'; modules: 0, 1, 2"),
        (lambda: probe_geometry(nn.Sequential(nn.Flatten()), "0", (8, 8)), "expected its output to be a map"),
    ],
)
def test_invalid_modules_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_watch_finds_the_geometry_behind_other_blocks():
    net = i3d()
    nl.insert(net, at=["2", "4"], example_input=torch.randn(1, 3, 8, 32, 32))
    with watch(net) as seen:
        net(torch.randn(2, 3, 16, 64, 64))
    assert seen["2"].geometry.stride == (2, 4, 4)
    assert (seen["4"].geometry.offset, seen["4"].geometry.stride) == ((1, 0, 0), (4, 8, 8))
    assert seen["4"].geometry.probed


def test_clip_whose_frames_become_batch_items():
    class PerFrame(nn.Module):
        def __init__(self):
            super().__init__()
            self.image = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nl.NonLocal2d(4))

        def forward(self, clip):
            return self.image(clip.transpose(1, 2).flatten(0, 1))

    with watch(net := PerFrame()) as seen:
        net(torch.randn(2, 3, 5, 16, 20))
    record = seen["image.1"]
    assert record.batch_size == 10
    assert (record.geometry.input_size, record.geometry.stride, record.geometry.probed) == ((16, 20), (2, 2), True)


def test_pooled_keys_map_to_their_pixels():
    geometry = Geometry((4, 6), (2, 3), (2, 2), (16, 24), (1.5, 1.5), (4.0, 4.0))
    assert geometry.query_pixel((1, 2)) == (5.5, 9.5)
    assert geometry.key_pixel((0, 0)) == (3.5, 3.5)
    assert geometry.key_area((0, 0)) == ((-0.5, 7.5), (-0.5, 7.5))
    assert geometry.key_area((1, 2)) == ((7.5, 15.5), (15.5, 23.5))
    for point in ((0, 0), (3, 5), (2, 1)):
        key = geometry.covering_key(point)
        inside = zip(geometry.query_pixel(point), geometry.key_area(key), strict=True)
        assert all(low <= pixel <= high for pixel, (low, high) in inside)
    assert Geometry.evenly((7,), (3,), (2,), (14,)).covering_key((6,)) == (2,)


def test_pixels_map_to_the_nearest_position():
    geometry = Geometry((3, 3), (3, 3), (1, 1), (16, 16), (4.0, 0.0), (4.0, 6.0))
    assert [geometry.nearest_query((p, 0))[0] for p in (0, 4, 5, 6, 15)] == [0, 0, 0, 1, 2]
    for point in ((0, 0), (1, 2), (2, 1)):
        assert geometry.nearest_query(geometry.query_pixel(point)) == point


def test_spread_places_a_weight_at_the_center_of_its_receptive_field():
    geometry = Geometry((2, 3, 3), (2, 3, 3), (1, 1, 1), (4, 12, 12), (0.0, 1.0, 1.0), (2.0, 4.0, 4.0))
    row = torch.zeros(2, 3, 3)
    row[1, 1, 2] = 1.0
    spread = geometry.spread(row)
    assert spread.shape == (4, 12, 12)
    assert spread[2, 5, 9] == 1.0
    assert spread[2, 5, 7] == 0.5
    assert spread[0].max() == 0
    with pytest.raises(ValueError, match=r"row \(3, 3\): expected \(2, 3, 3\)"):
        geometry.spread(torch.zeros(3, 3))


def test_spread_places_pooled_keys_between_the_pooled_positions():
    geometry = Geometry((4, 4), (2, 2), (2, 2), (16, 16), (0.0, 0.0), (4.0, 4.0))
    row = torch.zeros(2, 2)
    row[1, 0] = 1.0
    assert geometry.spread(row)[10, 2] == 1.0
