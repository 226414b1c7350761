"""Block files of networks whose weights another tool has changed or moved."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.utils.prune
from packages import package
from torch import nn
from wrapped_networks import Tiny, awake, lora_in_blocks, output, plain, with_blocks, x

import torch_nonlocal as nl


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


def test_tensors_of_torchao_are_saved_as_plain_ones(tmp_path):
    quantization = package("torchao.quantization")
    model = awake(nl.insert(plain(), "layer3.*", x(), pairwise="concatenation"))
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig(), lambda module, _: module.__class__ is nn.Linear)
    nl.save_blocks(model, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"its score\.weight is a Int8Tensor\. Load the blocks first"):
        nl.load_blocks(model, tmp_path / "b.pt")
    loaded = nl.blocks(nl.load_blocks(plain(), tmp_path / "b.pt"))
    for name, block in nl.blocks(model).items():
        torch.testing.assert_close(loaded[name].score.weight, block.score.weight.dequantize())


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
