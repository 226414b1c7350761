"""What exported graphs hold and compute: form x target, with small, large and dynamic sizes (docs/export.md)."""

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal import functional
from torch_nonlocal.benchmark.meter import measure
from torch_nonlocal.ops import exported

Dim = torch.export.Dim
CASES = {
    "gaussian": {"pairwise": "gaussian"},
    "embedded_gaussian": {},
    "queries": {"normalize": "queries"},
    "dot_product": {"pairwise": "dot_product"},
    "concatenation": {"pairwise": "concatenation"},
}
SELECTED = {"top_k": {"top_k": 3}, "hard": {"hard": True}}
LOOPS = [case for case in CASES if case not in ("gaussian", "dot_product")]
SCANS = [*LOOPS, *SELECTED]
DYNAMIC = {
    "static": None,
    "batch": {0: Dim("batch", min=1)},
    "size": {2: Dim("h", min=1), 3: Dim("w", min=1)},
    "all": {0: Dim("batch", min=1), 2: Dim("h", min=1), 3: Dim("w", min=1)},
}


def trained(case, **options):
    torch.manual_seed(0)
    block = nl.NonLocal2d(6, **{**CASES, **SELECTED}[case], **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block.eval()


def maps(dynamic, size=(12, 11)):
    """An example input, and other inputs that the dynamic sizes allow."""
    sizes = [(2, 6, *size)]
    if dynamic in ("batch", "all"):
        sizes += [(1, 6, *size), (5, 6, *size)]
    if dynamic in ("size", "all"):
        sizes += [(2, 6, 3, 4), (2, 6, 1, 2), (2, 6, 30, 20)]
    return [torch.randn(size, generator=torch.Generator().manual_seed(i)) for i, size in enumerate(sizes)]


def operators(program):
    """Names of the operators of a program."""
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


def largest(program):
    """The number of elements of the largest tensor of a program."""
    values = [node.meta.get("val") for node in program.graph.nodes]
    return max(value.numel() for value in values if isinstance(value, torch.Tensor))


@pytest.fixture
def no_map_is_small(monkeypatch):
    monkeypatch.setattr(exported, "MAP_BYTES", 0)


@pytest.mark.parametrize(("dynamic", "strict"), [*((name, False) for name in DYNAMIC), ("all", True)])
@pytest.mark.parametrize("case", CASES)
def test_torch_export(case, dynamic, strict):
    block, inputs = trained(case), maps(dynamic)
    program = torch.export.export(block, (inputs[0],), dynamic_shapes=(DYNAMIC[dynamic],), strict=strict)
    names = operators(program)
    assert not any("torch_nonlocal" in name for name in names)
    if case in ("gaussian", "embedded_gaussian"):
        assert any("scaled_dot_product_attention" in name for name in names)
    for x in inputs:
        torch.testing.assert_close(program.module()(x), block(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_map_of_exported_programs(case):
    N = 30 * 30
    program = torch.export.export(trained(case), (torch.randn(1, 6, 30, 30),))
    assert (largest(program) == N * N) == (case in ("queries", "concatenation"))
    assert largest(torch.export.export(trained(case, algorithm="dense"), (torch.randn(1, 6, 30, 30),))) == N * N


@pytest.mark.parametrize("case", CASES)
def test_exported_programs_are_trained(case):
    block, x = trained(case), maps("static")[0]
    program = torch.export.export(block, (x,)).module()
    for network in (block, program):
        network(x).square().sum().backward()
    for name, parameter in program.named_parameters():
        torch.testing.assert_close(parameter.grad, block.get_parameter(name).grad, rtol=1e-4, atol=1e-4)


def onnx_graph(block, inputs, path, dynamic, opset):
    """Export, compare with onnxruntime, and return the operators."""
    onnx = pytest.importorskip("onnx", reason="pip install onnx onnxscript onnxruntime")
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript onnxruntime")
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxscript onnxruntime")
    shapes = (DYNAMIC[dynamic],)
    torch.onnx.export(block, (inputs[0],), path, dynamo=True, opset_version=opset, dynamic_shapes=shapes, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for x in inputs:
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), block(x).detach(), rtol=1e-4, atol=1e-5)
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "dynamic"), [("dot_product", "all"), *((case, "static") for case in [*LOOPS, *SELECTED])]
)
def test_onnx(case, dynamic, tmp_path, no_map_is_small):
    used = onnx_graph(trained(case), maps(dynamic), tmp_path / "block.onnx", dynamic, 20)
    assert ("Scan" in used) == (case != "dot_product")
    assert "Softmax" not in used


