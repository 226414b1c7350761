"""`nonlocal export`: a trained network as an ONNX file or a program of torch.export."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from torch_nonlocal._common.files import check_new_file
from torch_nonlocal._common.terminal import print_lines
from torch_nonlocal._common.text import megabytes
from torch_nonlocal.cli import needs

_SUFFIXES = {"onnx": ".onnx", "exported-program": ".pt2"}
_ONNX = ("onnx", "onnxruntime", "onnxscript")


def export(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    *,
    format: Literal["auto", "onnx", "exported-program"] = "auto",
    overwrite: bool = False,
    network: str = "",
) -> None:
    """Export a network that nonlocal train action or reid trained, to ONNX or to a program of torch.export.

    The graph takes normalized clips and returns a score per class, before softmax, or for re-identification an
    embedding, not divided by its norm. Class names, mean, standard deviation, size and frames are in the metadata. The
    batch size is dynamic, and so is the length of clips if the network allows it. The outputs of the file are compared
    with those of the network before the file is written.

    Example: nonlocal export runs/action/checkpoints/best.pt action.onnx

    Args:
        checkpoint: checkpoints/best.pt of a run, or the folder of the run.
        out: file to write, OUT.onnx or OUT.pt2.
        format: onnx, or exported-program for torch.export.load; auto goes by the suffix of OUT.
        overwrite: replace OUT if it exists.
        network: FILE.py:FUNCTION, if the network is defined in a Python file. The file is executed, so its name is not
            taken from the checkpoint.
    """
    by_suffix = {suffix: name for name, suffix in _SUFFIXES.items()}.get(out.suffix)
    if by_suffix is None or format not in ("auto", by_suffix):
        expected = " or ".join(_SUFFIXES.values()) if format == "auto" else _SUFFIXES[format]
        raise ValueError(f"OUT {out}: expected a name that ends in {expected}")
    check_new_file(out, "OUT", overwrite=overwrite)
    needs.check("export", packages=_ONNX if by_suffix == "onnx" else ())
    from torch_nonlocal.tasks.loading import load

    model: Any = load(checkpoint, network=network)
    if model.task == "reid":
        from torch_nonlocal.tasks.reid.export import export as export_network
    elif model.task == "action":
        from torch_nonlocal.tasks.action.export import export as export_network
    else:
        raise ValueError(f"{checkpoint}: a network of the task {model.task} cannot be exported")
    made = export_network(model, out, format=by_suffix)  # pyright: ignore[reportArgumentType]
    shape = ", ".join(map(str, made.shape))
    clips = " and ".join(" x ".join(map(str, one)) for one in made.checked)
    print_lines(f"{out}: {megabytes(out.stat().st_size)}")
    given = f"input: clips ({shape}), float32, normalized"
    print_lines(f"{given}; output: {made.output} ({made.shape[0]}, {made.width})")
    if "frames" not in made.shape:
        print_lines(f"the number of frames is fixed: {made.shape[2]}")
    print_lines(f"checked on clips {clips} with {made.runtime}")
    print_lines(f"largest difference: {made.difference:.1e}, of {made.output} up to {made.largest:.2g}")
    if made.rounding is not None:
        print_lines(f"note: the network itself has rounding errors of {made.rounding:.1e}, compared with float64")
