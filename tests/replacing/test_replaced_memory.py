"""Peak memory of modules before and after `nl.replace`, in fresh processes, at N = 6,400 positions."""

import pytest
import torch
from layouts.alexhex7 import NONLocalBlock2D as AlexHex7
from layouts.autoencoders import AttnBlock, HunyuanVideo15AttnBlock, SpatialAttentionBlock
from layouts.gan import Attention, NonLocalBlock, NonLocalBlock2D, PAM_Module, Self_Attn

import torch_nonlocal as nl
from torch_nonlocal.benchmark.meter import measure

MAP = 4 * 6400 * 6400  # 164 MB
CASES = {
    "alexhex7": (AlexHex7, ("embedded_gaussian",), (80, 80), MAP // 4),
    "ldm": (AttnBlock, (), (80, 80), MAP),
    "hunyuan15": (HunyuanVideo15AttnBlock, (), (16, 20, 20), MAP),
    "monai": (SpatialAttentionBlock, None, (16, 20, 20), MAP),
    "sagan": (Self_Attn, (), (80, 80), MAP),
    "danet": (PAM_Module, (), (80, 80), MAP),
    "biggan": (Attention, (), (80, 80), MAP // 4),
    "rnan": (NonLocalBlock2D, (4,), (80, 80), MAP),
    "pfnl": (NonLocalBlock, (4, 2), (80, 80), MAP // 16),
}


def prepare(name, replaced):
    torch.set_num_threads(1)
    kind, arguments, size, _ = CASES[name]
    block = kind(3, 8) if arguments is None else kind(8, *arguments)
    block.eval()
    if replaced:
        assert nl.replace(block).replaced == [""]

    def run(*size):
        with torch.inference_mode():
            block(torch.randn(1, 8, *size))

    run(*(4,) * len(size))  # libraries initialize on first use
    return lambda: run(*size)


@pytest.mark.extended
@pytest.mark.parametrize("name", CASES)
def test_memory_is_down_by_the_map(name):
    before, after = (measure(prepare, name, replaced, repeats=0).extra_bytes for replaced in (False, True))
    weights = CASES[name][3]
    assert before > weights
    assert before - after > 0.9 * weights
