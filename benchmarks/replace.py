"""Time and memory of other projects' attention before and after `nl.replace`: the table of docs/replace.md.

    python benchmarks/replace.py                    # all rows
    python benchmarks/replace.py --only "HunyuanVideo 1.5"

Modules are the real ones of the optional packages (`pip install -e '.[ecosystem]'`); for projects without a package,
those of tests/replacing/layouts. Times: both alternate in one process, medians. Memory: the peak above the module and
its input of one run, each in a fresh process. Modules that `nl.replace` leaves alone are replaced by name here.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import torch_nonlocal as nl
from torch_nonlocal.benchmark.meter import measure

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "replacing"))


class Row(NamedTuple):
    """A module and the size of its input; `place` is what is replaced in it."""

    make: Callable[[int], nn.Module]
    channels: int
    size: tuple[int, ...]
    place: str = "0"


def _diffusers(processor: str) -> Callable[[int], nn.Module]:
    def make(channels: int) -> nn.Module:
        from diffusers.models import attention_processor

        options: dict[str, Any] = {"heads": 1, "dim_head": channels, "bias": True, "residual_connection": True}
        made = attention_processor.Attention(channels, norm_num_groups=32, **options)
        made.set_processor(getattr(attention_processor, processor)())
        return made

    return make


def _hunyuan(channels: int) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import HunyuanVideo15AttnBlock

    return HunyuanVideo15AttnBlock(channels)


def _decoder(version: str) -> Callable[[int], nn.Module]:
    def make(channels: int) -> nn.Module:
        import diffusers

        options: dict[str, Any] = {"latent_channels": channels, "layers_per_block": 1}
        if version == "1.5":
            widths = (8, 8, 8, 16, 64)
            return diffusers.AutoencoderKLHunyuanVideo15(block_out_channels=widths, **options).decoder
        widths = (8, 8, 16, 64)
        return diffusers.AutoencoderKLHunyuanVideo(block_out_channels=widths, norm_num_groups=8, **options).decoder

    return make


def _monai(**options: Any) -> Callable[[int], nn.Module]:
    def make(channels: int) -> nn.Module:
        from monai.networks.blocks.spatialattention import SpatialAttentionBlock

        return SpatialAttentionBlock(options.pop("dims", 2), channels, **options)

    return make


def _layout(module: str, name: str, *args: Any, **options: Any) -> Callable[[int], nn.Module]:
    def make(channels: int) -> nn.Module:
        return getattr(__import__(f"layouts.{module}", fromlist=[name]), name)(channels, *args, **options)

    return make


def _mmcv(channels: int) -> nn.Module:
    from mmcv.cnn.bricks import NonLocal2d

    return NonLocal2d(channels)


def _pytorchvideo(channels: int) -> nn.Module:
    from pytorchvideo.layers.nonlocal_net import create_nonlocal

    return create_nonlocal(dim_in=channels, dim_inner=channels // 2, instantiation="softmax")


def _timm(name: str) -> Callable[[int], nn.Module]:
    def make(channels: int) -> nn.Module:
        from timm.layers import non_local_attn

        return getattr(non_local_attn, name)(channels)

    return make


IMAGE, CLIP, FRAMES = (80, 80), (16, 20, 20), (15, 24, 24)
ROWS = {
    "AlexHex7, embedded Gaussian": Row(_layout("alexhex7", "NONLocalBlock2D", "embedded_gaussian"), 256, IMAGE),
    "AlexHex7, concatenation": Row(_layout("alexhex7", "NONLocalBlock2D", "concatenation"), 8, IMAGE),
    "mmcv NonLocal2d": Row(_mmcv, 256, IMAGE),
    "PySlowFast, PyTorchVideo": Row(_pytorchvideo, 256, CLIP),
    "timm NonLocalAttn": Row(_timm("NonLocalAttn"), 256, IMAGE),
    "latent diffusion AttnBlock": Row(_layout("autoencoders", "AttnBlock"), 256, IMAGE),
    "diffusers AttnProcessor": Row(_diffusers("AttnProcessor"), 256, IMAGE),
    "HunyuanVideo 1.5 attention": Row(_hunyuan, 512, FRAMES),
    "HunyuanVideo 1.5 decoder, 8 to 64 channels": Row(_decoder("1.5"), 4, FRAMES, "0.mid_block.attentions.0"),
    "HunyuanVideo 1.0 decoder, 8 to 64 channels": Row(_decoder("1.0"), 4, FRAMES, "0.mid_block"),
    "MONAI": Row(_monai(), 256, IMAGE),
    "SAGAN": Row(_layout("gan", "Self_Attn", reduction=8), 256, IMAGE),
    "BigGAN": Row(_layout("gan", "Attention", reduction=8), 256, IMAGE),
    "DANet position attention": Row(_layout("gan", "PAM_Module", reduction=8), 512, IMAGE),
    "RNAN": Row(_layout("gan", "NonLocalBlock2D", 32), 64, IMAGE),
    "PFNL": Row(_layout("gan", "NonLocalBlock", 64), 64, IMAGE),
    "diffusers AttnProcessor2_0": Row(_diffusers("AttnProcessor2_0"), 256, IMAGE),
    "MONAI, flash attention": Row(_monai(use_flash_attention=True), 256, IMAGE),
}


def prepare(name: str, replaced: bool, backward: bool) -> Callable[[], Any]:
    """Return a function that runs the module of a row once."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    row = ROWS[name]
    model = nn.Sequential(row.make(row.channels)).train(backward)
    if replaced:
        report = nl.replace(model, only=row.place)
        if report.replaced != [row.place]:
            raise ValueError(f"{name}: {report}")
    x = torch.randn(1, row.channels, *row.size, requires_grad=backward)

    def run() -> None:
        with torch.set_grad_enabled(backward):
            output = model(x)
            first = output if isinstance(output, Tensor) else output[0]
            if backward:
                first.sum().backward()

    return run


def times(name: str, backward: bool, rounds: int) -> tuple[float, float]:
    """Return the median seconds before and after, in alternating runs."""
    own, ours = prepare(name, False, backward), prepare(name, True, backward)
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for work, kept in zip((own, ours), seconds, strict=True):
            start = time.process_time()
            work()
            if turn:  # the first is a warm-up
                kept.append(time.process_time() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name contains one of these texts")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each")
    args = parser.parse_args()
    print("| module | C | N | inference s | MB | training step s | MB |\n|---|---|---|---|---|---|---|", flush=True)
    for name, row in ROWS.items():
        if not any(one in name for one in args.only):
            continue
        cells = [name, str(row.channels), f"{torch.Size(row.size).numel():,}"]
        for backward in (False, True) if row.place == "0" else (False,):
            before, after = times(name, backward, args.rounds)
            memory = [measure(prepare, name, one, backward, repeats=0).extra_bytes / 1e6 for one in (False, True)]
            cells += [f"{before:.2f} → {after:.2f}", f"{memory[0]:,.0f} → {memory[1]:,.0f}"]
        cells += [""] * (7 - len(cells))
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
