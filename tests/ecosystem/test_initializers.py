"""A network that initializes its modules again: a new block stays the identity, and no weight stays without a value."""

import copy
import functools
import pickle

import pytest
import torch
from packages import package
from torch import nn

import torch_nonlocal as nl

NORMS = ["batch", "group", "layer", None]
KINDS = [nl.NonLocal1d, nl.NonLocal2d, nl.NonLocal3d]


def awake(block):
    torch.manual_seed(3)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block


def is_identity(block, channels=8):
    x = torch.randn(2, channels, *(3,) * block.dims)
    return torch.equal(block.eval()(x), x)


def pickled(block):
    return pickle.loads(pickle.dumps(block))


def reset_all(model):
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "through", [lambda block: block, copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block))]
)
def test_reset_parameters_of_every_module(kind, norm, through):
    original = awake(kind(8, norm=norm, pairwise="concatenation"))
    block = through(original)
    before = {name: parameter.clone() for name, parameter in block.named_parameters()}
    reset_all(block)
    assert is_identity(block)
    assert all(not torch.equal(parameter, before[name]) for name, parameter in block.named_parameters())
    if block is not original:
        assert not is_identity(original)


@pytest.mark.parametrize("norm", NORMS)
def test_reset_parameters_of_the_block_alone(norm):
    block = awake(nl.NonLocal2d(8, norm=norm))
    block(torch.randn(2, 8, 3, 3))
    block.reset_parameters()
    assert is_identity(block)
    if norm == "batch":
        assert block.norm.num_batches_tracked == 0
        assert torch.equal(block.norm.running_var, torch.ones(8))
    nn.init.ones_(block.out.bias if norm is None else block.norm.bias)
    assert not is_identity(block)


@pytest.mark.parametrize("norm", NORMS)
def test_a_block_built_on_meta_gets_values_module_by_module(norm):
    """As fully sharded training does: to_empty and reset_parameters of each module that has parameters."""
    model = nn.Sequential(nl.NonLocal2d(8, norm=norm, device="meta"))
    model.to_empty(device="cpu")
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.reset_parameters()
    assert is_identity(model[0])


def test_norms_keep_the_classes_by_which_other_tools_find_them():
    classes = [type(nl.NonLocal2d(8, norm=norm).norm) for norm in ("batch", "group")]
    assert classes == [nn.BatchNorm2d, nn.GroupNorm]
    assert isinstance(nl.NonLocal2d(8, norm="layer").norm, nn.LayerNorm)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(nl.NonLocal2d(8))
    assert type(converted.norm) is nn.SyncBatchNorm
    assert is_identity(converted)
    reset_all(awake(converted))
    assert is_identity(converted)


def init_weights(module, std=0.1):
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=std)
        nn.init.ones_(module.bias)
    if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def init_linear(module):
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.weight)


def to_ones(module):
    for parameter in module.parameters(recurse=False):
        nn.init.ones_(parameter)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("initializer", [init_weights, functools.partial(init_weights, std=0.2)])
def test_an_initializer_applied_to_a_network(norm, initializer):
    model = nn.Sequential(nn.Conv2d(3, 8, 1))
    nl.insert(model, "0", norm=norm)
    block = nl.blocks(model)["0"]
    assert model.apply(initializer) is model
    assert is_identity(block)
    assert torch.equal(block.theta.bias, torch.ones(4))


@pytest.mark.parametrize("function", [init_linear, to_ones, lambda module: module.requires_grad_(False)])
def test_other_functions_leave_the_last_module_alone(function):
    block = awake(nl.NonLocal2d(8))
    expected = copy.deepcopy(block)
    for module in expected.modules():
        function(module)
    block.apply(function)
    for one, other in zip(block.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not is_identity(block)


# transformers


def hosts():
    """A network of transformers with two blocks, and one whose initializer knows linear layers only."""
    transformers = package("transformers")

    class Config(transformers.PretrainedConfig):
        model_type = "tiny"

        def __init__(self, norm="batch", **kwargs):
            self.norm = norm
            super().__init__(**kwargs)

    class Plain(transformers.PreTrainedModel):
        config_class = Config

        def __init__(self, config):
            super().__init__(config)
            self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)
            self.add_blocks()
            self.post_init()

        def add_blocks(self):
            pass

        def forward(self, x):
            return self.head(self.stem(x).mean((2, 3)))

    class WithBlocks(Plain):
        def add_blocks(self):
            self.block = nl.NonLocal2d(8, norm=self.config.norm, pairwise="concatenation")
            nl.insert(self, "stem", norm=self.config.norm)

        def forward(self, x):
            return self.head(self.block(self.stem(x)).mean((2, 3)))

    class LinearOnly(WithBlocks):
        def _init_weights(self, module):
            if isinstance(module, nn.Linear):
                module.weight.data.normal_()

    return Config, Plain, WithBlocks, LinearOnly


def both(model):
    return [model.block, model.stem.non_local]


@pytest.mark.parametrize("norm", NORMS)
def test_transformers_initializes_a_new_network(norm):
    config, _, with_blocks, _ = hosts()
    model = with_blocks(config(norm))
    assert all(map(is_identity, both(model)))
    model.init_weights()
    model.apply(model._init_weights)
    assert all(map(is_identity, both(model)))


@pytest.mark.parametrize("norm", NORMS)
def test_transformers_initializes_blocks_inserted_later(norm):
    config, plain, _, _ = hosts()
    model = plain(config())
    nl.insert(model, "stem", norm=norm)
    model.init_weights()
    assert is_identity(model.stem.non_local)
    model.apply(model._init_weights)
    assert is_identity(model.stem.non_local)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("host", [2, 3], ids=["usual", "linear layers only"])
def test_from_pretrained_without_blocks_in_the_checkpoint(norm, host, tmp_path):
    config, plain, *_ = kinds = hosts()
    saved = plain(config(norm)).eval()
    saved.save_pretrained(tmp_path)
    for _ in range(3):  # memory that was never written often holds zeros at first
        model = kinds[host].from_pretrained(tmp_path).eval()
        for block in both(model):
            assert is_identity(block)
            for name, parameter in block.named_parameters():
                assert not parameter.is_meta
                assert parameter.isfinite().all()
                if name.startswith(("theta.w", "phi.w", "g.w", "score.w")):
                    bound = parameter[0].numel() ** -0.5  # of PyTorch's own initialization
                    assert 0.2 * bound < parameter.std() < bound, name
        x = torch.randn(2, 3, 6, 6)
        torch.testing.assert_close(model(x), saved(x))


@pytest.mark.parametrize("norm", NORMS)
def test_from_pretrained_keeps_trained_blocks(norm, tmp_path):
    config, _, with_blocks, _ = hosts()
    trained = with_blocks(config(norm)).eval()
    for block in both(trained):
        awake(block)
    trained.save_pretrained(tmp_path)
    model = with_blocks.from_pretrained(tmp_path).eval()
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(model(x), trained(x))
    model.init_weights()
    torch.testing.assert_close(model(x), trained(x))


@pytest.mark.parametrize("norm", NORMS)
def test_marking_trained_blocks_as_initialized_keeps_them(norm):
    config, _, with_blocks, _ = hosts()
    model = with_blocks(config(norm)).eval()
    for block in both(model):
        awake(block)
    x = torch.randn(2, 3, 6, 6)
    out = model(x)
    model.apply(lambda module: setattr(module, "_is_hf_initialized", True))
    model.init_weights()
    torch.testing.assert_close(model(x), out)
