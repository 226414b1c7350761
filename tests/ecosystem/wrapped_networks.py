"""A small network with blocks, and the wrappers of other tools around it and inside it."""

from collections.abc import Callable

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


def output(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(x())


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
