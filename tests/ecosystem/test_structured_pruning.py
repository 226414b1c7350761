"""Structured pruning: the channels of a block, its options, files and messages follow its weights."""

import pytest
import torch
from packages import package
from torch import nn

import torch_nonlocal as nl

FORMS = ["embedded_gaussian", "gaussian", "dot_product", "concatenation"]


def awake(block):
    torch.manual_seed(3)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block.eval()


def narrowed(kind, inputs, outputs, old):
    """A smaller convolution or linear layer with the kept rows and columns of another."""
    new = kind(len(inputs), len(outputs), 1) if kind is not nn.Linear else nn.Linear(len(inputs), 1, bias=False)
    weight = old.weight.detach()[:, inputs] if kind is nn.Linear else old.weight.detach()[outputs][:, inputs]
    new.weight.data = weight
    if old.bias is not None:
        new.bias.data = old.bias.detach()[outputs]
    return new


def prune_by_hand(block, channels, theta, g):
    """Keep some channels of the map, of theta and phi, and of g, with new modules in place of the old."""
    conv, everywhere = type(block.g), list(range(block.channels))
    kept = everywhere[:channels]
    if block.pairwise != "gaussian":
        block.theta = narrowed(conv, kept, theta, block.theta)
        block.phi = narrowed(conv, kept, theta, block.phi)
    if block.score is not None:
        inner = block.score.weight.shape[1] // 2
        block.score = narrowed(nn.Linear, [*theta, *(inner + one for one in theta)], [0], block.score)
    block.g = narrowed(conv, kept, g, block.g)
    block.out = narrowed(conv, g, kept, block.out)
    norm = nn.BatchNorm2d(channels)
    norm.load_state_dict({k: v if v.ndim == 0 else v[:channels] for k, v in block.norm.state_dict().items()})
    block.norm = norm.eval()
    return block


@pytest.mark.parametrize("pairwise", FORMS)
def test_a_block_pruned_by_hand(pairwise, tmp_path):
    """Removed channels of theta, phi and g are those of zero weight in the judge."""
    block, judge = (awake(nl.NonLocal2d(8, inner_channels=6, pairwise=pairwise)) for _ in range(2))
    keep = [0, 2, 5]
    with torch.no_grad():
        for child in (judge.theta, judge.phi, judge.g):
            for tensor in child.parameters():
                tensor[[1, 3, 4]] = 0
    prune_by_hand(block, 8, keep, keep)
    x = torch.randn(2, 8, 4, 5)
    torch.testing.assert_close(block(x), judge(x), rtol=1e-4, atol=1e-5)
    assert (block.channels, block.inner_channels) == (8, 3)
    assert block.config["inner_channels"] == 3
    assert f"D = {8 if pairwise == 'gaussian' else 3})" in nl.explain(block, x.shape)
    again = type(block)(**block.config)
    again.load_state_dict(block.state_dict())
    torch.testing.assert_close(again.eval()(x), block(x))


def test_channels_of_the_map_and_messages_follow():
    block = prune_by_hand(awake(nl.NonLocal2d(8)), 5, [0, 1], [0, 1])
    assert block(torch.randn(1, 5, 3, 3)).shape == (1, 5, 3, 3)
    assert (block.channels, block.config["channels"]) == (5, 5)
    with pytest.raises(ValueError, match=r"expected \(B, 5, H, W\), got \(1, 8, 3, 3\)"):
        block(torch.randn(1, 8, 3, 3))
    with pytest.raises(ValueError, match=r"the second 5 channels, \(B, 5, H, W\)"):
        nl.explain(block, (1, 8, 3, 3))


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "dot_product", "concatenation"])
def test_theta_and_g_of_different_widths(pairwise, tmp_path):
    block, judge = (awake(nl.NonLocal2d(8, inner_channels=6, pairwise=pairwise)) for _ in range(2))
    with torch.no_grad():
        for child, removed in ((judge.theta, [4, 5]), (judge.phi, [4, 5]), (judge.g, [0, 1, 2])):
            for tensor in child.parameters():
                tensor[removed] = 0
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
    nl.insert(model, "0", pairwise=pairwise, inner_channels=6)
    model[0].non_local = prune_by_hand(block, 8, [0, 1, 2, 3], [3, 4, 5])
    x = torch.randn(2, 8, 4, 5)
    torch.testing.assert_close(block(x), judge(x), rtol=1e-4, atol=1e-5)
    for line in (nl.explain(block, x.shape), str(block)):
        assert line
    assert (block.embedding_channels, block.inner_channels) == (4, 3)
    with pytest.raises(ValueError, match="theta and phi have 4 channels and g has 3"):
        _ = block.config
    with pytest.raises(ValueError, match=r"block at '0' cannot be saved: .*theta and phi have 4 channels and g has 3"):
        nl.save_blocks(model, tmp_path / "blocks.pt")
    assert not (tmp_path / "blocks.pt").exists()


def network(pairwise):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.Identity(), nn.ReLU(), nn.Conv2d(16, 8, 3)]
    model = nn.Sequential(*layers)
    nl.insert(model, "3", torch.randn(1, 3, 12, 12), pairwise=pairwise, inner_channels=8)
    awake(nl.blocks(model)["3"])
    return model.eval()


@pytest.mark.parametrize("pairwise", FORMS)
def test_torch_pruning(pairwise, tmp_path):
    pruning = package("torch_pruning")
    model, x = network(pairwise), torch.randn(1, 3, 12, 12)
    importance = pruning.importance.MagnitudeImportance(p=2)
    pruning.pruner.MagnitudePruner(model, x, importance, pruning_ratio=0.5, ignored_layers=[model[-1]]).step()
    block = nl.blocks(model)["3"]
    # As for plain PyTorch: x times itself is left, and so is g where no channel meets one of theta.
    channels = 16 if pairwise == "gaussian" else 8
    inner = 4 if pairwise in ("embedded_gaussian", "dot_product") else 8
    assert (model[2].out_channels, block.channels, block.inner_channels) == (channels, channels, inner)
    out = model(x)
    if pairwise == "concatenation":
        assert block.embedding_channels == 4
        with pytest.raises(ValueError, match="theta and phi have 4 channels and g has 8"):
            nl.save_blocks(model, tmp_path / "blocks.pt")
    else:
        nl.save_blocks(model, tmp_path / "blocks.pt")
        nl.remove(model)
        nl.load_blocks(model, tmp_path / "blocks.pt")
        torch.testing.assert_close(model(x), out)
    model.train()(x.expand(2, -1, -1, -1)).sum().backward()
    assert all(parameter.grad is not None for parameter in nl.blocks(model)["3"].parameters())


def test_a_fused_norm_is_saved_as_none(tmp_path):
    model, x = network("embedded_gaussian"), torch.randn(1, 3, 12, 12)
    block = nl.blocks(model)["3"]
    out = model(x)
    block.out = nn.utils.fuse_conv_bn_eval(block.out, block.norm)
    block.norm = nn.Identity()
    torch.testing.assert_close(model(x), out, rtol=1e-4, atol=1e-4)
    nl.save_blocks(model, tmp_path / "blocks.pt")
    nl.remove(model)
    nl.load_blocks(model, tmp_path / "blocks.pt")
    assert nl.blocks(model)["3"].config["norm"] is None
    torch.testing.assert_close(model(x), out, rtol=1e-4, atol=1e-4)
