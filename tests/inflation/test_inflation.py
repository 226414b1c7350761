"""inflate: output on still clips, names and keys, choice of kernels and strides, runtimes."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from inflation_networks import FRAMES, LARGE, NETWORKS, OWN, Small, images, network, still, torchvision_network
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import torch_nonlocal as nl
from torch_nonlocal.inflation.modules import TimeConv3d


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


EACH = [pytest.param(name, marks=pytest.mark.slow) if name.split(":")[-1] in LARGE else name for name in NETWORKS]


@torch.no_grad()
@pytest.mark.parametrize("name", EACH)
def test_a_still_clip_has_the_images_output_on_every_frame(name: str) -> None:
    model = network(name)
    expected = model(images())
    got = nl.inflate(model, 3)(still(images()))
    assert got.shape == (expected.shape if expected.ndim == 2 else still(expected).shape)
    assert relative(got, expected if expected.ndim == 2 else still(expected)) < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("name", ["small", "torchvision:mobilenet_v2", "timm:convnext_atto"])
def test_a_still_clip_in_float32_is_within_1e_5_of_the_image(name: str) -> None:
    model = network(name, torch.float32)
    frames = images(torch.float32)
    assert relative(nl.inflate(model, 5)(still(frames)), model(frames)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", [*OWN, pytest.param("timm:convnext_atto", marks=pytest.mark.slow)])
def test_with_center_kernels_each_frame_has_the_output_that_it_has_alone(name: str) -> None:
    model = network(name)
    clip = torch.randn(2, 3, FRAMES, 36, 44, dtype=torch.float64)
    alone = torch.stack([model(frame) for frame in clip.unbind(2)], 2)
    for time_padding in ("replicate", "zeros"):
        got = nl.inflate(model, 3, init="center", time_padding=time_padding)(clip)  # pyright: ignore
        assert relative(got, alone if got.ndim == 5 else alone.mean(2)) < 1e-10


@torch.no_grad()
def test_repeated_kernels_use_neighboring_frames() -> None:
    clip = torch.randn(1, 3, 6, 36, 44, dtype=torch.float64)
    changed = clip.clone()
    changed[:, :, 0] += 1
    net = nl.inflate(network("maps"), 3)
    moved = (net(clip) - net(changed)).abs().amax((0, 1, 3, 4)) > 1e-9
    assert moved.tolist() == [True, True, True, True, False, False]  # three layers reach one frame each


@torch.no_grad()
def test_with_zero_padding_only_frames_away_from_both_ends_have_the_images_output() -> None:
    model = network("maps")
    expected = still(model(images()), 9)
    got = nl.inflate(model, 3, time_padding="zeros")(still(images(), 9))
    same = [relative(got[:, :, t], expected[:, :, t]) < 1e-10 for t in range(9)]
    assert same == [False] * 3 + [True] * 3 + [False] * 3  # three layers reach three frames


@torch.no_grad()
@pytest.mark.parametrize("mode", ["zeros", "reflect", "same"])
def test_zero_padding_of_time_equals_conv3d(mode: Any) -> None:
    conv = nn.Conv2d(3, 4, 3, padding="same" if mode == "same" else 1, padding_mode="zeros" if mode == "same" else mode)
    net = nl.inflate(conv, 3, time_padding="zeros")
    clip = torch.randn(2, 3, 5, 6, 7)
    space = F.pad(clip, (1, 1, 1, 1, 0, 0), mode="reflect" if mode == "reflect" else "constant")
    assert isinstance(net, nn.Conv3d)
    torch.testing.assert_close(net(clip), F.conv3d(space, net.weight, net.bias, padding=(1, 0, 0)))


@pytest.mark.parametrize("name", [*OWN, "torchvision:resnet18", "timm:convnext_atto"])
def test_names_are_unchanged_and_only_kernels_have_one_more_axis(name: str) -> None:
    model = network(name)
    before = copy.deepcopy(model.state_dict())
    net = nl.inflate(model, 3)
    assert [n for n, _ in net.named_modules()] == [n for n, _ in model.named_modules()]
    state = net.state_dict()
    assert list(state) == list(before)
    kernels = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)}
    for key, tensor in before.items():
        if key in kernels:
            torch.testing.assert_close(state[key].sum(2), tensor)
        else:
            assert torch.equal(state[key], tensor)
            assert state[key].data_ptr() != model.state_dict()[key].data_ptr() or tensor.numel() == 0
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not any(isinstance(module, nn.Conv3d) for module in model.modules())


def test_by_default_all_kernels_larger_than_one_pixel_are_inflated() -> None:
    net = nl.inflate(torchvision_network("mobilenet_v2"), 3)
    convs = [module for module in net.modules() if isinstance(module, nn.Conv3d)]
    assert {conv.kernel_size for conv in convs} == {(3, 3, 3), (1, 1, 1)}


@pytest.mark.parametrize("kind", ["glob", "names", "modules"])
def test_at_chooses_the_inflated_convolutions(kind: str) -> None:
    model = torchvision_network("resnet18")
    expected = ["layer3.0.conv1", "layer3.1.conv1"]
    at: Any = {"glob": "layer3.*.conv1", "names": expected, "modules": [model.get_submodule(n) for n in expected]}[kind]
    net = nl.inflate(model, 5, at=at)
    with_time = {name: m.kernel_size[0] for name, m in net.named_modules() if isinstance(m, nn.Conv3d)}
    assert {name for name, kernel in with_time.items() if kernel == 5} == set(expected)
    assert set(with_time.values()) == {1, 5}


@torch.no_grad()
def test_time_stride_applies_to_the_named_modules() -> None:
    model = network("torchvision:resnet18")
    strides = {"maxpool": 2, "layer2.0.conv1": 2, "layer2.0.downsample.0": 2}
    net = nl.inflate(model, 3, time_stride=strides)
    seen: list[Any] = []
    net.get_submodule("layer2").register_forward_hook(lambda _m, _a, output: seen.append(output))
    got = net(still(images(), 7))
    assert seen[0].shape[2] == 2  # 7, 4, 2
    assert relative(got, model(images())) < 1e-10


@torch.no_grad()
def test_image_code_supports_time_strides() -> None:
    model = network("small")
    net = nl.inflate(model, 3, time_stride={"conv2": 1, "down.0": 2, "pool": 2})
    assert relative(net(still(images(), 7)), model(images())) < 1e-10


@pytest.mark.parametrize("name", ["small", "flat", "torchvision:resnet18", "timm:convnext_atto"])
def test_every_parameter_has_a_gradient_and_frozen_parameters_stay_frozen(name: str) -> None:
    model = network(name, torch.float32).train()
    frozen = next(model.parameters()).requires_grad_(False)
    net = nl.inflate(model, 3)
    assert net.training
    net(torch.randn(2, 3, FRAMES, 36, 44)).square().sum().backward()
    first, *others = net.parameters()
    assert not first.requires_grad
    assert frozen.grad is None
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in others)


def test_batch_statistics_are_over_all_frames() -> None:
    model = network("small").train()
    clip = torch.randn(2, 3, FRAMES, 36, 44, dtype=torch.float64)
    net = nl.inflate(model, 3, init="center")
    net(clip)
    model(clip.transpose(1, 2).flatten(0, 1))
    torch.testing.assert_close(net.get_buffer("norm1.running_var"), model.get_buffer("norm1.running_var"))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("small", "conv2"),
        ("small", "down"),
        ("torchvision:resnet18", "layer3.*"),
        ("torchvision:mobilenet_v2", "features.14"),
        ("timm:convnext_atto", "stages.2.blocks.1"),
        ("timm:efficientnet_lite0", "blocks.4.1.conv_dw"),
    ],
)
def test_inserted_3d_blocks_keep_the_output(name: str, at: str) -> None:
    net = nl.inflate(network(name, torch.float32), 3)
    clip = torch.randn(2, 3, FRAMES, 36, 44)
    before = net(clip)
    nl.insert(net, at=at, example_input=clip)
    assert all(isinstance(block, nl.NonLocal3d) for block in nl.blocks(net).values())
    assert nl.blocks(net)
    assert torch.equal(net(clip), before)


@torch.no_grad()
@pytest.mark.parametrize("name", ["small", "timm:convnext_atto"])
def test_deepcopy_pickle_and_state_dict_preserve_the_output(name: str) -> None:
    net = nl.inflate(network(name, torch.float32), 3)
    clip = torch.randn(2, 3, FRAMES, 36, 44)
    expected = net(clip)
    assert torch.equal(copy.deepcopy(net)(clip), expected)
    assert torch.equal(pickle.loads(pickle.dumps(net))(clip), expected)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = nl.inflate(network(name, torch.float32), 3)
    for parameter in other.parameters():
        parameter.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(clip), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["small", "torchvision:resnet18"])
def test_torch_export_supports_any_number_of_frames(name: str) -> None:
    net = nl.inflate(network(name, torch.float32), 3)
    clip = torch.randn(2, 3, FRAMES, 36, 44)
    shapes = {"x": {2: torch.export.Dim("frames", min=2, max=64)}}
    program = torch.export.export(net, (clip,), dynamic_shapes=shapes)
    longer = torch.randn(2, 3, 6, 36, 44)
    torch.testing.assert_close(program.module()(longer), net(longer))


@torch.no_grad()
def test_torch_compile_has_no_graph_breaks() -> None:
    net = nl.inflate(network("small", torch.float32), 3)
    clip = torch.randn(2, 3, FRAMES, 36, 44)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(clip), net(clip))


def test_activation_checkpointing_works_in_backward() -> None:
    class Checkpointed(Small):
        def forward(self, x: Tensor) -> Tensor:
            x = checkpoint(self.conv1, x, use_reentrant=False)
            return self.fc(self.down(x).mean((2, 3)))

    net = nl.inflate(Checkpointed(), 3)
    net(torch.randn(2, 3, FRAMES, 12, 12)).sum().backward()
    assert net.get_parameter("conv1.weight").grad is not None


def test_shared_modules_stay_shared() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    net = nl.inflate(nn.Sequential(conv, nn.ReLU(), conv), 3)
    assert net.get_submodule("0") is net.get_submodule("2")
    assert net(torch.randn(1, 3, 4, 8, 8)).shape == (1, 3, 4, 8, 8)


def test_a_single_convolution_is_inflated() -> None:
    net = nl.inflate(nn.Conv2d(3, 4, 3, padding=1), 3)
    assert isinstance(net, TimeConv3d)
    assert "time_padding=replicate" in repr(net)


@torch.no_grad()
@pytest.mark.slow
def test_a_still_clip_of_a_cat_is_classified_as_a_cat() -> None:
    data = pytest.importorskip("skimage.data")
    from torch_nonlocal.models import packaged

    model = packaged.efficientnet_lite0()
    cat = torch.from_numpy(data.chelsea()).unsqueeze(0)  # 300 x 451
    frame = F.interpolate(
        model.inputs.normalize(cat.permute(0, 3, 1, 2)), size=(256, 385), mode="bilinear", antialias=True
    )
    frame = frame[:, :, 16:240, 80:304]
    scores = nl.inflate(model)(still(frame, 8))
    cats = range(281, 286)
    assert model(frame).argmax().item() in cats
    assert scores.argmax().item() in cats
    assert relative(scores, model(frame)) < 1e-5


def test_the_british_spelling_of_center_is_deprecated() -> None:
    model = network("maps")
    with pytest.warns(DeprecationWarning, match="use init='center'"):
        old = nl.inflate(model, 3, init="centre")  # pyright: ignore[reportArgumentType]
    new = nl.inflate(model, 3, init="center").state_dict()
    assert all(torch.equal(tensor, new[key]) for key, tensor in old.state_dict().items())
