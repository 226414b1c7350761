"""`nonlocal plan`: where blocks can go in a network, and what they cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from torch_nonlocal._common.files import check_output_file, write_json
from torch_nonlocal._common.terminal import terminal
from torch_nonlocal.cli import needs

if TYPE_CHECKING:
    from rich.console import Console

    from torch_nonlocal.planning.plan import Plan


def plan(
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")],
    *,
    input: Annotated[str, tyro.conf.arg(metavar="SIZE")],
    at: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    batch: int = 1,
    block: str = "non_local",
    pairwise: str = "embedded_gaussian",
    attend: str = "spacetime",
    subsample: int = 1,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> None:
    """List the modules of a network after which a block can be inserted, and the cost of each block.

    The cost is given in parameters, FLOPs, and memory of a training step, with and without the N x M attention matrix.
    The network is built with random weights. Shapes are inferred without computing values; the network runs once if
    its code does not allow that. The table marks the modules named by --at; without --at, those that the paper's
    results recommend.

    Example: nonlocal plan torchvision:r3d_18 --input 3x16x112x112

    Example: nonlocal plan ours:i3d_resnet50 --input 3x32x224x224 --at paper-5 --subsample 2

    Args:
        model: torchvision:NAME, timm:NAME, ours:NAME, packaged, or FILE.py:FUNCTION.
        input: size of one input without the batch: 3x16x112x112 for a clip of 16 frames, 3x224x224 for an image.
        at: a module name, a glob, or paper-1, paper-5, paper-10 or nvan. Repeat the option for several.
        batch: batch size.
        block: non_local, or the name of a relative such as gcnet. --pairwise, --attend and --subsample apply to
            non_local only.
        pairwise: pairwise function of the blocks: embedded_gaussian, gaussian, dot_product or concatenation.
        attend: positions that a position attends to: spacetime (all), space (its frame), time (its pixel over time) or
            criss_cross (its row and column); channel for weights among channels.
        subsample: max-pooling factor of keys and values; 1 for no pooling.
        json: also write the results to this file, as JSON.
    """
    if json is not None:
        check_output_file(json, "--json")
    needs.check("plan", model=model)
    shape = input_shape(input, batch)
    options = _block_options(block, pairwise, attend, subsample)
    import torch

    from torch_nonlocal.models.build import build
    from torch_nonlocal.planning.plan import plan as make_plan

    network = build(model)
    made = make_plan(network, torch.zeros(shape), list(at) or None, block=block, **options)
    if json is not None:
        write_json(json, {"model": model, "input": list(shape), **made.as_dict()}, indent=1)
    show(made, terminal())


def show(plan: "Plan", console: "Console") -> None:
    """Print a plan, chosen places in bold. Lines are never cut; a narrow terminal wraps them."""
    from torch_nonlocal.planning.report import CHOSEN, legend

    for line in str(plan).splitlines():
        bold = line.startswith(CHOSEN) and line != legend(plan)
        console.print(line, style="bold" if bold else None, highlight=False, markup=False, soft_wrap=True)


def _block_options(block: str, pairwise: str, attend: str, subsample: int) -> dict[str, Any]:
    """Return the options of the blocks.

    Raises:
        ValueError: if an option of non-local blocks is given for a relative.
    """
    options = {"pairwise": pairwise, "attend": attend, "subsample": subsample if subsample != 1 else None}
    if block == "non_local":
        return options
    usual = {"pairwise": "embedded_gaussian", "attend": "spacetime", "subsample": None}
    if given := [f"--{name} {value}" for name, value in options.items() if value != usual[name]]:
        raise ValueError(f"{', '.join(given)}: applies to --block non_local, not to {block}")
    return {}


def input_shape(text: str, batch: int) -> tuple[int, ...]:
    """Return the shape of an input from its sizes as text, such as "3x224x224", and the batch size."""
    try:
        sizes = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        sizes = ()
    if not 2 <= len(sizes) <= 4 or min(sizes) < 1:
        raise ValueError(f"--input {text}: expected sizes such as 3x224x224 or 3x16x112x112, without the batch")
    if batch < 1:
        raise ValueError(f"--batch {batch}: expected at least 1")
    return batch, *sizes
