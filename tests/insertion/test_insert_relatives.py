"""Relatives of the non-local block in networks: insert, remove, block files, plan and watch."""

import copy

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.layers.registry import block_kind

RELATIVES = nl.list_blocks()[1:]
GATES = ("se", "cbam")
WATCHED = ("danet", "danet_position", "gcnet", "a2", "efficient", "dnl", "ccnet")
X = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        return self.last(self.first(x)).mean((2, 3))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().eval()


def trained(model):
    """Give the blocks random values, those that start at zero included."""
    with torch.no_grad():
        for block in nl.blocks(model).values():
            for parameter in block.parameters():
                parameter.normal_(0, 0.3)
    return model


def test_the_list_names_the_non_local_block_first():
    assert nl.list_blocks()[0] == "non_local"
    assert len(set(nl.list_blocks())) == len(nl.list_blocks())


@pytest.mark.parametrize("name", RELATIVES)
def test_insert_remove_and_block_files(name, network, tmp_path):
    before, keys = network(X), set(network.state_dict())
    plain = copy.deepcopy(network)
    assert nl.insert(network, at="first", example_input=X, block=name) is network
    assert type(nl.blocks(network)["first.1"]) is block_kind(name).class_for(2)
    assert torch.equal(network(X), before) == (name not in GATES)
    assert keys < set(network.state_dict())
    network.load_state_dict(plain.state_dict())  # a checkpoint without blocks
    expected = trained(network)(X)
    assert not torch.allclose(expected, before)
    assert torch.equal(copy.deepcopy(network)(X), expected)
    nl.save_blocks(network, tmp_path / "blocks.pt")
    assert torch.equal(nl.load_blocks(plain, tmp_path / "blocks.pt")(X), expected)
    nl.remove(network)
    assert torch.equal(network(X), before)
    nl.insert(network, at="first", example_input=X, block="non_local")
    with pytest.raises(ValueError, match="differs in"):
        nl.load_blocks(network, tmp_path / "blocks.pt")


@pytest.mark.parametrize("name", RELATIVES)
def test_plan_counts_the_cost(name, network):
    options = {"reduction": 2} if "danet" in name and name != "danet_channel" else {}
    planned = nl.plan(network, X, at="first", block=name, **options)
    place = planned.places[0]
    nl.insert(network, at="first", example_input=X, block=name, **options)
    assert place.parameters == sum(parameter.numel() for parameter in nl.blocks(network)["first.1"].parameters())
    assert planned.block == name
    assert f"Blocks: {name}, batch size 2." in str(planned)
    keys = {"danet_channel": 8, "cgnl": 320, "ccnet": 17, "apnb": 110, "afnb": 110, "se": 0, "cbam": 0}
    assert place.keys == keys.get(name, 80)
    assert place.memory <= place.memory_dense


@pytest.mark.parametrize("name", RELATIVES)
def test_the_memory_of_a_training_step_is_far_below_a_map_of_all_pairs(name):
    side = 128
    place = nl.plan(nn.Sequential(nn.Conv2d(3, 16, 1)), torch.zeros(1, 3, side, side), at="0", block=name).places[0]
    assert place.memory < 4 * side**4 / 10
    assert (place.memory_dense > 4 * side**4) == (name in (*WATCHED, "cgnl") and name != "gcnet")


@pytest.mark.parametrize("name", RELATIVES)
def test_watch_shows_the_weights_of_the_last_run(name, network):
    trained(nl.insert(network, at="first", example_input=X, block=name))
    if name not in WATCHED:
        with pytest.raises(ValueError, match=r"have no weights to watch: first\.1 has "):
            nl.watch(network)
        return
    with nl.watch(network) as seen:
        network(X)
    block = nl.blocks(network)["first.1"]
    row = seen["first.1"].rows([(2, 3)], batch=1)[0]
    assert row.shape == (8, 10)
    torch.testing.assert_close(row, weights(name, block, network.first[0](X).relu()[1])[2 * 10 + 3].view(8, 10))
    torch.testing.assert_close(row.sum(), torch.tensor(1.0))
    assert len(seen["first.1"].links((2, 3), k=4)) == 4
    assert "N = 80 queries" in nl.explain(block, (2, 8, 8, 10)) or name == "gcnet"


