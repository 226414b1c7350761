"""A network with blocks in deepcopy, pickle, torch.export, fx, torch.compile, torch.jit.trace, DDP and FSDP2."""

import copy
import os
import pickle
import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import torch_nonlocal as nl


def network():
    """A network with two trained blocks: skipping a block changes its output."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv3d(8, 8, 3, padding=1), nn.ReLU()),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    nl.insert(net, at=["0", "1"], example_input=clip(), norm="batch", subsample=2)
    for block in nl.blocks(net).values():
        nn.init.normal_(block.norm.weight)
    return net.eval()


def clip(batch=2):
    return torch.randn(batch, 3, 4, 6, 6, generator=torch.Generator().manual_seed(1))


def without_blocks(net):
    return nl.remove(copy.deepcopy(net))


def test_the_blocks_change_the_output():
    net = network()
    assert not torch.allclose(net(clip()), without_blocks(net)(clip()))


def test_deepcopy():
    net = network()
    assert torch.equal(copy.deepcopy(net)(clip()), net(clip()))


def test_pickle():
    net = network()
    assert torch.equal(pickle.loads(pickle.dumps(net))(clip()), net(clip()))


def test_export():
    net = network()
    exported = torch.export.export(net, (clip(),), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    torch.testing.assert_close(exported.module()(clip(3)), net(clip(3)))


def test_fx_symbolic_trace():
    net = network()
    nl.insert(net, at="2", example_input=clip(), attend="time")  # a leaf of the trace, whose hook runs with it
    torch.testing.assert_close(torch.fx.symbolic_trace(net)(clip()), net(clip()))


def test_feature_extractor():
    extraction = pytest.importorskip("torchvision.models.feature_extraction", reason="pip install torchvision")
    resnet = pytest.importorskip("torchvision.models").resnet18(weights=None).eval()
    nl.insert(resnet, at="layer3.1", norm=None)  # not a leaf: fx traces into the block
    nn.init.normal_(nl.blocks(resnet)["layer3.1"].out.weight, std=0.1)
    x = torch.randn(1, 3, 32, 32)
    features = extraction.create_feature_extractor(resnet, {"layer4": "out"})
    reference = resnet.layer4(
        resnet.layer3(resnet.layer2(resnet.layer1(resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x)))))))
    )
    torch.testing.assert_close(features(x)["out"], reference)


@pytest.mark.slow
def test_compile_fullgraph():
    net = network()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(clip()), net(clip()))
    compiled.train()
    compiled(clip()).sum().backward()
    assert nl.blocks(net)["0.1"].norm.weight.grad is not None


@pytest.mark.parametrize("attend", ["spacetime", "space", "time"])
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product", "concatenation"])
def test_fx_traces_into_the_block(pairwise, attend):
    block = nl.NonLocal3d(8, pairwise=pairwise, attend=attend).eval()
    nn.init.normal_(block.norm.weight)
    traced = torch.fx.symbolic_trace(block)
    for frames in (3, 5):
        x = torch.randn(2, 8, frames, 4, 4)
        torch.testing.assert_close(traced(x), block(x))


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning", "ignore:.*deprecated.*")
def test_jit_trace():
    net = network()
    with torch.no_grad():
        traced = torch.jit.trace(net, clip())
    torch.testing.assert_close(traced(clip()), net(clip()))


def test_functional_call():
    net = network()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    state["0.1.non_local.norm.weight"].zero_()
    state["1.1.non_local.norm.weight"].zero_()
    torch.testing.assert_close(torch.func.functional_call(net, state, (clip(),)), without_blocks(net)(clip()))


def test_autocast():
    net = network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(clip())
    torch.testing.assert_close(half.float(), net(clip()), rtol=0.05, atol=0.05)


def _worker(rank, store, expected):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        _compare_ddp(rank, expected)
        _compare_fsdp2(rank, expected)
        dist.barrier()  # a process that leaves while the other still talks to it may abort that one
    finally:
        dist.destroy_process_group()


def _compare_ddp(rank, expected):
    net = nn.parallel.DistributedDataParallel(network())
    net(clip()[rank : rank + 1]).square().sum().backward()
    for name, parameter in net.module.named_parameters():
        torch.testing.assert_close(parameter.grad * 2, expected[name])


def _compare_fsdp2(rank, expected):
    from torch.distributed.fsdp import fully_shard

    net = network()
    keys = set(net.state_dict())
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    for stage in (net[0], net[1]):
        fully_shard(stage, mesh=mesh)
    fully_shard(net, mesh=mesh)
    assert set(net.state_dict()) == keys
    assert list(nl.blocks(net)) == ["0.1", "1.1"]
    net(clip()[rank : rank + 1]).square().sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad.full_tensor() * 2, expected[name])


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_ddp_and_with_fsdp2():
    net = network()
    net(clip()).square().sum().backward()
    expected = {name: parameter.grad for name, parameter in net.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, args=(os.path.join(folder, "store"), expected), nprocs=2)
