"""Tools that compile, convert, fuse or copy a network, with a block after each kind of place."""

import copy
import pickle
import warnings

import pytest
import torch
from packages import package
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import torch_nonlocal as nl

PLACES = ("block", "block.conv", "block.bn")


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.bn(self.conv(x)))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Residual(8)

    def forward(self, x):
        return self.block(self.stem(x))


def plain():
    torch.manual_seed(0)
    net = Network()
    nn.init.uniform_(net.block.bn.running_var, 0.5, 2)
    nn.init.uniform_(net.block.bn.running_mean)
    return net.eval()


def with_block(at, **options):
    return add_block(plain(), at, **options)


def add_block(net, at, **options):
    torch.manual_seed(1)
    nl.insert(net, at, example_input=images(), **options)
    nn.init.ones_(nl.blocks(net)[at].norm.weight)
    return net


def images():
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(2))


def expected(net, at):
    """The output of a network with a block, with hooks written out by hand."""
    block = nl.blocks(net)[at]
    body = nl.remove(copy.deepcopy(net)).block
    x = net.stem(images())
    after = {place: block if place == at else nn.Identity() for place in PLACES}
    y = after["block.bn"](body.bn(after["block.conv"](body.conv(x))))
    return after["block"](torch.relu(x + y))


def assert_same(net, reference, tolerance=1e-5):
    torch.testing.assert_close(net(images()), reference, rtol=tolerance, atol=tolerance)


pytestmark = [
    pytest.mark.filterwarnings("ignore:the block at"),
    pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated"),
]


@pytest.mark.parametrize("at", PLACES)
def test_the_reference_differs_from_the_network_without_a_block(at):
    net = with_block(at)
    assert_same(net, expected(net, at))
    assert not torch.allclose(net(images()), plain()(images()), atol=1e-2)


@pytest.fixture
def compile_():
    torch._dynamo.reset()
    yield lambda net: torch.compile(net, backend="eager")
    torch._dynamo.reset()


@pytest.mark.parametrize("at", PLACES)
def test_compile_of_a_network_without_and_then_with_a_block(at, compile_):
    compile_(plain())(images())
    net = with_block(at)
    compiled = compile_(net)
    torch.testing.assert_close(compiled(images()), expected(net, at))
    compiled(images()).sum().backward()
    assert nl.blocks(net)[at].g.weight.grad is not None


@pytest.mark.parametrize("at", PLACES)
def test_insertion_loading_and_removal_after_compile(at, compile_, tmp_path):
    net = plain()
    compiled = compile_(net)
    without = compiled(images())
    add_block(net, at)
    reference = expected(net, at)
    torch.testing.assert_close(compiled(images()), reference)
    nl.save_blocks(net, tmp_path / "blocks.pt")
    nl.remove(net)
    torch.testing.assert_close(compiled(images()), without)
    nl.load_blocks(net, tmp_path / "blocks.pt")
    torch.testing.assert_close(compiled(images()), reference)


def test_compile_of_a_network_with_one_and_then_two_blocks(compile_):
    net = with_block("block")
    compiled = compile_(net)
    one = compiled(images())
    add_block(net, "stem")
    two = net(images())
    assert not torch.allclose(one, two, atol=1e-2)
    torch.testing.assert_close(compiled(images()), two)


def test_a_block_with_other_options_after_compile(compile_):
    net = with_block("block")
    compiled = compile_(net)
    compiled(images())
    nl.remove(net)
    add_block(net, "block", pairwise="dot_product")
    torch.testing.assert_close(compiled(images()), expected(net, "block"))


@pytest.mark.parametrize("child", ["theta", "out", "score"])
def test_a_forward_replaced_after_compile(child, compile_):
    net = with_block("block", pairwise="concatenation")
    compiled = compile_(net)
    before = compiled(images())
    module = getattr(net.block.non_local, child)
    module.forward = lambda x, old=module.forward: 3 * old(x)
    assert not torch.allclose(net(images()), before, atol=1e-2)
    torch.testing.assert_close(compiled(images()), net(images()))


def test_compile_of_the_host_alone(compile_):
    net = plain()
    net.block.compile(backend="eager")
    net(images())
    add_block(net, "block")
    reference = net.block.non_local(nl.remove(copy.deepcopy(net)).block._call_impl(net.stem(images())))
    torch.testing.assert_close(net(images()), reference)


@pytest.mark.parametrize("at", PLACES)
def test_conversion_to_synchronized_batch_norm(at):
    net = with_block(at)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    assert isinstance(converted.block.bn, nn.SyncBatchNorm)
    assert list(nl.blocks(converted)) == [at]
    assert isinstance(nl.blocks(converted)[at].norm, nn.SyncBatchNorm)
    assert_same(converted, expected(net, at))
    nl.remove(converted)
    assert_same(converted, plain()(images()))


