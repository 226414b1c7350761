"""Windows, rows and columns, channels and other keys in export, compile, autocast, files and streams."""

import copy
import pickle

import pytest
import torch
from torch import nn

import torch_nonlocal as nl

CASES = {
    "windows": {"windows": (3, 4)},
    "interlaced": {"windows": (3, 4), "interlaced": True, "pairwise": "dot_product"},
    "criss_cross": {"attend": "criss_cross", "pairwise": "concatenation"},
    "channel": {"attend": "channel", "pairwise": "dot_product"},
    "pyramid": {"keys": "pyramid"},
    "stride": {"keys": "stride", "subsample": 2, "pairwise": "gaussian"},
}


def trained(dims=2, **options):
    torch.manual_seed(0)
    block = (nl.NonLocal2d if dims == 2 else nl.NonLocal3d)(6, **{"norm": None, **options}).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block


def image():
    return torch.randn(2, 6, 7, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CASES)
def test_exported_programs_equal_the_block_and_consist_of_ordinary_operations(name):
    block, x = trained(**CASES[name]), image()
    program = torch.export.export(block, (x,))
    assert not any("torch_nonlocal" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), block(x))


@pytest.mark.slow
def test_compiled_blocks_are_one_graph_and_equal_eager_blocks():
    torch.compiler.reset()
    block, x = nn.Sequential(*(trained(**CASES[name]) for name in ("interlaced", "criss_cross"))), image()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    results = []
    for run in (block, compiled):
        y = run(x)
        gradients = torch.autograd.grad(y.square().mean(), list(block.parameters()), materialize_grads=True)
        results.append([y.detach(), *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_vmap_autocast_and_copies_give_the_same_numbers(name):
    block, x = trained(**CASES[name]), image()
    expected = block(x)
    torch.testing.assert_close(torch.vmap(lambda one: block(one[None])[0])(x), expected)
    torch.testing.assert_close(copy.deepcopy(block)(x), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(block))(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert (block(x).float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_products_of_channels_in_half_precision_do_not_overflow():
    block = trained(attend="channel", pairwise="dot_product", scale=None).half()
    x = torch.full((1, 6, 64, 64), 8.0, dtype=torch.float16)
    for conv in (block.theta, block.phi):
        nn.init.constant_(conv.weight, 0.5)  # 24 * 24 * 4,096 exceeds 65,504
    nn.init.constant_(block.g.weight, 1e-6)
    nn.init.zeros_(block.g.bias)
    y = block(x)
    assert y.isfinite().all()
    torch.testing.assert_close(y, block.float()(x.float()).half(), rtol=0.01, atol=0.01)


def test_a_recorded_graph_needs_the_size_of_the_map():
    with pytest.raises(NotImplementedError, match=r"its window \(3 x 3\) depends on: use torch.export"):
        torch.fx.symbolic_trace(trained(windows=3))
    x = image()
    for block in (trained(), *(trained(**CASES[name]) for name in ("criss_cross", "channel", "pyramid", "stride"))):
        torch.testing.assert_close(torch.fx.symbolic_trace(block)(x), block(x))


def test_inserted_blocks_keep_their_options_in_files(tmp_path):
    net, other = (nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1)) for _ in range(2))
    nl.insert(net, at="0", windows=(3, None), interlaced=True, norm=None)
    nl.insert(net, at="1", attend="criss_cross", norm=None)
    for block in nl.blocks(net).values():
        nn.init.normal_(block.out.weight)
    nl.save_blocks(net, tmp_path / "blocks.pt")
    other.load_state_dict({k: v for k, v in net.state_dict().items() if "non_local" not in k})
    nl.load_blocks(other, tmp_path / "blocks.pt")
    assert nl.blocks(other)["0"].config == nl.blocks(net)["0"].config
    x = torch.randn(1, 3, 7, 8)
    torch.testing.assert_close(other(x), net(x))
    with pytest.raises(ValueError, match=r"key_channels=4 is for blocks that are called with keys_from"):
        nl.insert(nn.Sequential(nn.Conv2d(3, 6, 1)), at="0", key_channels=4)


@torch.no_grad()
def test_streams_compute_windows_and_rows_of_each_frame():
    clip = torch.randn(1, 6, 4, 5, 6)
    for options in ({"attend": "space", "windows": (None, 3, 2)}, {"attend": "criss_cross"}):
        net = nn.Sequential(trained(3, **options), trained(3, causal="frames", keys="stride", subsample=2))
        with nl.stream(net) as step:
            found = torch.cat([step(frame) for frame in clip.split(1, 2)], 2)
        torch.testing.assert_close(found, net(clip))
    for options, why in (
        ({"causal": "frames", "windows": (None, 3, 3)}, "attends within its window"),
        ({"causal": "frames", "keys": "pyramid"}, "has keys='pyramid'"),
        ({"attend": "channel"}, "attends to all frames"),
    ):
        with pytest.raises(ValueError, match=why), nl.stream(trained(3, **options)) as step:
            step(clip[:, :, :1])
