"""Export of a trained network to ONNX or to a program of torch.export, compared with the network before it is written.

The exported graph takes normalized clips; the metadata has everything else: mean, standard deviation, size, frames.
"""

import copy
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import evaluating
from torch_nonlocal._common.files import replacing
from torch_nonlocal._common.optional import require
from torch_nonlocal._common.plain_values import shown

Format = Literal["onnx", "exported-program"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".pt2": "exported-program"}
"""Format by the suffix of the file."""
TOLERANCE = 1e-4
"""Largest difference of an output, relative to the largest output if that is above 1."""
_ROUNDINGS = 4  # differences of up to so many rounding errors of the network are accepted
METADATA = "metadata.json"
"""Name of the metadata in a program of torch.export."""
_INPUT = "clips"
_AXES = {0: "batch", 2: "frames"}


@dataclass(frozen=True)
class Graph:
    """What is exported.

    Attributes:
        network: normalized clips (B, C, T, H, W) -> outputs (B, K).
        shape: (C, T, H, W) of a clip.
        output: name of the outputs, such as "scores".
        metadata: what a program needs to prepare clips and to read the outputs, as JSON values.
    """

    network: nn.Module
    shape: tuple[int, int, int, int]
    output: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Exported:
    """An exported network.

    Attributes:
        path: the file.
        shape: shape of the input; an axis of any size is a name.
        difference: largest difference of an output from the network's.
        largest: largest absolute output of the network.
        checked: shapes of the clips that were compared.
        runtime: the program that computed the outputs, with its version.
        output: name of the outputs.
        width: number of outputs of a clip.
        rounding: the network's own rounding error, if the difference is above the tolerance because of it; else None.
    """

    path: Path
    shape: tuple[int | str, ...]
    difference: float
    largest: float
    checked: tuple[tuple[int, ...], ...]
    runtime: str
    output: str
    width: int
    rounding: float | None = None


def export_graph(graph: Graph, path: Path, *, format: Format) -> Exported:
    """Export a network, and compare its outputs for random clips with those of the network before the file is written.

    The batch size is dynamic, and so is the number of frames if the network takes clips of several lengths.

    Args:
        graph: a network on the CPU, and its description.
        path: the file; it is replaced.
        format: "onnx", or "exported-program" for `torch.export.load`.

    Raises:
        ValueError: the network cannot be exported, or the outputs differ by more than 1e-4 and more than rounding
            errors of the network itself explain; nothing is written.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    if format not in FORMATS:
        raise ValueError(f"format: got {format!r}, expected {' or '.join(map(repr, FORMATS))}")
    network, save = graph.network, _save_onnx if format == "onnx" else _save_program
    with evaluating(network), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, has_any_length = _outputs(graph)
        with replacing(path) as temporary:
            axes = _saved(save, graph, expected[0][0], has_any_length, temporary)
            compute, runtime = _reopened(temporary, format, graph.output)
            compared = [(clips, outputs) for clips, outputs in expected if _fits(clips, expected[0][0], axes)]
            difference = max(float((compute(clips) - outputs).abs().max()) for clips, outputs in compared)
            largest = max(float(outputs.abs().max()) for _, outputs in compared)
            rounding = None
            if not difference <= TOLERANCE * max(largest, 1.0):
                rounding = _rounding_error(network, compared)
                if not difference <= _ROUNDINGS * rounding:
                    differ = f"{graph.output} up to {largest:.3g} differ by {difference:.2g}"
                    raise ValueError(f"{path} is not written: its {differ}, expected at most {TOLERANCE:g}; {runtime}")
    shape = tuple(axes.get(axis, size) for axis, size in enumerate(expected[0][0].shape))
    checked = tuple(tuple(clips.shape) for clips, _ in compared)
    about = graph.output, expected[0][1].shape[1], rounding
    return Exported(path, shape, difference, largest, checked, runtime, *about)


def _rounding_error(network: nn.Module, compared: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Largest difference of the network's outputs from those that it computes in float64."""
    exact = copy.deepcopy(network).double()
    return max(float((exact(clips.double()) - outputs).abs().max()) for clips, outputs in compared)


def _outputs(graph: Graph) -> tuple[list[tuple[Tensor, Tensor]], bool]:
    """Random clips with the network's outputs, and whether it takes clips of another length."""
    channels, length, height, width = graph.shape
    generator = torch.Generator().manual_seed(0)
    dtype = next(graph.network.parameters()).dtype
    found, has_any_length = [], True
    for batch, frames in ((2, length), (1, length), (1, length + max(length // 2, 1))):
        clips = torch.randn(batch, channels, frames, height, width, generator=generator).to(dtype)
        try:
            found.append((clips, graph.network(clips)))
        except Exception:
            if frames == length:
                raise
            has_any_length = False  # the network's own refusal of another length, whatever its kind
    return found, has_any_length


Save = Callable[[Graph, Tensor, Mapping[int, str], Path], None]


def _saved(save: Save, graph: Graph, clips: Tensor, has_any_length: bool, path: Path) -> Mapping[int, str]:
    """Save the network with as many dynamic axes as it allows; returns these."""
    attempts: Sequence[dict[int, str]] = [*([_AXES] if has_any_length else []), {0: _AXES[0]}, {}]
    last: Exception | None = None
    for axes in attempts:
        try:
            about = {**graph.metadata, "dynamic": list(axes.values())}
            save(replace(graph, metadata=about), clips, axes, path)
            return axes
        except (ImportError, OSError):
            raise
        except Exception as error:  # torch has many kinds of them
            last = error
    raise ValueError(f"{type(graph.network).__name__} cannot be exported: {shown(last)}") from last


def _fits(clips: Tensor, example: Tensor, axes: Mapping[int, str]) -> bool:
    pairs = enumerate(zip(clips.shape, example.shape, strict=True))
    return all(axis in axes or size == expected for axis, (size, expected) in pairs)


def _save_onnx(graph: Graph, clips: Tensor, axes: Mapping[int, str], path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package)
    names: dict[str, Any] = {"input_names": [_INPUT], "output_names": [graph.output]}
    options: dict[str, Any] = {"dynamo": True, "dynamic_shapes": (dict(axes),), "verbose": False, **names}
    program = torch.onnx.export(graph.network, (clips,), **options)
    assert program is not None
    program.model.metadata_props.update({name: _text(value) for name, value in graph.metadata.items()})
    program.save(path, external_data=False)


def _save_program(graph: Graph, clips: Tensor, axes: Mapping[int, str], path: Path) -> None:
    shapes = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    program = torch.export.export(graph.network, (clips,), dynamic_shapes=(shapes,))
    torch.export.save(program, path, extra_files={METADATA: json.dumps(graph.metadata)})


def _reopened(path: Path, format: Format, output: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """A function that computes outputs with the saved file, and what computes them."""
    if format == "exported-program":
        module = torch.export.load(path).module()
        return module, f"torch.export of torch {torch.__version__}"
    onnxruntime = require("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def compute(clips: Tensor) -> Tensor:
        return torch.from_numpy(session.run([output], {_INPUT: clips.numpy()})[0])

    return compute, f"onnxruntime {onnxruntime.__version__}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