@pytest.mark.parametrize("at", PLACES)
def test_frozen_batch_norm(at):
    layers = package("timm.layers")
    net = with_block(at)
    reference = expected(net, at)
    frozen = layers.freeze_batch_norm_2d(net.train()).eval()
    assert "Frozen" in type(frozen.block.bn).__name__
    assert list(nl.blocks(frozen)) == [at]
    assert_same(frozen, reference)
    nl.remove(frozen)
    assert_same(frozen, plain()(images()))


def test_lora_on_a_host_is_merged_before_the_block():
    peft = package("peft")
    net = with_block("block.conv")
    without = expected(net, "block.conv")
    adapted = peft.get_peft_model(net, peft.LoraConfig(target_modules=["block.conv"], r=2))
    nn.init.normal_(adapted.base_model.model.block.conv.lora_B["default"].weight)
    output = adapted.eval()(images())
    assert not torch.allclose(output, without, atol=1e-2)
    merged = adapted.merge_and_unload()
    assert list(nl.blocks(merged)) == ["block.conv"]
    assert_same(merged, output, 1e-4)
    assert_same(merged, expected(merged, "block.conv"))


def test_lora_that_is_removed():
    peft = package("peft")
    net = with_block("block.conv")
    reference = expected(net, "block.conv")
    unloaded = peft.get_peft_model(net, peft.LoraConfig(target_modules=["block.conv"], r=2)).unload()
    assert type(unloaded.block.conv) is type(with_block("block.conv").block.conv)
    assert_same(unloaded, reference)


def test_a_replaced_host_passes_its_block_on():
    net = with_block("block.conv")
    net.block.conv = nn.Conv2d(8, 8, 1)
    assert list(nl.blocks(net)) == ["block.conv"]
    assert_same(net, expected(net, "block.conv"))


def test_exchanged_modules_keep_their_blocks():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3))
    nl.insert(net, "0")
    block = net[0].non_local
    net[0], net[1] = net[1], net[0]
    assert nl.blocks(net) == {"1": block}


def test_a_host_that_is_cut_away_takes_its_block_along():
    net = with_block("block")
    net.block = nn.Identity()
    assert nl.blocks(net) == {}


@pytest.mark.parametrize("at", PLACES)
def test_fx_fuse(at):
    from torch.fx.experimental.optimization import fuse

    net = with_block(at)
    assert_same(fuse(net), expected(net, at))


@pytest.mark.parametrize("at", PLACES)
def test_fuse_modules(at):
    net = with_block(at)
    pair = [["block.conv", "block.bn"]]
    if at == "block":
        assert_same(torch.ao.quantization.fuse_modules(net, pair), expected(net, at))
    else:
        with pytest.raises(AssertionError, match=r"\[non_local\]"):
            torch.ao.quantization.fuse_modules(net, pair)


@pytest.mark.parametrize("at", PLACES)
def test_quantization_aware_training(at):
    net = with_block(at).train()
    net.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    prepared = torch.ao.quantization.prepare_qat(net)
    prepared.apply(torch.ao.quantization.disable_observer).apply(torch.ao.quantization.disable_fake_quant)
    prepared.eval()
    assert list(nl.blocks(prepared)) == [at]
    assert_same(prepared, expected(with_block(at), at))


@pytest.mark.parametrize("at", ["block.conv", "block.bn"])
def test_insertion_warns_of_fusion_by_isinstance(at):
    cnn = package("mmcv.cnn")
    with pytest.warns(UserWarning, match=rf"the block at {at} follows .* insert at block$"):
        nl.insert(plain(), at)
    net = with_block("block")
    assert_same(cnn.fuse_conv_bn(copy.deepcopy(net)), expected(net, "block"))


