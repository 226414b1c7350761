"""`nl.optimize`: the same numbers, undoable, and only where the module's own code need not run."""

import copy
import pickle
from importlib import import_module

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.optimization import convolutions

optimize = import_module("torch_nonlocal.optimization.optimize")  # the package's attribute is the function
pytestmark = pytest.mark.skipif(not convolutions._has_onednn(), reason="this build of PyTorch has no oneDNN")


@pytest.fixture
def always_faster(monkeypatch):
    """The choice by time is left out: every convolution that oneDNN computes is changed."""
    monkeypatch.setattr(optimize, "_is_faster", lambda conv, x, *_: _computes(conv, x))
    counter = iter(range(1000, 0, -1))
    monkeypatch.setattr(optimize, "_seconds", lambda work: (work(), float(next(counter)))[1])


def _computes(conv, x):
    convolutions.packed_forward(conv, x)
    return True


CONVS = {
    "plain": lambda: nn.Conv2d(4, 6, 1),
    "strided, padded": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    "dilated": lambda: nn.Conv2d(4, 6, 3, dilation=2),
    "grouped": lambda: nn.Conv2d(4, 8, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "3D": lambda: nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0)),
    "3D strided": lambda: nn.Conv3d(4, 6, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
    "3D depthwise": lambda: nn.Conv3d(4, 4, 3, padding=1, groups=4),
}


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_geometry_computes_the_same(name, channels_last, always_faster):
    conv = CONVS[name]()
    size = (5, 9, 8)[-(conv.weight.ndim - 2) :]
    kinds = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = kinds[conv.weight.ndim] if channels_last else torch.contiguous_format
    example = torch.randn(1, 4, *size).contiguous(memory_format=layout)
    assert nl.optimize(conv, example).layers == ("",)
    for batch in (1, 3):
        x = torch.randn(batch, 4, *size).contiguous(memory_format=layout)
        with torch.no_grad():
            torch.testing.assert_close(conv(x), type(conv).__bases__[0].forward(conv, x))


def _network() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    return nl.insert(model, at="0")


@pytest.fixture
def network():
    return _network()


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 9)


def test_the_network_computes_the_same_and_undo_gives_it_back(network, x, always_faster):
    network.eval()
    expected, keys, kinds = network(x), list(network.state_dict()), [type(one) for one in network.modules()]
    report = nl.optimize(network, x)
    assert report.layers == ("0", "3")  # not those of the block
    assert report.convolutions == 2
    assert "2 of 2 convolutions use oneDNN by name" in str(report)
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected)
    assert list(network.state_dict()) == keys
    assert isinstance(network[0], nn.Conv2d)
    report.undo()
    assert [type(one) for one in network.modules()] == kinds
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda conv: conv.weight.data.mul_(2),
        lambda conv: conv.load_state_dict({"weight": conv.weight * 3, "bias": conv.bias}),
        lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight + 1)),
        lambda conv: nn.init.ones_(conv.weight),
        *(lambda conv, number=number: conv.weight.data[number].zero_() for number in range(0, 200, 33)),
        *(lambda conv, number=number: conv.weight.data[:, number].zero_() for number in range(3)),
    ],
)
def test_weights_that_change_are_packed_again(change, x, always_faster):
    conv = nn.Conv2d(3, 200, 3)
    nl.optimize(conv, x)
    with torch.no_grad():
        conv(x)
        change(conv)
        torch.testing.assert_close(conv(x), nn.functional.conv2d(x, conv.weight, conv.bias))


def test_gradients_are_those_of_the_module_itself(x, always_faster):
    conv = nn.Conv2d(3, 8, 3)
    plain = copy.deepcopy(conv)
    for training in (False, True):
        assert nl.optimize(conv, x, training=training).layers == ("",)
        for one in (plain, conv):
            one.zero_grad()
            one(x).square().sum().backward()
        torch.testing.assert_close(conv.weight.grad, plain.weight.grad)
        torch.testing.assert_close(conv.bias.grad, plain.bias.grad)
    assert convolutions.uses_of(conv) == (True, True)


def test_other_calls_run_the_modules_own_code(x, always_faster):
    conv = nn.Conv2d(3, 8, 3)
    nl.optimize(conv, x)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert conv(x).dtype == torch.bfloat16
        assert torch.compile(conv, backend="eager", fullgraph=True)(x).shape == (2, 8, 6, 7)
        exported = torch.export.export(conv.eval(), (x,))
        assert "mkldnn" not in str(exported)
        stacked = torch.func.vmap(conv)(x[:, None])
        torch.testing.assert_close(stacked[:, 0], conv(x))
        assert conv(x[0]).shape == (8, 6, 7)
        assert conv.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_are_plain(copied, network, x, always_faster):
    nl.optimize(network, x)
    again = copied(network)
    assert not any(any(convolutions.uses_of(one)) for one in again.modules())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), network.eval()(x))
    assert list(nl.blocks(again)) == ["0"]


def test_the_mode_and_the_random_numbers_stay(network, x):
    network.train()
    network[1].eval()
    statistics = network[1].running_mean.clone()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    nl.optimize(network, x)
    assert torch.equal(torch.rand(1), expected)
    assert network.training
    assert not network[1].training
    assert torch.equal(network[1].running_mean, statistics)
    assert all(one.grad is None for one in network.parameters())


def test_a_network_without_such_convolutions_says_so():
    report = nl.optimize(nn.Linear(3, 4), torch.randn(2, 3))
    assert str(report) == "nothing was changed: it has no convolution in float32 on a CPU"
    report = nl.optimize(nn.Conv2d(3, 4, 1).double(), torch.randn(1, 3, 4, 4, dtype=torch.float64))
    assert "nothing was changed" in str(report)


def test_a_network_that_is_not_faster_is_given_back(network, x, monkeypatch, always_faster):
    counter = iter(range(1000))
    monkeypatch.setattr(optimize, "_seconds", lambda work: (work(), float(next(counter)))[1])
    report = nl.optimize(network, x)
    assert report.reason == "the network was not faster"
    assert not any(any(convolutions.uses_of(one)) for one in network.modules())
