"""Networks in the wrappers of other tools: every function sees the network inside, under its own names."""

import copy
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from packages import package
from torch import nn

import torch_nonlocal as nl

PLACES = ["layer3.0", "layer3.1"]


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(2, channels)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


class Tiny(nn.Module):
    """A network with four stages of two residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        for stage in range(1, 5):
            setattr(self, f"layer{stage}", nn.Sequential(Residual(4), Residual(4)))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.layer2(self.layer1(self.stem(x)))
        return self.head(self.layer4(self.layer3(x)).mean((2, 3)))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return Tiny().eval()


def awake(model: nn.Module) -> nn.Module:
    """Give the blocks weights that change the output, the same ones for every wrapper."""
    torch.manual_seed(1)
    for block in nl.blocks(model).values():
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.5)
    return model


def with_blocks() -> nn.Module:
    return awake(nl.insert(plain(), "layer3.*", x(), norm="group"))


def x() -> torch.Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def group():
    """A process group of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def checkpointed(net: nn.Module) -> nn.Module:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    apply_activation_checkpointing(net, check_fn=lambda module: isinstance(module, Residual))
    return net


def offloading(net: nn.Module) -> nn.Module:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import offload_wrapper

    net.layer3 = offload_wrapper(net.layer3)
    return net


def data_parallel_inside(net: nn.Module) -> nn.Module:
    net.layer3[0] = nn.DataParallel(net.layer3[0])
    net.layer3 = torch.compile(net.layer3, backend="eager")
    return net


def averaged(net: nn.Module) -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(net)