def test_layers_that_are_reparameterized():
    utils, models = package("timm.utils"), package("timm.models")
    torch.manual_seed(0)
    blocks = nn.Sequential(*(models.fastvit.RepMixer(4) for _ in range(2)))
    net = nn.Sequential(nn.Conv2d(3, 4, 1), blocks).eval()
    with pytest.warns(UserWarning, match=r"the block at 1\.1\.mixer is inside 1\.1 \(RepMixer\).* insert at 1\.1$"):
        nl.insert(net, "1.1.mixer", images())
    nl.remove(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nl.insert(net, "1.1", images())
    nn.init.ones_(nl.blocks(net)["1.1"].norm.weight)
    merged = utils.reparameterize_model(net)
    assert list(nl.blocks(merged)) == ["1.1"]
    assert hasattr(net[1][1], "mixer")
    assert not hasattr(merged[1][1], "mixer")
    reference = net[1][1].non_local(nl.remove(copy.deepcopy(net))(images()))
    assert_same(merged, reference)


def test_no_warning_where_nothing_is_fused(recwarn):
    nl.insert(plain(), ["block", "stem"], example_input=images())
    assert not recwarn


def test_a_dropped_block_is_named_and_not_listed():
    net = with_block("block.bn")
    net.block.bn._forward_hooks.clear()
    with pytest.warns(UserWarning, match=r"'block\.bn' no longer runs"):
        assert nl.blocks(net) == {}


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("at", PLACES)
def test_copies_keep_block_and_class(at, copied):
    net = with_block(at)
    other = copied(net)
    host = other.get_submodule(at)
    assert type(host) is type(net.get_submodule(at))
    assert isinstance(host, type(plain().get_submodule(at)))
    assert_same(other, expected(net, at))
    nl.remove(other)
    assert type(host) is type(plain().get_submodule(at))


def test_a_pickle_of_a_hook_without_the_generated_class():
    net = with_block("block")  # as version 0.2 pickled it
    net.block.__class__ = Residual
    other = pickle.loads(pickle.dumps(net))
    assert list(nl.blocks(other)) == ["block"]
    assert_same(other, expected(net, "block"))


def test_whole_network_through_torch_save(tmp_path):
    net = with_block("block.bn")
    torch.save(net, tmp_path / "net.pt")
    other = torch.load(tmp_path / "net.pt", weights_only=False)
    assert_same(other, expected(net, "block.bn"))


def test_parametrization_before_and_after_insertion():
    net = plain()
    parametrizations.weight_norm(net.block.conv)
    kind = type(net.block.conv)
    add_block(net, "block.conv")
    reference = expected(net, "block.conv")
    assert_same(net, reference)
    assert_same(copy.deepcopy(net), reference)
    nl.remove(net)
    assert type(net.block.conv).__mro__[1:] == kind.__mro__[1:]
    assert_same(net, plain()(images()))

    net = with_block("block.conv")
    parametrizations.weight_norm(net.block.conv)
    assert_same(net, reference)
    parametrize.remove_parametrizations(net.block.conv, "weight")
    assert list(nl.blocks(net)) == ["block.conv"]
    assert_same(net, reference)


def test_removal_while_parametrized():
    net = with_block("block.conv")
    parametrizations.weight_norm(net.block.conv)
    nl.remove(net)
    assert_same(net, plain()(images()))
    parametrize.remove_parametrizations(net.block.conv, "weight")
    assert type(net.block.conv) is nn.Conv2d


def test_pruned_host():
    net = with_block("block.conv")
    prune.l1_unstructured(net.block.conv, "weight", 0.5)
    other = plain()
    prune.l1_unstructured(other.block.conv, "weight", 0.5)
    prune.remove(other.block.conv, "weight")
    pruned = expected(add_block(other, "block.conv"), "block.conv")
    assert_same(net, pruned)
    assert_same(pickle.loads(pickle.dumps(net)), pruned)


class Registered(nn.Module):
    kinds: tuple[str, ...] = ()

    def __init_subclass__(cls, *, name, **_):
        Registered.kinds += (name,)


class Custom(Registered, name="custom"):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.conv(x)

    def __reduce__(self):
        return _make_custom, (self.conv,), self.__dict__


def _make_custom(conv):
    made = Custom()
    made.conv = conv
    return made


def test_a_host_with_a_registry_and_its_own_pickling():
    net = nn.Sequential(Custom())
    nl.insert(net, "0", images())
    nn.init.ones_(nl.blocks(net)["0"].norm.weight)
    assert Registered.kinds.count("custom") == 1
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(images()), net(images()))
        assert list(nl.blocks(other)) == ["0"]
        assert type(other[0]) is type(net[0])


def test_jit_script_says_what_works():
    for module in (with_block("block"), nl.NonLocal2d(8)):
        with pytest.raises(NotImplementedError, match=r"torch\.jit\.trace, torch\.export or torch\.compile"):
            torch.jit.script(module)


def test_inflated_host():
    package("torchvision")
    net = nl.inflate(plain())
    clip = torch.randn(1, 3, 2, 6, 6)
    nl.insert(net, "block", clip)
    nn.init.ones_(nl.blocks(net)["block"].norm.weight)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(clip), net(clip))
        assert list(nl.blocks(other)) == ["block"]


class WithSlots(Registered, name="slots"):
    __slots__ = ("factor",)

    def __init__(self):
        super().__init__()
        self.factor = 2
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.factor * self.conv(x)


def test_a_host_with_slots():
    net = nn.Sequential(WithSlots())
    without = net(images())
    nl.insert(net, "0", images())
    nn.init.ones_(nl.blocks(net)["0"].norm.weight)
    torch.testing.assert_close(net(images()), net[0].non_local(without))
    assert Registered.kinds.count("slots") == 1
    nl.remove(net)
    assert type(net[0]) is WithSlots
    assert torch.equal(net(images()), without)


@pytest.mark.parametrize("script", [torch.jit.script, lambda conv: torch.jit.trace(conv, torch.zeros(1, 8, 6, 6))])
def test_networks_with_torchscript_modules(script):
    net = plain()
    net.block.conv = script(net.block.conv)
    without = net(images())
    with pytest.raises(ValueError, match=r"'block\.conv' is a TorchScript module, which blocks cannot follow"):
        nl.insert(net, "block.*", images())
    assert [place.name for place in nl.plan(net, images(), at="block").places] == ["block"]
    add_block(net, "block")
    torch.testing.assert_close(net(images()), net.block.non_local(without))
