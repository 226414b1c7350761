"""`nl.replace` on the real modules of other projects: outputs and gradients to 1e-5, the same keys and parameters."""

import copy
from typing import Any

import pytest
import torch
from packages import package
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import torch_nonlocal as nl


def randomized(model: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in model.parameters():
            spread = one[0].numel() ** -0.5 if one.ndim > 1 else 0.5
            one.copy_(torch.randn(one.shape, generator=draw) * spread)
    return model


def results(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    output = next(one for one in tree_leaves(model(x)) if isinstance(one, Tensor))
    output.mul(torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    assert x.grad is not None
    return {"output": output.detach(), "input": x.grad, **gradients}


def assert_replaced(model: nn.Module, x: Tensor, names: list[str], **options: Any) -> None:
    """Compare in float64. Values below a millionth of the largest one count as zero."""
    model, x = randomized(model).double(), x.double()
    expected = results(model, x)
    keys, parameters, kinds = list(model.state_dict()), list(model.parameters()), [type(one) for one in model.modules()]
    report = nl.replace(model, **options)
    assert report.replaced == names, str(report)
    actual = results(model, x)
    largest = max(float(one.abs().max()) for one in expected.values())
    for name, one in expected.items():
        assert float((actual[name] - one).abs().max() / one.abs().max().clamp(min=1e-6 * largest)) < 1e-5, name
    assert list(model.state_dict()) == keys
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    nl.restore(model)
    assert [type(one) for one in model.modules()] == kinds
    assert torch.equal(results(model, x)["output"], expected["output"])


def attention(**options: Any) -> Any:
    """An `Attention` as in diffusers' autoencoders."""
    module = package("diffusers.models.attention_processor")
    given = {"heads": 1, "dim_head": 8, "norm_num_groups": 4, "residual_connection": True, "bias": True}
    made = module.Attention(8, **(given | options))
    made.set_processor(module.AttnProcessor())
    return made


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rescale_output_factor": 1.7},
        {"residual_connection": False, "norm_num_groups": None},
        {"heads": 2, "dim_head": 4},
        {"scale_qk": False},
    ],
    ids=str,
)
def test_diffusers_attention_that_builds_the_map(options):
    for shape in ((2, 8, 5, 6), (2, 30, 8)):
        assert_replaced(nn.Sequential(attention(**options)), torch.randn(shape), ["0"])


def test_diffusers_attention_with_a_mask_or_other_keys_runs_its_own_code():
    module = randomized(attention()).eval()
    x, keys, mask = torch.randn(2, 30, 8), torch.randn(2, 12, 8), torch.zeros(2, 30, 30).tril()
    calls = ({"encoder_hidden_states": keys}, {"attention_mask": mask}, {})
    expected = [module(x, **call) for call in calls]
    nl.replace(module)
    for call, one in zip(calls, expected, strict=True):
        torch.testing.assert_close(module(x, **call), one)


def test_diffusers_fused_attention_is_left_unless_it_is_named():
    module = attention(upcast_softmax=True)
    module.set_processor(package("diffusers.models.attention_processor").AttnProcessor2_0())
    model = nn.Sequential(module)
    assert "builds no N x M map" in nl.replace(model).left["0"]
    assert_replaced(model, torch.randn(2, 8, 5, 6), ["0"], only="0")


def test_ltx2_audio():
    module = package("diffusers.models.autoencoders.autoencoder_kl_ltx2_audio")
    assert_replaced(module.LTX2AudioAttnBlock(32), torch.randn(2, 32, 5, 6), [""])
    assert_replaced(module.LTX2AudioAttnBlock(32, norm_type="pixel"), torch.randn(2, 32, 5, 6), [""])


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"use_combined_linear": True}, {"num_head_channels": 4}, {"include_fc": False}], ids=str
)
def test_monai(dims, options):
    made = package("monai.networks.blocks").SpatialAttentionBlock(dims, 8, norm_num_groups=4, **options)
    assert_replaced(made, torch.randn(2, 8, *(3, 4, 5)[-dims:]), [""])


def test_monai_with_flash_attention_is_left():
    blocks = package("monai.networks.blocks")
    made = blocks.SpatialAttentionBlock(2, 8, norm_num_groups=4, use_flash_attention=True)
    assert "builds no N x M map" in nl.replace(made).left[""]


def hunyuan_1() -> nn.Module:
    return package("diffusers").AutoencoderKLHunyuanVideo(
        block_out_channels=(8, 8, 8, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4
    )


def hunyuan_15() -> nn.Module:
    return package("diffusers").AutoencoderKLHunyuanVideo15(
        block_out_channels=(8, 8, 8, 8, 16), layers_per_block=1, latent_channels=4
    )


@pytest.mark.parametrize("make", [hunyuan_1, hunyuan_15])
def test_the_autoencoder_of_hunyuan_video_decodes_the_same(make):
    draw = torch.Generator().manual_seed(0)
    model: Any = make().eval()
    latent = torch.randn(1, 4, 3, 6, 4, generator=draw)
    with torch.no_grad():
        expected = model.decode(latent).sample
        report = nl.replace(model)
        inner = "" if make is hunyuan_1 else ".attentions.0"
        assert report.replaced == [f"encoder.mid_block{inner}", f"decoder.mid_block{inner}"]
        with nl.watch(model.decoder) as seen:
            actual = model.decode(latent).sample
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
        assert torch.equal(nl.restore(model).decode(latent).sample, expected)
    (record,) = seen.values()
    frames = record.rows([(1, 2, 3)])[0].flatten(1).sum(1)
    assert frames[2:].count_nonzero() == 0
    torch.testing.assert_close(frames[:2].sum(), torch.tensor(1.0))


@pytest.mark.parametrize("make", [hunyuan_1, hunyuan_15])
def test_the_autoencoder_of_hunyuan_video_trains_the_same(make):
    model: Any = make()
    decoder = copy.deepcopy(model.decoder)
    inner = "" if make is hunyuan_1 else ".attentions.0"
    assert_replaced(decoder, torch.randn(1, 4, 3, 4, 4), [f"mid_block{inner}"])
    if make is hunyuan_1:
        model.enable_gradient_checkpointing()
        assert_replaced(model.decoder.train(), torch.randn(1, 4, 3, 4, 4), ["mid_block"])
