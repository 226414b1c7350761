"""The attention of autoencoders: latent diffusion, HunyuanVideo, MONAI."""

import pytest
import torch
from agreement import assert_replaced_exactly, randomized
from layouts.autoencoders import AttnBlock, HunyuanVideo15AttnBlock, LTX2AudioAttnBlock, SpatialAttentionBlock
from torch import Tensor, nn

import torch_nonlocal as nl

SIZES = {1: (12,), 2: (5, 6), 3: (3, 4, 5)}


@pytest.mark.parametrize("product", ["bmm", "einsum", "matmul", "unturned"])
@pytest.mark.parametrize("options", [{}, {"scaled": False}, {"axis": 1}, {"norm": None}, {"norm": "gn"}], ids=str)
def test_attention_of_latent_diffusion_and_of_its_copies(product, options):
    assert_replaced_exactly(randomized(AttnBlock(8, product=product, **options)), torch.randn(2, 8, 5, 6))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_attention_of_latent_diffusion_in_every_dimension(dims):
    assert_replaced_exactly(randomized(LTX2AudioAttnBlock(8, dims)), torch.randn(2, 8, *SIZES[dims]))


class OfFlux(AttnBlock):
    """A copy that calls the fused attention."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.get_submodule("norm")(x)
        q, k, v = (self.get_submodule(one)(h).flatten(2).mT[:, None].contiguous() for one in ("q", "k", "v"))
        y = nn.functional.scaled_dot_product_attention(q, k, v)[:, 0].mT
        return x + self.get_submodule("proj_out")(y.reshape(x.shape))


def test_a_module_without_a_map_is_left_unless_it_is_named():
    model = nn.Sequential(nn.Identity(), OfFlux(8))
    assert nl.replace(model).left == {
        "1": "its own code builds no N x M map; name it in only= to replace it all the same"
    }
    assert nl.replace(model, only="1").replaced == ["1"]


def test_hunyuan_is_causal_over_frames():
    block = randomized(HunyuanVideo15AttnBlock(8))
    assert_replaced_exactly(block, torch.randn(2, 8, 4, 3, 5))
    (place,) = nl.replace(block.eval(), dry_run=True, example_input=torch.empty(1, 8, 16, 20, 20)).found
    assert place.computed.causal == "frames"
    assert place.predicted is not None
    assert place.predicted.queries == 6400
    assert place.predicted.memory_before - place.predicted.memory_after > place.predicted.map_bytes


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"combined": True}, {"head_channels": 4}, {"fc": False}], ids=str)
def test_monai(dims, options):
    block = randomized(SpatialAttentionBlock(dims, 8, **options))
    assert_replaced_exactly(block, torch.randn(2, 8, *SIZES[dims]))


def test_monai_with_flash_attention_is_left():
    block = SpatialAttentionBlock(2, 8, flash=True)
    assert "builds no N x M map" in nl.replace(block).left[""]


def test_heads_are_items_of_the_batch_of_a_record():
    block = randomized(SpatialAttentionBlock(2, 8, head_channels=4)).eval()
    nl.replace(block)
    x = torch.randn(2, 8, 5, 6)
    with nl.watch(block) as seen:
        block(x)
    q, k = (getattr(block.attn, name)(block.norm(x).flatten(2).mT)[1, :, 4:] for name in ("to_q", "to_k"))
    expected = torch.softmax(q @ k.T / 2, dim=-1)[2 * 6 + 3]
    torch.testing.assert_close(seen[""].rows([(2, 3)], batch=1 * 2 + 1)[0].flatten(), expected)
    assert "4 x (N = 30 queries, M = 30 keys, D = 4)" in nl.explain(block, (2, 8, 5, 6))
