"""`nonlocal convert`: another project's checkpoint into ours."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from torch_nonlocal._common.files import check_new_file, printable
from torch_nonlocal._common.terminal import terminal
from torch_nonlocal._common.text import listed
from torch_nonlocal.cli import needs

if TYPE_CHECKING:
    from torch_nonlocal.weights import Converted

_SHOWN = 8  # entries of a long list that are printed
_SAFETENSORS = ".safetensors"


def convert(
    in_: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    *,
    source: str = "",
    pairwise: str = "",
    subsample: int = 0,
    scale: str = "",
    place: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    frames: int = 0,
    whole: bool = False,
    blocks: bool = False,
    overwrite: Annotated[bool, tyro.conf.arg(aliases=["--force"])] = False,
) -> None:
    """Convert another project's checkpoint: its non-local blocks, or the whole network if this library has it.

    Reads checkpoints of AlexHex7 (also TSM, AP3D, STE-NVAN), tea1528, PySlowFast, PyTorchVideo, mmcv and mmaction2,
    timm, GluonCV, GCNet, the non-local block of CGNL, AGW and fast-reid, and Caffe2 pickles of video-nonlocal-net. The
    source is detected from the tensor names. Nothing in the file is executed. The command prints the source, the
    renamed tensors, what the file does not state and was assumed, and the unused tensors.

    Example: nonlocal convert I3D_NLN_8x8_R50.pkl i3d.safetensors

    Example: nonlocal convert tsm.pth blocks.safetensors --blocks --pairwise dot_product --frames 8

    Example: nonlocal convert mine.pth blocks.safetensors --place nl_1=layer2.3 --place nl_2=layer3.5

    Args:
        in_: checkpoint of another project: .pth, .pkl or .safetensors.
        out: file to write: safetensors if its name ends in .safetensors, else torch.save's format.
        source: project of the checkpoint, if the tensor names do not identify it: agw, alexhex7, caffe2, cgnl, gcnet,
            gluoncv, mmcv, pytorchvideo, slowfast, ste-nvan, tea1528 or timm.
        pairwise: embedded_gaussian or dot_product, if the checkpoint does not use its project's default.
        subsample: max-pooling factor of keys and values; 1 for no pooling, 0 for the default of the source project.
        scale: factor before the softmax, a number or sqrt for 1/sqrt(D), if it is not the project's default.
        place: BLOCK=MODULE inserts the block named BLOCK after the module MODULE. Repeat the option for several.
        frames: number of frames of a clip, if the blocks are for a network that sees frames as a batch of images, such
            as TSM.
        whole: write the whole network, for nl.create_model, and fail if it cannot be converted. Without --whole and
            --blocks, the whole network is written if it can be converted, else the blocks.
        blocks: write only the blocks, for nl.load_blocks.
        overwrite: replace OUT if it exists; --force is its former name.
    """
    if whole and blocks:
        raise ValueError("--whole and --blocks exclude each other")
    check_new_file(out, "OUT", overwrite=overwrite)
    needs.check("convert", packages=["safetensors"] if _SAFETENSORS in (in_.suffix, out.suffix) else [])
    from torch_nonlocal.weights import convert_weights

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the assumptions, which the report lists
        converted = convert_weights(
            in_,
            source=source or None,
            pairwise=pairwise or None,
            subsample=subsample or None,
            scale=_scale(scale),
            places=dict(map(_place, place)),
            frames=frames or None,
        )
    saves_network = (whole or converted.network is not None) and not blocks
    converted.save(out, whole=saves_network)
    _report(converted, out, saves_network)


def _report(converted: "Converted", out: Path, saves_network: bool) -> None:
    from torch_nonlocal.weights import SOURCES

    console = terminal()

    def show(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    show(f"source: {converted.source} ({SOURCES[converted.source].project})")
    if converted.plan:
        console.print(_table(converted))
    show(f"renamed: {len(converted.renamed)} tensors")
    for theirs, ours in list(converted.renamed.items())[:_SHOWN]:
        show(f"  {theirs} -> {ours}")
    for assumption in converted.assumptions:
        show(f"assumed: {assumption}")
    if converted.left_over:
        show(f"left over: {len(converted.left_over)} tensors")
        show(f"  {listed(converted.left_over, most=_SHOWN)}")
    if converted.network is not None and saves_network:
        for difference in converted.network.differences:
            show(f"not in the weights: {difference}")
        show(f"{out}: {converted.network.call(str(out))}")
        return
    if converted.no_network:
        show(f"blocks only: not a network of this library: {converted.no_network}")
    show(f'{out}: nl.load_blocks(model, "{out}")')


def _table(converted: "Converted") -> Table:
    table = Table("place", "axes", "C", "D", "pairwise", "keys", "scale", "norm", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, entry in converted.plan.items():
        options = entry["options"]
        pooled = "x".join(map(str, options["subsample"] or ()))
        order = " first" if options["pool_first"] else ""
        scale = options["scale"]
        table.add_row(
            escape(printable(place)) or "(the whole network)",
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