def fsdp1(net: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    return FullyShardedDataParallel(net, auto_wrap_policy=ModuleWrapPolicy({Residual}), device_id=torch.device("cpu"))


def fsdp2(net: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    for residual in [*net.layer3, *net.layer4]:
        fully_shard(residual, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def lora(net: nn.Module, **options) -> nn.Module:
    peft = package("peft")
    return peft.get_peft_model(net, peft.LoraConfig(target_modules=["conv"], **options))


def lora_and_blocks(net: nn.Module) -> nn.Module:
    return lora(net, modules_to_save=["non_local"] if nl.blocks(net) else None)


def lora_and_stage(net: nn.Module) -> nn.Module:
    peft = package("peft")
    return peft.get_peft_model(net, peft.LoraConfig(target_modules=["stem"], modules_to_save=["layer3"]))


def lora_in_blocks(net: nn.Module) -> nn.Module:
    return package("peft").get_peft_model(net, package("peft").LoraConfig(target_modules=["conv", "theta", "out"]))


def opacus(net: nn.Module) -> nn.Module:
    package("opacus")
    from opacus import GradSampleModule

    return GradSampleModule(net)


def timm_ema(net: nn.Module) -> nn.Module:
    return package("timm").utils.ModelEmaV3(net)


def mmengine_ema(net: nn.Module) -> nn.Module:
    return package("mmengine.model").ExponentialMovingAverage(net)


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="eager")


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "none": lambda net: net,
    "DataParallel": nn.DataParallel,
    "DDP": nn.parallel.DistributedDataParallel,
    "compile": compiled,
    "AveragedModel": averaged,
    "checkpoint": checkpointed,
    "offload": offloading,
    "submodules": data_parallel_inside,
    "FSDP1": fsdp1,
    "FSDP2": fsdp2,
    "LoRA": lora,
    "LoRA, blocks saved": lora_and_blocks,
    "LoRA, stage saved": lora_and_stage,
    "LoRA in blocks": lora_in_blocks,
    "Opacus": opacus,
    "timm EMA": timm_ema,
    "mmengine EMA": mmengine_ema,
    "compiled DDP of checkpointed": lambda net: compiled(nn.parallel.DistributedDataParallel(checkpointed(net))),
    "AveragedModel of LoRA": lambda net: averaged(lora_and_blocks(net)),
}


@pytest.fixture(params=WRAPPERS)
def wrap(request, group) -> Callable[[nn.Module], nn.Module]:
    return lambda net: WRAPPERS[request.param](net).eval()


def output(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(x())


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


def test_files_hold_what_runs_with_the_active_adapter(tmp_path):
    model = lora_in_blocks(with_blocks()).eval()
    for name, parameter in model.named_parameters():
        if "non_local" in name and "lora_B" in name:
            nn.init.normal_(parameter)
    nl.save_blocks(model, tmp_path / "b.pt")
    torch.testing.assert_close(output(nl.load_blocks(plain(), tmp_path / "b.pt")), output(model))
    assert not torch.allclose(output(model), output(with_blocks()), atol=1e-2)
    with model.disable_adapter():
        nl.save_blocks(model, tmp_path / "base.pt")
    torch.testing.assert_close(output(nl.load_blocks(plain(), tmp_path / "base.pt")), output(with_blocks()))
    with pytest.raises(ValueError, match=r"its out is a peft\.tuners\.lora.*Load the blocks first"):
        nl.load_blocks(model, tmp_path / "b.pt")


def pruned(module):
    nn.utils.prune.l1_unstructured(module, "weight", 0.5)


def changed_weight_norm(module):
    nn.utils.weight_norm(module)
    module.weight_g.data *= 3  # as an optimizer step does: `weight` is stale until the next forward


CHANGES = {
    "prune": pruned,
    "weight norm": nn.utils.parametrizations.weight_norm,
    "weight norm by hook": changed_weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "spectral norm by hook": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("child", ["theta", "out"])
def test_files_hold_the_weights_that_a_changed_layer_computes_with(change, child, tmp_path):
    model = with_blocks()
    for block in nl.blocks(model).values():
        CHANGES[change](getattr(block.train(), child))
    model.eval()
    nl.save_blocks(model, tmp_path / "b.pt")
    torch.testing.assert_close(output(nl.load_blocks(plain(), tmp_path / "b.pt")), output(model))
    with pytest.raises(ValueError, match=rf"b\.pt: the block for 'layer3\.0' cannot be loaded: its {child} is "):
        nl.load_blocks(model, tmp_path / "b.pt")


def test_quantized_layers_are_not_saved(tmp_path):
    model = nl.insert(plain(), "layer3.*", x(), pairwise="concatenation")
    model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    with pytest.raises(ValueError, match=r"block at 'layer3\.0' cannot be saved: its score is a torch\.ao"):
        nl.save_blocks(model, tmp_path / "b.pt")


def on_meta(net: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return net()


@pytest.mark.parametrize("make", [lambda: Tiny(), lambda: nl.insert(Tiny(), "layer3.*", x(), norm="group")])
def test_networks_on_the_meta_device_are_refused(make, tmp_path):
    nl.save_blocks(with_blocks(), tmp_path / "b.pt")
    model = on_meta(make).eval()
    before = list(nl.blocks(model))
    with pytest.raises(ValueError, match=r"cannot be loaded: .* on the meta device"):
        nl.load_blocks(model, tmp_path / "b.pt")
    assert list(nl.blocks(model)) == before
    if before:
        with pytest.raises(ValueError, match="on the meta device and has no values"):
            nl.save_blocks(model, tmp_path / "meta.pt")
    else:
        model.load_state_dict(plain().state_dict(), assign=True)
        torch.testing.assert_close(output(nl.load_blocks(model, tmp_path / "b.pt")), output(with_blocks()))


def test_offloaded_networks(tmp_path):
    accelerate = package("accelerate")
    model = accelerate.cpu_offload(with_blocks(), execution_device=torch.device("cpu"))
    assert nl.blocks(model)["layer3.0"].theta.weight.is_meta
    nl.save_blocks(model, tmp_path / "b.pt")
    torch.testing.assert_close(output(nl.load_blocks(plain(), tmp_path / "b.pt")), output(with_blocks()))
    with pytest.raises(ValueError, match="before accelerate offloads the network"):
        nl.load_blocks(model, tmp_path / "b.pt")
    empty = accelerate.cpu_offload(plain(), execution_device=torch.device("cpu"))
    torch.testing.assert_close(output(nl.load_blocks(empty, tmp_path / "b.pt")), output(with_blocks()))


def test_blocks_inserted_into_offloaded_networks_run():
    accelerate = package("accelerate")
    model = accelerate.cpu_offload(plain(), execution_device=torch.device("cpu"))
    nl.insert(model, "layer3.0.conv", norm="group")
    torch.testing.assert_close(output(model), output(plain()))
