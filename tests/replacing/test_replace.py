"""`nl.replace` and `nl.restore`: what is found, what is left and why, and what stays as it was."""

import copy
import pickle
from typing import Any, ClassVar

import pytest
import torch
from agreement import randomized
from layouts.alexhex7 import NONLocalBlock2D
from torch import Tensor, nn

import torch_nonlocal as nl


class Network(nn.Module):
    """Two blocks of different forms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = NONLocalBlock2D(8, "embedded_gaussian")
        self.second = NONLocalBlock2D(8, "dot_product")

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.stem(x)))


class OtherSum(NONLocalBlock2D):
    """A copy with the same names that computes something else."""

    def forward(self, x: Tensor, return_nl_map: bool = False) -> Tensor:
        return 2 * super().forward(x)  # pyright: ignore[reportOperatorIssue]


@pytest.fixture
def network() -> nn.Module:
    return randomized(Network()).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 6, 8)


def test_the_report_names_form_and_project_and_restore_is_exact(network, x):
    expected = network(x)
    report = nl.replace(network)
    assert report.replaced == ["first", "second"]
    assert report.left == {}
    assert "second  dot product        alexhex7" in str(report)
    torch.testing.assert_close(network(x), expected)
    assert torch.equal(nl.restore(network)(x), expected)


def test_a_dry_run_changes_nothing(network):
    report = nl.replace(network, dry_run=True)
    assert report.replaced == ["first", "second"]
    assert "would be replaced" in str(report)
    assert type(network.first) is NONLocalBlock2D


def test_only_selects_places_and_families(network):
    assert nl.replace(network, only="first").replaced == ["first"]
    assert nl.replace(network, only=["second", "stem"]).left == {"stem": "Conv2d is no class of a known family"}
    nl.restore(network)
    assert nl.replace(network, only="alexhex7.dot_product").replaced == ["second"]
    with pytest.raises(ValueError, match="frist"):
        nl.replace(network, only="frist")


class Decoder(nn.Module):
    """Blocks in containers, beside another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([NONLocalBlock2D(8, "gaussian"), nn.Conv2d(8, 8, 1)])
        self.last = nn.Sequential(NONLocalBlock2D(8, "dot_product"), nn.ReLU())


SELECTIONS: dict[Any, list[str]] = {
    "**": ["decoder.blocks.0", "decoder.last.0", "other"],
    "decoder.**": ["decoder.blocks.0", "decoder.last.0"],
    "decoder.blocks": ["decoder.blocks.0"],
    "decoder.last": ["decoder.last.0"],
    ("alexhex7.gaussian", "other"): ["decoder.blocks.0", "other"],
}


@pytest.mark.parametrize("only", SELECTIONS)
def test_globs_and_containers_select_the_blocks_inside(only):
    model = nn.ModuleDict({"decoder": Decoder(), "other": NONLocalBlock2D(8, "embedded_gaussian")})
    report = nl.replace(model, only=only)
    assert report.replaced == SELECTIONS[only]
    assert all("blocks.1" not in name and "last.1" not in name for name in report.left)  # other layers are no news


def test_wrong_selections(network):
    with pytest.raises(TypeError, match="only: expected names, globs, modules or names of families, got int"):
        nl.replace(network, only=5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="only is empty"):
        nl.replace(network, only=[])
    with pytest.raises(ValueError, match="none of the modules that only= selects is an attention module of a known"):
        nl.replace(nn.Sequential(nn.Sequential(nn.ReLU()), network), only="0")