def run_in_onnxruntime(path, size):
    """Return a run of an exported block. A small one runs first."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    session.run(None, {name: torch.randn(1, 6, 8, 8).numpy()})
    x = torch.randn(1, 6, size, size).numpy()
    return lambda: session.run(None, {name: x})


@pytest.mark.slow
@pytest.mark.parametrize("case", LOOPS)
def test_onnx_of_dynamic_sizes_needs_no_memory_for_the_map(case, tmp_path):
    path, size = tmp_path / "block.onnx", 72
    assert "Scan" in onnx_graph(trained(case), maps("all"), path, "all", 20)
    used = measure(run_in_onnxruntime, str(path), size, repeats=0).extra_bytes
    assert used < 4 * size**4 / 3  # a third of the map, 107 MB


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_onnx_of_small_maps(opset, tmp_path):
    used = onnx_graph(trained("embedded_gaussian"), maps("static"), tmp_path / "block.onnx", "static", opset)
    assert not used & {"Scan", "Attention"}
    assert "Softmax" in used


@pytest.mark.slow
@pytest.mark.parametrize(("opset", "expected"), [(20, "Softmax"), (23, "Attention")])
def test_onnx_of_an_exported_program(opset, expected, tmp_path):
    """The attention of the program becomes the operator of ONNX where the opset has it."""
    x = maps("static")[0]
    program = torch.export.export(trained("embedded_gaussian"), (x,))
    assert expected in onnx_graph_of_program(program, x, tmp_path / "block.onnx", opset)


def onnx_graph_of_program(program, x, path, opset):
    onnx = pytest.importorskip("onnx", reason="pip install onnx onnxscript onnxruntime")
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxscript onnxruntime")
    torch.onnx.export(program, (x,), path, dynamo=True, opset_version=opset, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), program.module()(x).detach(), rtol=1e-4, atol=1e-5)
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("case", CASES)
def test_torchscript_trace(case):
    block, inputs = trained(case), maps("batch")
    traced = torch.jit.trace(block, inputs[0])
    for x in inputs:
        torch.testing.assert_close(traced(x), block(x), rtol=1e-4, atol=1e-5)
    names = {node.kind() for node in traced.inlined_graph.nodes()}
    assert ("aten::scaled_dot_product_attention" in names) == (case in ("gaussian", "embedded_gaussian"))


@pytest.mark.parametrize("case", CASES)
def test_fx(case):
    block, inputs = trained(case), maps("batch")
    traced = torch.fx.symbolic_trace(block)
    for x in inputs:
        torch.testing.assert_close(traced(x), block(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_exported_programs_of_other_dtypes(case, dtype):
    block, x = trained(case).to(dtype), maps("static")[0].to(dtype)
    y = torch.export.export(block, (x,)).module()(x)
    assert y.dtype == dtype
    tolerance = 5e-2 if dtype == torch.bfloat16 else 1e-9
    torch.testing.assert_close(y, block(x), rtol=tolerance, atol=tolerance)


class Biased(nn.Module):
    def forward(self, theta, phi, g, bias):
        return functional.embedded_gaussian(theta, phi, g, scale=0.5, key_bias_BM=bias)


@pytest.mark.parametrize("onnx", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "onnx"])
def test_a_key_bias_is_exported(onnx, tmp_path, no_map_is_small):
    draw = lambda *size: torch.randn(*size, generator=torch.Generator().manual_seed(len(size)))  # noqa: E731
    inputs = draw(2, 30, 4), draw(2, 20, 4), draw(2, 20, 3), draw(2, 20)
    inputs[3][:, 5:] = -torch.inf
    expected = Biased()(*inputs)
    torch.testing.assert_close(torch.export.export(Biased(), inputs).module()(*inputs), expected)
    if onnx:
        runtime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxscript onnxruntime")
        path = tmp_path / "biased.onnx"
        torch.onnx.export(Biased(), inputs, path, dynamo=True, verbose=False)
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]
        (y,) = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["embedded_gaussian", "dot_product", "concatenation"])
def test_the_older_onnx_exporter(case, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxscript onnxruntime")
    block, x, path = trained(case), maps("static")[0], tmp_path / "block.onnx"
    torch.onnx.export(block, (x,), path, dynamo=False, opset_version=17)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), block(x).detach(), rtol=1e-4, atol=1e-5)
