"""`nl.watch`, `nl.explain` and the predicted cost, for a module of each kind of family."""

import math

import pytest
import torch
from agreement import randomized
from layouts.autoencoders import AttnBlock, HunyuanVideo15AttnBlock, SpatialAttentionBlock
from layouts.gan import Attention, NonLocalBlock, NonLocalBlock2D, PAM_Module, Self_Attn

import torch_nonlocal as nl

CASES = {
    "ldm": (lambda: AttnBlock(8), (80, 80), None),
    "hunyuan15": (lambda: HunyuanVideo15AttnBlock(8), (16, 20, 20), None),
    "monai": (lambda: SpatialAttentionBlock(3, 8), (16, 20, 20), None),
    "sagan": (lambda: Self_Attn(8), (80, 80), None),
    "danet": (lambda: PAM_Module(8), (80, 80), None),
    "biggan": (lambda: Attention(8), (80, 80), (40, 40)),
    "rnan": (lambda: NonLocalBlock2D(8, 4), (80, 80), None),
    "pfnl": (lambda: NonLocalBlock(8, 4, 2), (80, 80), (40, 40)),
}


@pytest.mark.parametrize("name", CASES)
def test_watch_explain_and_cost(name):
    make, size, pooled = CASES[name]
    block = randomized(make()).eval()
    (place,) = nl.replace(block, example_input=torch.empty(1, 8, *size)).found
    keys = math.prod(pooled or size)
    assert place.predicted is not None
    assert (place.predicted.queries, place.predicted.keys) == (6400, keys)
    assert place.predicted.memory_before - place.predicted.memory_after > 0.8 * place.predicted.map_bytes
    assert f"N = 6,400 queries, M = {keys:,} keys" in nl.explain(block, (1, 8, *size))

    small = tuple(min(one, 6) for one in size)
    with nl.watch(block) as seen:
        block(torch.randn(2, 8, *small))
    record = seen[""]
    whole = record.rows([(1,) * len(small)], batch=1)[0]
    if place.computed.normalize == "queries":
        whole = record.column((1,) * len(small), batch=1)
    torch.testing.assert_close(whole.sum(), torch.tensor(1.0))
    assert record.geometry.key_grid == (small if pooled is None else tuple(one // 2 for one in small))
    if place.computed.causal:
        assert not whole[2:].any()
        assert whole[:2].all()