def test_restore_keeps_the_weights_as_they_are_now(network, x):
    nl.replace(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(x).square().mean().backward()
    optimizer.step()
    trained = network(x)
    torch.testing.assert_close(nl.restore(network)(x), trained)


def test_hooks_mode_and_requires_grad_stay(network, x):
    calls: list[str] = []
    network.first.register_forward_hook(lambda *_: calls.append("block"))
    network.first.theta.register_forward_hook(lambda *_: calls.append("theta"))
    network.second.requires_grad_(False).train()
    nl.replace(network)
    network(x)
    assert calls == ["theta", "block"]
    assert network.second.training
    assert not network.first.training
    assert not any(one.requires_grad for one in network.second.parameters())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_are_replaced_too(network, x, copied):
    nl.replace(network)
    nl.insert(network, at="first", example_input=x)  # the place is a host of a block as well
    again = copied(network)
    torch.testing.assert_close(again(x), network(x))
    assert nl.replace(again).left.keys() == {"first", "second"}
    assert type(nl.restore(again).second) is NONLocalBlock2D
    assert list(nl.blocks(again)) == ["first"]


def test_watch_and_explain_work_on_replaced_modules(network, x):
    expected = network.first(network.stem(x), return_nl_map=True)[1]
    nl.replace(network)
    with nl.watch(network) as seen:
        network(x)
    assert list(seen) == ["first", "second"]
    torch.testing.assert_close(seen["first"].rows([(2, 3)], batch=1)[0].flatten(), expected[1, 2 * 8 + 3])
    assert "N = 48 queries, M = 12 keys, D = 4" in nl.explain(network.first, (1, 8, 6, 8))
    with pytest.raises(ValueError, match="8 channels"):
        nl.explain(network.first, (1, 4, 6, 8))
    with pytest.raises(TypeError, match="Conv2d"):
        nl.explain(network.stem, (1, 3, 6, 8))


def test_a_module_that_computes_something_else_is_left_with_the_difference(x):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), OtherSum(8, "gaussian"))
    report = nl.replace(model)
    assert report.replaced == []
    assert "differs by" in report.left["1"]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_buffers_that_only_its_own_code_uses_are_seen_at_their_neutral_values(value):
    class NONLocalBlock2D(OtherSum):
        def __init__(self) -> None:
            super().__init__(8, "gaussian")
            self.register_buffer("learned", torch.tensor(value))

        def forward(self, x: Tensor, return_nl_map: bool = False) -> Tensor:
            y = super().forward(x) / 2
            return y * self.learned if value else y + self.learned

    assert "differs by" in nl.replace(NONLocalBlock2D()).left[""]


def test_a_class_that_refuses_subclasses_is_left_and_the_model_unchanged(network, x):
    class Registry(type):
        known: ClassVar[set[str]] = set()

        def __new__(cls, name: str, *args: Any) -> Any:
            if name in cls.known:
                raise TypeError(f"{name} is registered twice")
            cls.known.add(name)
            return super().__new__(cls, name, *args)

    class OnlyOne(NONLocalBlock2D, metaclass=Registry):
        pass

    network.second = OnlyOne(8, "gaussian").eval()
    report = nl.replace(network)
    assert report.replaced == ["first"]
    assert report.left == {"second": "its class cannot be extended: OnlyOne is registered twice"}
    network(x)


def test_modules_that_cannot_be_replaced_are_left_with_a_reason():
    def block() -> NONLocalBlock2D:
        return NONLocalBlock2D(8, "embedded_gaussian")

    shared, compiled, patched, scripted = block(), block(), block(), block()
    compiled.compile(backend="eager")
    patched.forward = lambda x: x  # pyright: ignore[reportAttributeAccessIssue]
    quantized = block()
    quantized.theta.weight = nn.Parameter(quantized.theta.weight.mul(50).to(torch.int8), requires_grad=False)
    model = nn.ModuleDict({"a": shared, "b": shared, "compiled": compiled, "patched": patched})
    model["wrapped"] = torch.compile(block(), backend="eager")  # pyright: ignore[reportArgumentType]
    model["traced"] = torch.jit.trace(scripted.eval(), torch.randn(1, 8, 4, 4))
    model["quantized"] = quantized
    left = nl.replace(model).left
    assert "a, b are one module" in left["a"]
    assert "torch.compile" in left["compiled"]
    assert "torch.compile" in left["wrapped"]
    assert "replaced on the instance" in left["patched"]
    assert "TorchScript" in left["traced"]
    assert "quantized: theta.weight is torch.int8" in left["quantized"]


def test_a_model_without_such_modules_names_what_was_looked_for():
    with pytest.raises(ValueError, match=r"Conv2d has no attention module.*NONLocalBlock3D.*AlexHex7"):
        nl.replace(nn.Conv2d(3, 4, 1))


def test_compiled_code_notices_the_replacement(network, x):
    compiled = torch.compile(network, backend="eager")
    expected = compiled(x)
    nl.replace(network)
    with nl.watch(network) as seen:
        torch.testing.assert_close(compiled(x), expected)
    assert len(seen) == 2


def test_memory_of_a_probe_is_bounded_by_the_maps_of_modules_that_are_left():
    block = NONLocalBlock2D(8, "embedded_gaussian", sub_sample=False)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), block, nn.Conv2d(8, 8, 1))
    nl.insert(model, at="2", example_input=torch.randn(1, 3, 8, 8))
    with nl.watch(model) as seen:
        model(torch.randn(1, 3, 8, 8))
    assert not seen["2"].geometry.probed
