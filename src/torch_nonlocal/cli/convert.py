"""`nonlocal convert`: another project's checkpoint into ours."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from torch_nonlocal.weights import SOURCES, Converted, convert_weights

_SHOWN = 8  # names of a list that a person reads before "and n more"


def convert(
    in_: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    *,
    source: str = "",
    pairwise: str = "",
    subsample: int = 0,
    scale: str = "",
    place: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    whole: bool = False,
    blocks: bool = False,
    force: bool = False,
) -> None:
    """Convert another project's checkpoint: its non-local blocks, or the whole network where ours is the same.

    Reads AlexHex7 (and TSM, AP3D, STE-NVAN), tea1528, PySlowFast, PyTorchVideo, mmcv and mmaction2, timm, gluon-cv,
    Caffe2 pickles of video-nonlocal-net, cgnl, AGW and fast-reid; which of them it is, the names of the tensors tell.
    Nothing in the file is run. What was read, renamed, assumed and left over is printed.

    Example: nonlocal convert I3D_NLN_8x8_R50.pkl i3d.safetensors

    Example: nonlocal convert tsm.pth blocks.safetensors --blocks --pairwise dot_product

    Example: nonlocal convert mine.pth blocks.safetensors --place nl_1=layer2.3 --place nl_2=layer3.5

    Args:
        in_: the other project's file: .pth, .pkl, .safetensors.
        out: ours: .safetensors, or anything else for a file of torch.save.
        source: the project, where the names do not tell it: agw, alexhex7, caffe2, cgnl, gcnet, gluoncv, mmcv,
            pytorchvideo, slowfast, tea1528 or timm.
        pairwise: embedded_gaussian or dot_product, where the project's usual is wrong.
        subsample: factor of the keys' max-pooling, where the project's usual is wrong; 1 for none, 0 for the usual.
        scale: of the softmax, sqrt or a number, where the project's usual is wrong.
        place: OLD=NEW puts the block OLD behind the module NEW; may be given several times.
        whole: write the whole network, for nl.create_model; fails if there is none. The default where there is one.
        blocks: write only the blocks, for nl.load_blocks.
        force: replace OUT if it exists.
    """
    if whole and blocks:
        raise ValueError("--whole and --blocks: give one of them")
    if out.exists() and not force:
        raise ValueError(f"{out} exists; --force replaces it")
    converted = convert_weights(
        in_,
        source=source or None,
        pairwise=pairwise or None,
        subsample=subsample or None,
        scale=_scale(scale),
        places=dict(map(_place, place)),
    )
    saves_network = (whole or converted.network is not None) and not blocks
    converted.save(out, whole=saves_network)
    _report(converted, out, saves_network)


def _report(converted: Converted, out: Path, saves_network: bool) -> None:
    console = Console(highlight=False)
    console.print(f"source: {converted.source} ({SOURCES[converted.source].project})", markup=False)
    if converted.plan:
        console.print(_table(converted))
    console.print(f"renamed: {len(converted.renamed)} tensors", markup=False)
    for theirs, ours in list(converted.renamed.items())[:_SHOWN]:
        console.print(f"  {theirs} -> {ours}", markup=False)
    for said in converted.assumptions:
        console.print(f"assumed: {said}", markup=False, soft_wrap=True)
    if converted.left_over:
        more = len(converted.left_over) - _SHOWN
        console.print(f"left over: {len(converted.left_over)} tensors", markup=False)
        console.print(
            f"  {', '.join(converted.left_over[:_SHOWN])}" + (f" and {more} more" if more > 0 else ""), markup=False
        )
    if converted.network is not None and saves_network:
        for difference in converted.network.differences:
            console.print(f"not in the weights: {difference}", markup=False, soft_wrap=True)
        console.print(f"{out}: {converted.network.call(str(out))}", markup=False, soft_wrap=True)
        return
    if converted.no_network:
        console.print(f"blocks only: the network is not one of ours: {converted.no_network}", markup=False)
    console.print(f'{out}: nl.load_blocks(model, "{out}")', markup=False, soft_wrap=True)


def _table(converted: Converted) -> Table:
    table = Table("place", "axes", "C", "D", "pairwise", "keys", "scale", "norm", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, entry in converted.plan.items():
        options = entry["options"]
        pooled = "x".join(map(str, options["subsample"] or ()))
        order = " first" if options["pool_first"] else ""
        scale = options["scale"]
        table.add_row(
            escape(place) or "(the whole network)",
            entry["class"].removeprefix("NonLocal"),
            str(options["channels"]),
            str(options["inner_channels"]),
            options["pairwise"],
            f"/ {pooled}{order}" if pooled else "all",
            "-" if scale is None else f"{scale:.4g}",
            options["norm"] or "none",
        )
    return table


def _place(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not new:
        raise ValueError(f"--place {text}: expected OLD=NEW such as nl_1=layer2.3")
    return old, new


def _scale(text: str) -> float | str | None:
    if text in ("", "sqrt"):
        return text or None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--scale {text}: expected sqrt or a number") from None
