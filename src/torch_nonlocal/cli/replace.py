"""`nonlocal replace`: what `nl.replace` finds in a network, and what the replacement saves."""

from pathlib import Path
from typing import Annotated

import tyro

from torch_nonlocal._common.files import check_output_file, write_json
from torch_nonlocal._common.terminal import terminal
from torch_nonlocal.cli import needs
from torch_nonlocal.cli.plan import input_shape


def replace(
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")],
    *,
    input: Annotated[str, tyro.conf.arg(metavar="SIZE")],
    only: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    batch: int = 1,
    train: bool = False,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> None:
    """List the attention modules of other projects in a network that nl.replace can take over, and what it saves.

    For each module, the table shows the pairwise form, the numbers of query and key positions, the memory of its own
    code and of ours, and the time of ours divided by that of its own code. Each module is compared with its replacement
    on random values first; those that differ are listed with the difference. No file is changed: in your program, call
    nl.replace(model).

    Example: nonlocal replace network.py:build --input 3x8x224x224

    Example: nonlocal replace network.py:build --input 3x512x512 --only "decoder.**" --train

    Args:
        model: FILE.py:FUNCTION, or torchvision:NAME, timm:NAME, ours:NAME, packaged.
        input: size of one input without the batch: 3x16x112x112 for a clip of 16 frames, 3x224x224 for an image.
        only: a module name, a glob or the name of a family, such as mmcv. Repeat for several. A module that is
            named is listed even if its own code builds no map.
        batch: batch size.
        train: memory of a training step, forward and backward, instead of a forward pass. Time is not measured then.
        json: also write the results to this file, as JSON.
    """
    if json is not None:
        check_output_file(json, "--json")
    needs.check("replace", model=model)
    shape = input_shape(input, batch)
    import torch

    from torch_nonlocal.models.build import build
    from torch_nonlocal.replacing import replace as find

    network = build(model).train(train)
    report = find(network, list(only) or None, dry_run=True, example_input=torch.zeros(shape))
    if json is not None:
        write_json(json, {"model": model, "input": list(shape), **report.as_dict()}, indent=1)
    terminal().print(str(report), highlight=False, markup=False, soft_wrap=True)
