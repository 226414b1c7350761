"""Export of a block with torch.export and to ONNX, activation checkpointing, and merged projections."""

import pytest
import torch
from torch import nn

import torch_nonlocal as nl

FORMS = ["embedded_gaussian", "gaussian", "dot_product", "concatenation"]


def random_block(pairwise, **options):
    torch.manual_seed(0)
    block = nl.NonLocal3d(8, pairwise=pairwise, **options)
    if options.get("norm", "batch"):
        nn.init.normal_(block.norm.weight)
    return block.eval()


@pytest.mark.slow
@pytest.mark.parametrize("pairwise", FORMS)
def test_onnx(pairwise, tmp_path):
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript onnxruntime")
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxscript onnxruntime")
    block, path = random_block(pairwise, subsample=2), tmp_path / "block.onnx"
    dims = {0: torch.export.Dim("batch", min=1, max=64), 2: torch.export.Dim("frames", min=2, max=64)}
    torch.onnx.export(block, (torch.randn(2, 8, 4, 6, 6),), path, dynamo=True, dynamic_shapes=(dims,))
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, frames in ((2, 4), (3, 5)):
        x = torch.randn(batch, 8, frames, 6, 6)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), block(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pairwise", FORMS)
def test_export_contains_ordinary_operations_only(pairwise):
    block = random_block(pairwise)
    x = torch.randn(2, 8, 3, 4, 4)
    program = torch.export.export(block, (x,))
    assert not any("torch_nonlocal" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), block(x))


@pytest.mark.parametrize("pairwise", FORMS)
def test_a_checkpointed_block_has_the_same_gradients(pairwise):
    plain, saving = random_block(pairwise).train(), random_block(pairwise, checkpoint=True).train()
    x = torch.randn(2, 8, 3, 4, 4)
    for block in (plain, saving):
        block(x).square().sum().backward()
    torch.testing.assert_close(plain.norm.running_var, saving.norm.running_var)
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("pairwise", FORMS)
@pytest.mark.parametrize("options", [{}, {"subsample": 2, "pool_first": True}, {"norm": "group"}, {"norm": None}])
def test_merged_products_equal_separate_modules(pairwise, options):
    block = random_block(pairwise, **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 8, 3, 4, 4)
    merged = block(x)
    # modules with hooks are called separately
    handles = [module.register_forward_hook(lambda *_: None) for module in block.children()]
    torch.testing.assert_close(block(x), merged, rtol=1e-4, atol=1e-5)
    for handle in handles:
        handle.remove()


def test_a_hook_on_theta_still_runs():
    block, seen = random_block("embedded_gaussian"), []
    block.theta.register_forward_hook(lambda *_: seen.append(1))
    block(torch.randn(1, 8, 3, 4, 4))
    assert seen == [1]
