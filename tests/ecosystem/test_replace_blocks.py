"""`nl.replace` on the non-local blocks of mmcv, timm and pytorchvideo, and in networks inside wrappers."""

import sys
from pathlib import Path

import pytest
import torch
from packages import package
from torch import nn
from wrapped_networks import WRAPPERS, Residual

import torch_nonlocal as nl

sys.path.insert(0, str(Path(__file__).parents[1] / "replacing"))
from agreement import assert_replaced_exactly, randomized
from layouts.alexhex7 import NONLocalBlock2D

MODES = ("embedded_gaussian", "gaussian", "dot_product")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"sub_sample": True, "use_scale": False, "norm_cfg": {"type": "BN"}}])
def test_mmcv(mode, options):
    bricks = package("mmcv.cnn")
    if "norm_cfg" not in options:
        assert_replaced_exactly(randomized(bricks.NonLocal1d(8, mode=mode)), torch.randn(2, 8, 12))
    assert_replaced_exactly(randomized(bricks.NonLocal2d(8, mode=mode, **options)), torch.randn(2, 8, 6, 7))
    clips = {**options, "norm_cfg": {"type": "BN3d"}} if "norm_cfg" in options else options
    assert_replaced_exactly(randomized(bricks.NonLocal3d(8, mode=mode, **clips)), torch.randn(2, 8, 3, 4, 6))


def test_the_concatenation_form_of_mmcv_which_has_no_gradient_before():
    block, x = randomized(package("mmcv.cnn").NonLocal2d(8, mode="concatenation")), torch.randn(2, 8, 6, 7)
    with torch.no_grad():
        expected = block(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        block(x).sum().backward()
    assert nl.replace(block).replaced == [""]
    torch.testing.assert_close(block(x).detach(), expected)
    block(x).sum().backward()
    assert block.concat_project.conv.weight.grad.any()


@pytest.mark.parametrize("use_scale", [True, False])
def test_timm(use_scale):
    layers = package("timm.layers")
    block = layers.NonLocalAttn(16, use_scale=use_scale)
    assert_replaced_exactly(randomized(block), torch.randn(2, 16, 6, 7))


def test_blocks_in_a_network_of_timm():
    network = package("timm").create_model("resnet10t", num_classes=3, block_args={"attn_layer": "nl"})
    places = [name for name, module in network.named_modules() if type(module).__name__ == "NonLocalAttn"]
    assert len(places) == 4
    assert_replaced_exactly(randomized(network), torch.randn(2, 3, 32, 32), places, tolerance=1e-6)


def test_the_bilinear_attention_of_timm_is_left():
    block = package("timm.layers").BatNonLocalAttn(16, block_size=3)
    assert "no N x M map" in nl.replace(nn.Sequential(block)).left["0"]


@pytest.mark.parametrize("instantiation", ["softmax", "dot_product"])
def test_pytorchvideo(instantiation):
    layers = package("pytorchvideo.layers.nonlocal_net")
    for options in ({}, {"pool_size": (1, 2, 2)}, {"norm": None}):
        block = layers.create_nonlocal(dim_in=8, dim_inner=4, instantiation=instantiation, **options)
        assert_replaced_exactly(randomized(block), torch.randn(2, 8, 3, 4, 6))


class Network(nn.Module):
    """A block behind a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer3 = nn.Sequential(Residual(8), NONLocalBlock2D(8, "embedded_gaussian", bn_layer=False))
        self.layer4 = nn.Sequential(Residual(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer4(self.layer3(torch.relu(self.stem(x))))


@pytest.fixture(scope="module")
def group():
    """A process group of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def lora_in_the_block(net: nn.Module) -> nn.Module:
    peft = package("peft")
    places = ["layer3.1.theta", "layer3.1.phi.0", "layer3.1.W"]
    return peft.get_peft_model(net, peft.LoraConfig(target_modules=places, init_lora_weights=False))


@pytest.mark.parametrize("name", ["DDP", "checkpoint", "FSDP2", "LoRA in the block", "Opacus", "AveragedModel"])
def test_a_block_inside_wrappers_is_replaced(name, group):
    wrap = lora_in_the_block if name == "LoRA in the block" else WRAPPERS[name]
    model = wrap(randomized(Network())).eval()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        expected = model(x)
        assert nl.replace(model).replaced == ["layer3.1"]
        torch.testing.assert_close(model(x), expected)
        nl.restore(model)
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize(("name", "reason"), [("compile", "replace first, then compile"), ("FSDP1", "then wrap")])
def test_a_block_that_a_wrapper_has_changed_is_left(name, reason, group):
    model = WRAPPERS[name](randomized(Network())).eval()
    report = nl.replace(model)
    assert report.replaced == []
    assert reason in report.left["layer3.1"]
