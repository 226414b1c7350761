"""Networks in the wrappers of other tools: every function sees the network inside, under its own names."""

import copy
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from packages import package
from torch import nn
from wrapped_networks import PLACES, WRAPPERS, awake, checkpointed, output, plain, with_blocks, x

import torch_nonlocal as nl


@pytest.fixture(scope="module")
def group():
    """A process group of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(params=WRAPPERS)
def wrap(request, group) -> Callable[[nn.Module], nn.Module]:
    return lambda net: WRAPPERS[request.param](net).eval()


def test_insert(wrap):
    model = wrap(plain())
    assert nl.insert(model, "layer3.*", x(), norm="group") is model
    assert list(nl.blocks(model)) == PLACES
    torch.testing.assert_close(output(awake(model)), output(with_blocks()))


@pytest.mark.parametrize("name", ["DataParallel", "DDP", "compile", "checkpoint", "submodules", "Opacus"])
def test_gradients(name, group):
    model, expected = nl.insert(WRAPPERS[name](plain()), "layer3.*", x(), norm="group"), with_blocks()
    for one in (awake(model), expected):
        one.train()(x()).square().sum().backward()
    for place, block in nl.blocks(expected).items():
        torch.testing.assert_close(nl.blocks(model)[place].theta.weight.grad, block.theta.weight.grad)


def test_presets(wrap):
    model = nl.insert(wrap(plain()), "paper-5", x(), norm="group")
    assert list(nl.blocks(model)) == ["layer2.0", "layer2.1", *PLACES]


def test_blocks_and_remove(wrap):
    model = wrap(with_blocks())
    assert list(nl.blocks(model)) == PLACES
    torch.testing.assert_close(output(model), output(with_blocks()))
    with pytest.raises(ValueError, match=r"no block at 'layer4\.0', 'layer4\.1'; blocks: layer3\.0, layer3\.1"):
        nl.remove(model, "layer4.*")
    nl.remove(model, "layer3.0")
    assert list(nl.blocks(model)) == PLACES[1:]
    torch.testing.assert_close(output(model), output(nl.remove(with_blocks(), "layer3.0")))
    nl.remove(model)
    torch.testing.assert_close(output(model), output(plain()))
    assert not any("non_local" in name for name, _ in model.named_modules())


def test_block_files(wrap, tmp_path):
    model = wrap(with_blocks())
    nl.save_blocks(model, tmp_path / "wrapped.pt")
    loaded = nl.load_blocks(plain(), tmp_path / "wrapped.pt")
    torch.testing.assert_close(output(loaded), output(with_blocks()))
    empty = nl.load_blocks(wrap(plain()), tmp_path / "wrapped.pt")
    assert list(nl.blocks(empty)) == PLACES
    torch.testing.assert_close(output(empty), output(with_blocks()))


def test_watch(wrap):
    model, expected = wrap(with_blocks()), with_blocks()
    with nl.watch(model) as seen, nl.watch(expected) as right:
        torch.testing.assert_close(output(model), output(expected))
    assert list(seen) == PLACES
    for name in PLACES:
        torch.testing.assert_close(seen[name].rows([(2, 3)]), right[name].rows([(2, 3)]))


def test_plan(wrap):
    places = nl.plan(wrap(plain()), x(), at="layer3.*").places
    assert [place.name for place in places if place.chosen] == PLACES
    assert all("Residual" in place.kind for place in places)


@pytest.mark.parametrize("name", [name for name in WRAPPERS if "FSDP" not in name])  # FSDP has no deepcopy
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(name, copied, group):
    model = copied(WRAPPERS[name](with_blocks()).eval())
    assert list(nl.blocks(model)) == PLACES
    torch.testing.assert_close(output(model), output(with_blocks()))


def test_blocks_inserted_after_wrapping_for_several_processes_are_warned_of(group, monkeypatch, tmp_path):
    nl.save_blocks(with_blocks(), tmp_path / "b.pt")
    model = nn.parallel.DistributedDataParallel(plain())
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
    with pytest.warns(UserWarning, match="DistributedDataParallel does not exchange the gradients"):
        nl.insert(model, "layer4.0.conv")
    with pytest.warns(UserWarning, match="DistributedDataParallel does not exchange the gradients"):
        nl.load_blocks(nl.remove(model), tmp_path / "b.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nl.load_blocks(model, tmp_path / "b.pt")
        nl.insert(plain(), "layer4.0.conv")


def test_inflation_chooses_convolutions_inside_wrappers():
    model = nl.inflate(checkpointed(plain()), at="layer3.*.conv")
    kernels = [module.weight.shape[2] for module in model.modules() if isinstance(module, nn.Conv3d)]
    assert sorted(kernels) == [1] * 7 + [3] * 2


def test_lightning_modules_keep_their_own_names(tmp_path):
    lightning = package("lightning")

    class Task(lightning.LightningModule):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x)

    task = Task(with_blocks()).eval()
    assert list(nl.blocks(task)) == [f"model.{name}" for name in PLACES]
    nl.save_blocks(task, tmp_path / "task.pt")
    torch.testing.assert_close(output(nl.load_blocks(plain(), tmp_path / "task.pt")), output(with_blocks()))
    nl.save_blocks(with_blocks(), tmp_path / "plain.pt")
    torch.testing.assert_close(output(nl.load_blocks(Task(plain()).eval(), tmp_path / "plain.pt")), output(task))


def test_fabric_modules_are_wrappers():
    lightning = package("lightning")
    model = lightning.Fabric(accelerator="cpu", devices=1).setup(with_blocks())
    assert list(nl.blocks(model)) == PLACES
    assert not nl.blocks(nl.remove(model))


@pytest.mark.parametrize("saved", [["non_local"], ["layer3"]])
def test_the_copy_of_the_active_adapter_is_used(saved):
    peft = package("peft")
    model = peft.get_peft_model(with_blocks(), peft.LoraConfig(target_modules=["stem"], modules_to_save=saved))
    original, trained = {}, nl.blocks(model)
    with model.disable_adapter():
        original = nl.blocks(model)
    for name in PLACES:
        assert original[name] is not trained[name]
        assert trained[name].theta.weight.requires_grad
        assert not original[name].theta.weight.requires_grad
    nl.remove(model)
    with model.disable_adapter():
        assert not nl.blocks(model)
        torch.testing.assert_close(output(model), output(plain()))