@torch.no_grad()
def weights(name, block, x):
    """The map of weights (N, N) of one image (C, H, W), by the formulas."""
    x = x.flatten(1)

    def of(child):
        return child.weight.flatten(1) @ x + child.bias[:, None]

    if name == "gcnet":
        return of(block.score).softmax(-1).expand(80, 80)
    theta, phi = of(block.theta), of(block.phi)
    if name in ("a2", "efficient"):
        return theta.softmax(0).T @ phi.softmax(1)
    if name == "ccnet":  # the last step, on what the first returns
        row, column = torch.arange(80) // 10, torch.arange(80) % 10
        hidden = (row[:, None] != row) & (column[:, None] != column)
        first = (theta.T @ phi).masked_fill(hidden, -torch.inf).softmax(-1)
        x = x + block.gamma.weight * (of(block.g) @ first.T)
        return (of(block.theta).T @ of(block.phi)).masked_fill(hidden, -torch.inf).softmax(-1)
    if name == "dnl":
        theta, phi = theta - theta.mean(1, keepdim=True), phi - phi.mean(1, keepdim=True)
    return (theta.T @ phi).softmax(-1)


def test_a_hidden_block_beside_a_watched_one_says_why(network):
    nl.insert(network, at="first", example_input=X, block="se")
    nl.insert(network, at="last", example_input=X, block="gcnet")
    with nl.watch(network) as seen:
        network(X)
    assert list(seen) == ["last"]
    with pytest.raises(KeyError, match="a factor for each channel"):
        seen["first.1"]


@pytest.mark.parametrize("name", RELATIVES)
def test_streams_refuse_blocks_that_compute_over_all_frames(name):
    model = nn.Sequential(nn.Conv3d(3, 8, 1), nn.ReLU()).eval()
    clip = torch.randn(1, 3, 4, 6, 6)
    trained(nl.insert(model, at="1", example_input=clip, block=name))
    if name == "ccnet":  # within frames
        with nl.stream(model) as step:
            torch.testing.assert_close(step(clip[:, :, :2]), model(clip)[:, :, :2])
        return
    with pytest.raises(ValueError, match="has no causal form"), nl.stream(model) as step:
        step(clip[:, :, :2])


def test_wrong_blocks_and_options_leave_the_network_unchanged(network):
    for function in (nl.insert, nl.plan):
        arguments = (network, "first", X) if function is nl.insert else (network, X, "first")
        with pytest.raises(ValueError, match="block='danets': did you mean 'danet'"):
            function(*arguments, block="danets")
        with pytest.raises(TypeError, match=r"unknown option 'pairwise'.*options of block 'gcnet': ratio"):
            function(*arguments, block="gcnet", pairwise="gaussian")
        with pytest.raises(TypeError, match="unknown option 'ratio'"):
            function(*arguments, ratio=4)
    with pytest.raises(ValueError, match=r"block at 'first\.1' \(EfficientAttention, 8 channels\): head_count=3"):
        nl.insert(network, at="first", example_input=X, block="efficient", head_count=3)
    assert not nl.blocks(network)


def test_key_channels_are_those_of_another_map_or_of_the_keys_of_all_heads(network):
    nl.insert(network, at="first", example_input=X, block="efficient", key_channels=6)
    assert nl.blocks(network)["first.1"].theta.out_channels == 6
    for name in ("non_local", "afnb"):
        with pytest.raises(ValueError, match=r"block at 'last': key_channels=6 is for blocks that are called with"):
            nl.insert(network, at="last", example_input=X, block=name, key_channels=6)


def test_a_file_with_an_unknown_block_is_refused(network, tmp_path):
    from torch_nonlocal.insertion.block_files import write_blocks

    entry = {"class": "os.system", "options": {"channels": 8}}
    write_blocks(tmp_path / "blocks.pt", {"first.1": entry}, {"first.1/a": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"class 'os\.system' is unknown"):
        nl.load_blocks(network, tmp_path / "blocks.pt")


def test_blocks_in_a_clip_see_all_frames_of_channels_last_maps():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(3, 8)

        def forward(self, x):
            return self.inside(x)

    model, x = Tokens(), torch.randn(1, 2, 4, 5, 3)
    nl.insert(model, at="inside", example_input=x, block="gcnet", ratio=2)
    block = nl.blocks(model)["inside"]
    assert (block.dims, block.layout) == (3, "channels_last")
    assert trained(model)(x).shape == (1, 2, 4, 5, 8)
