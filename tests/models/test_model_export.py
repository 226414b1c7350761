"""Networks with blocks of all four forms: ONNX, torch.export, torch.compile, TorchScript, half precision."""

import pytest
import torch
from torch import nn

import torch_nonlocal as nl

FORMS = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")


def network():
    """Four trained blocks, one per form; the first pools its keys."""
    torch.manual_seed(0)
    stages = [
        nn.Sequential(nn.Conv3d(3 if i == 0 else 8, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU()) for i in range(4)
    ]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 4))
    for place, form in zip(["0", "1", "2", "3"], FORMS, strict=True):
        options = {"subsample": 2, "pool_first": True} if place == "0" else {}
        nl.insert(net, place, example_input=clip(), pairwise=form, **options)
        nn.init.normal_(nl.blocks(net)[f"{place}.2"].norm.weight)
    return net.eval()


def clip(batch=2, frames=4):
    return torch.randn(batch, 3, frames, 8, 8, generator=torch.Generator().manual_seed(batch + frames))


DYNAMIC = {0: torch.export.Dim("batch", min=1, max=64), 2: torch.export.Dim("frames", min=2, max=64)}


@pytest.mark.slow
@pytest.mark.parametrize("opset", [20, 23])
def test_onnx_of_any_batch_and_clip_length(opset, tmp_path):
    onnx = pytest.importorskip("onnx", reason="pip install onnx onnxscript onnxruntime")
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript onnxruntime")
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxscript onnxruntime")
    net, path = network(), tmp_path / "net.onnx"
    torch.onnx.export(net, (clip(),), path, dynamo=True, opset_version=opset, dynamic_shapes=(DYNAMIC,))
    assert {entry.domain: entry.version for entry in onnx.load(path).opset_import}[""] == opset
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for x in (clip(), clip(1, 2), clip(3, 7)):
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), net(x).detach(), rtol=1e-4, atol=1e-5)


def test_export_of_any_batch_and_clip_length():
    net = network()
    program = torch.export.export(net, (clip(),), dynamic_shapes=(DYNAMIC,))
    for x in (clip(), clip(3, 7)):
        torch.testing.assert_close(program.module()(x), net(x))


# As it finds, the second size makes the changed axes symbols as well.
@pytest.mark.slow
@pytest.mark.parametrize(
    "dynamic",
    [pytest.param(None, id="as it finds"), pytest.param(True, id="sizes as symbols", marks=pytest.mark.extended)],
)
def test_compile_in_one_graph(dynamic):
    torch.compiler.reset()
    net = network()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for x in (clip(), clip(3, 7)):
        torch.testing.assert_close(compiled(x), net(x))


def test_torchscript_trace(tmp_path):
    net = network()
    torch.jit.save(torch.jit.trace(net, clip()), tmp_path / "net.pt")
    loaded = torch.jit.load(tmp_path / "net.pt")
    torch.testing.assert_close(loaded(clip()), net(clip()))
    torch.testing.assert_close(loaded(clip(3)), net(clip(3)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-2), (torch.float16, 1e-2)])
def test_half_precision(dtype, tolerance):
    net = network()
    expected = net(clip())
    with torch.autocast("cpu", dtype=dtype):
        mixed = net(clip())
    torch.testing.assert_close(mixed.float(), expected, rtol=tolerance, atol=tolerance)
    whole = net.to(dtype)(clip().to(dtype))
    assert whole.dtype is dtype
    torch.testing.assert_close(whole.float(), expected, rtol=tolerance, atol=tolerance)
