"""inflate(separable=True): the kernels equal 3D kernels that are products, forward and backward, in all runtimes."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from inflation_networks import FRAMES, Small, images, network, still
from torch import Tensor, nn

import torch_nonlocal as nl
from torch_nonlocal.inflation.modules import SeparableConv3d, TimeConv3d
from torch_nonlocal.models.fitting import load_tensors

CONVOLUTIONS: dict[str, Any] = {
    "depthwise": lambda: nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False),
    "strided depthwise": lambda: nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4),
    "ordinary": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "grouped and dilated": lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),
    "uneven": lambda: nn.Conv2d(4, 4, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=4),
    "same": lambda: nn.Conv2d(4, 4, (2, 3), padding="same", groups=4),
    "valid": lambda: nn.Conv2d(4, 4, 3, padding="valid"),
    "reflect": lambda: nn.Conv2d(4, 4, 3, padding=(1, 2), padding_mode="reflect", groups=4),
    "circular": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "1 x 1": lambda: nn.Conv2d(4, 6, 1),
}
TIME: list[dict[str, Any]] = [
    {},
    {"time_kernel": 5, "time_padding": "zeros"},
    {"time_kernel": 3, "init": "center", "time_padding": "zeros"},
    {"time_kernel": 3, "time_stride": 2},
]


def inflated(conv: nn.Module, *, time_stride: int = 1, **options: Any) -> Any:
    made = nl.inflate(nn.Sequential(conv), at="0", time_stride={"0": time_stride}, **options)
    return made[0]  # pyright: ignore[reportIndexIssue]


def pair(name: str, options: dict[str, Any]) -> tuple[SeparableConv3d, TimeConv3d]:
    """A separable convolution with random kernels, and the 3D convolution with the same kernel."""
    torch.manual_seed(0)
    conv = CONVOLUTIONS[name]().double()
    separable, full = inflated(conv, separable=True, **options), inflated(conv, **options)
    with torch.no_grad():
        separable.time_weight.normal_()
        full.weight.copy_(separable.kernel())
    return separable, full


@torch.no_grad()
@pytest.mark.parametrize("options", TIME)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_initial_kernel_is_the_inflated_kernel(name: str, options: dict[str, Any]) -> None:
    conv = CONVOLUTIONS[name]()
    separable, full = inflated(conv, separable=True, **options), inflated(conv, **options)
    assert isinstance(separable, SeparableConv3d)
    torch.testing.assert_close(separable.kernel(), full.weight)
    assert separable.kernel_size == full.kernel_size


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("options", TIME)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_output_and_gradients_equal_the_3d_convolution(name: str, options: dict[str, Any], frames: int) -> None:
    separable, full = pair(name, options)
    clip = torch.randn(2, 4, frames, 7, 9, dtype=torch.float64, requires_grad=True)
    expected, got = full(clip), separable(clip)
    torch.testing.assert_close(got, expected)
    gradient = torch.randn_like(expected)
    of_clip, of_kernel = torch.autograd.grad(expected, (clip, full.weight), gradient)
    over_space, over_time = separable.weight, separable.time_weight
    by_chain_rule = torch.autograd.grad(separable.kernel(), (over_space, over_time), of_kernel)
    found = torch.autograd.grad(got, (clip, over_space, over_time), gradient)
    for one, correct in zip(found, (of_clip, *by_chain_rule), strict=True):
        torch.testing.assert_close(one, correct)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("time_stride", [1, 2])
def test_kernels_of_one_frame_equal_conv3d(name: str, time_stride: int) -> None:
    torch.manual_seed(0)
    conv = CONVOLUTIONS[name]().double()
    one = inflated(conv, time_kernel=1, time_stride=time_stride)
    clip = torch.randn(2, 4, 5, 7, 9, dtype=torch.float64, requires_grad=True)
    frames = torch.stack([conv(frame) for frame in clip[:, :, ::time_stride].unbind(2)], 2)
    torch.testing.assert_close(one(clip), frames)
    gradient = torch.randn_like(frames)
    torch.testing.assert_close(*(torch.autograd.grad(made, clip, gradient)[0] for made in (one(clip), frames)))


@torch.no_grad()
@pytest.mark.parametrize("name", ["small", "timm:convnext_atto", "timm:efficientnet_lite0"])
def test_a_separable_network_starts_as_the_inflated_network(name: str) -> None:
    model = network(name, torch.float32)
    clip = torch.randn(2, 3, FRAMES, 36, 44)
    separable, full = nl.inflate(model, 3, separable=True, example_input=images(torch.float32)), nl.inflate(model, 3)
    torch.testing.assert_close(separable(clip), full(clip), rtol=1e-4, atol=1e-4)
    added = [key for key in separable.state_dict() if key not in full.state_dict()]
    assert added
    assert all(key.endswith(".time_weight") for key in added)


def test_all_parameters_are_trained_or_frozen_as_before() -> None:
    model = network("small", torch.float32).train()
    model.get_parameter("conv1.weight").requires_grad_(False)
    net = nl.inflate(model, 3, separable=True)
    net(torch.randn(2, 3, FRAMES, 36, 44)).square().sum().backward()
    frozen = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
    assert frozen == ["conv1.weight", "conv1.time_weight"]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters() if p.requires_grad)


@torch.no_grad()
def test_copies_and_state_dicts_preserve_the_output() -> None:
    net = nl.inflate(network("small", torch.float32), 3, separable=True)
    net.get_parameter("conv2.time_weight").normal_()
    clip = torch.randn(2, 3, FRAMES, 36, 44)
    expected = net(clip)
    assert torch.equal(copy.deepcopy(net)(clip), expected)
    assert torch.equal(pickle.loads(pickle.dumps(net))(clip), expected)
    other = nl.inflate(Small().eval(), 3, separable=True)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(clip), expected)


@torch.no_grad()
def test_export_compile_and_any_batch_and_length() -> None:
    net = nl.inflate(network("small", torch.float32), 3, separable=True)
    clip = torch.randn(2, 3, FRAMES, 36, 44)
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=8), 2: torch.export.Dim("frames", min=2, max=64)}}
    program = torch.export.export(net, (clip,), dynamic_shapes=shapes)
    other = torch.randn(3, 3, 6, 36, 44)
    torch.testing.assert_close(program.module()(other), net(other))
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(clip), net(clip))


@pytest.mark.parametrize("time_kernel", [1, 3])
def test_an_empty_batch_has_an_empty_output(time_kernel: int) -> None:
    made = inflated(nn.Conv2d(3, 4, 3), time_kernel=time_kernel, separable=time_kernel > 1)
    assert made(torch.randn(0, 3, 5, 8, 8)).shape == (0, 4, 5, 6, 6)


@torch.no_grad()
def test_onnx_has_the_same_output(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net = nl.inflate(network("small", torch.float32), 3, separable=True)
    clip, path = torch.randn(2, 3, FRAMES, 36, 44), str(tmp_path / "net.onnx")
    shapes = {"x": {0: torch.export.Dim("batch"), 2: torch.export.Dim("frames")}}
    torch.onnx.export(net, (clip,), path, dynamic_shapes=shapes, verbose=False)
    other = torch.randn(3, 3, 6, 36, 44)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), net(other), rtol=1e-4, atol=1e-4)


def test_channels_last_and_autocast_keep_output_and_gradients() -> None:
    separable, _ = pair("depthwise", {})
    clip = torch.randn(2, 4, 5, 7, 9, dtype=torch.float64)
    expected = separable(clip)
    expected.square().sum().backward()
    last = copy.deepcopy(separable).to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
    last.zero_grad()
    got = last(clip.to(memory_format=torch.channels_last_3d))
    got.square().sum().backward()
    torch.testing.assert_close(got, expected)
    assert got.is_contiguous(memory_format=torch.channels_last_3d)
    for one, other in zip(last.parameters(), separable.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = separable.float()(clip.float())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.double(), expected, rtol=0.05, atol=0.05)


def test_weights_of_the_2d_network_are_loaded_as_the_mean_over_time() -> None:
    model = network("small", torch.float32)
    net = nl.inflate(Small().eval(), 3, separable=True)
    with torch.no_grad():
        net.get_parameter("conv2.time_weight").normal_()
    report = load_tensors(net, model.state_dict(), source="2D weights")
    assert not report.missing
    with torch.no_grad():
        torch.testing.assert_close(net(still(images(torch.float32))), model(images(torch.float32)))


@pytest.mark.parametrize(("given", "wanted", "only"), [(False, True, "model has"), (True, False, "weights have")])
def test_3d_kernels_and_separable_kernels_do_not_fit_each_other(given: bool, wanted: bool, only: str) -> None:
    weights = nl.inflate(Small(), 3, separable=given).state_dict()
    net = nl.inflate(Small(), 3, separable=wanted)
    with pytest.raises(ValueError, match=f"only the {only} separable kernels: see `separable` of nl.inflate"):
        load_tensors(net, weights, source="a file")


def test_separable_needs_a_kernel_over_time() -> None:
    with pytest.raises(ValueError, match=r"separable=True with time_kernel=1.*such as time_kernel=3"):
        nl.inflate(Small(), 1, separable=True)


def test_a_batch_of_images_raises() -> None:
    net = inflated(nn.Conv2d(3, 4, 3), separable=True)
    with pytest.raises(ValueError, match=r"expected a clip \(B, 3, T, H, W\), got \(1, 3, 8, 8\)"):
        net(Tensor(1, 3, 8, 8))
