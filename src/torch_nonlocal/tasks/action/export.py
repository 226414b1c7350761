"""Export of a trained network to ONNX or to a program of torch.export, compared with the network before it is written.

The exported graph takes normalized clips and returns scores before softmax or sigmoid. The metadata has everything
else: class names, mean, standard deviation, size, frames.
"""

import copy
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import evaluating
from torch_nonlocal._common.files import replacing
from torch_nonlocal._common.optional import require
from torch_nonlocal._common.plain_values import shown
from torch_nonlocal._version import __version__
from torch_nonlocal.data.moving_digits import RELATIONS
from torch_nonlocal.media.transforms import EvalTransform
from torch_nonlocal.tasks.action.classifier import ActionClassifier

Format = Literal["onnx", "exported-program"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".pt2": "exported-program"}
"""Format by the suffix of the file."""
TOLERANCE = 1e-4
"""Largest difference of scores, relative to the largest score if that is above 1."""
_ROUNDINGS = 4  # differences of up to so many rounding errors of the network are accepted
METADATA = "metadata.json"
"""Name of the metadata in a program of torch.export."""
_INPUT, _OUTPUT = "clips", "scores"
_AXES = {0: "batch", 2: "frames"}


@dataclass(frozen=True)
class Exported:
    """An exported network.

    Attributes:
        path: the file.
        shape: shape of the input; an axis of any size is a name.
        difference: largest difference of a score from the network's.
        largest: largest absolute score of the network.
        checked: shapes of the clips that were compared.
        runtime: the program that computed the scores, with its version.
        rounding: the network's own rounding error, if the difference is above the tolerance because of it; else None.
    """

    path: Path
    shape: tuple[int | str, ...]
    difference: float
    largest: float
    checked: tuple[tuple[int, ...], ...]
    runtime: str
    rounding: float | None = None


def metadata(model: ActionClassifier) -> dict[str, Any]:
    """What a program needs to prepare clips for the network and to name its scores, as JSON values."""
    settings, inputs = model.settings, model.inputs
    length, stride = settings.schedule
    whole = model.classes == RELATIONS
    return {
        "classes": list(model.classes),
        "activation": "sigmoid" if model.is_multi_label else "softmax",
        "mean": list(inputs.mean),
        "std": list(inputs.std),
        "value_range": [0, 1],
        "color_order": inputs.color_order,
        "layout": "BCTHW",
        "size": [settings.crop, settings.crop],
        "short_side": settings.crop if whole else EvalTransform(crop=settings.crop).side,
        "frames": length,
        "stride": stride,
        "sampling": "window" if stride is not None else "uniform",
        "fps": settings.fps,
        "task": "action",
        "producer": f"torch-nonlocal {__version__}",
    }


def export(model: ActionClassifier, path: Path, *, format: Format) -> Exported:
    """Export a network, and compare its scores on random clips with those of the network before the file is written.

    The batch size is dynamic, and so is the number of frames if the network takes clips of several lengths.

    Args:
        model: a trained network on the CPU.
        path: the file; it is replaced.
        format: "onnx", or "exported-program" for `torch.export.load`.

    Raises:
        ValueError: the network cannot be exported, or the scores differ by more than 1e-4 and more than rounding errors
            of the network itself explain; nothing is written.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    if format not in FORMATS:
        raise ValueError(f"format: got {format!r}, expected {' or '.join(map(repr, FORMATS))}")
    network, save = model.network, _save_onnx if format == "onnx" else _save_program
    with evaluating(network), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, has_any_length = _scores(model)
        with replacing(path) as temporary:
            axes = _saved(save, network, expected[0][0], has_any_length, temporary, metadata(model))
            compute, runtime = _reopened(temporary, format)
            compared = [(clips, scores) for clips, scores in expected if _fits(clips, expected[0][0], axes)]
            difference = max(float((compute(clips) - scores).abs().max()) for clips, scores in compared)
            largest = max(float(scores.abs().max()) for _, scores in compared)
            rounding = None
            if not difference <= TOLERANCE * max(largest, 1.0):
                rounding = _rounding_error(network, compared)
                if not difference <= _ROUNDINGS * rounding:
                    differ = f"scores up to {largest:.3g} differ by {difference:.2g}"
                    raise ValueError(f"{path} is not written: its {differ}, expected at most {TOLERANCE:g}; {runtime}")
    shape = tuple(axes.get(axis, size) for axis, size in enumerate(expected[0][0].shape))
    checked = tuple(tuple(clips.shape) for clips, _ in compared)
    return Exported(path, shape, difference, largest, checked, runtime, rounding)


def _rounding_error(network: nn.Module, compared: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Largest difference of the network's scores from those that it computes in float64."""
    exact = copy.deepcopy(network).double()
    return max(float((exact(clips.double()) - scores).abs().max()) for clips, scores in compared)


def _scores(model: ActionClassifier) -> tuple[list[tuple[Tensor, Tensor]], bool]:
    """Random clips with the network's scores, and whether it takes clips of another length."""
    length, _ = model.settings.schedule
    generator = torch.Generator().manual_seed(0)
    shape = model.settings.crop, model.settings.crop
    dtype = next(model.network.parameters()).dtype
    found, has_any_length = [], True
    for batch, frames in ((2, length), (1, length), (1, length + max(length // 2, 1))):
        clips = torch.randn(batch, model.inputs.channels, frames, *shape, generator=generator).to(dtype)
        try:
            found.append((clips, model.network(clips)))
        except Exception:
            if frames == length:
                raise
            has_any_length = False  # the network's own refusal of another length, whatever its kind
    return found, has_any_length


Save = Callable[[nn.Module, Tensor, Mapping[int, str], Path, dict[str, Any]], None]


def _saved(
    save: Save, network: nn.Module, clips: Tensor, has_any_length: bool, path: Path, about: dict[str, Any]
) -> Mapping[int, str]:
    """Save the network with as many dynamic axes as it allows; returns these."""
    attempts: Sequence[dict[int, str]] = [*([_AXES] if has_any_length else []), {0: _AXES[0]}, {}]
    last: Exception | None = None
    for axes in attempts:
        try:
            save(network, clips, axes, path, {**about, "dynamic": list(axes.values())})
            return axes
        except (ImportError, OSError):
            raise
        except Exception as error:  # torch has many kinds of them
            last = error
    raise ValueError(f"{type(network).__name__} cannot be exported: {shown(last)}") from last


def _fits(clips: Tensor, example: Tensor, axes: Mapping[int, str]) -> bool:
    pairs = enumerate(zip(clips.shape, example.shape, strict=True))
    return all(axis in axes or size == expected for axis, (size, expected) in pairs)


def _save_onnx(network: nn.Module, clips: Tensor, axes: Mapping[int, str], path: Path, about: dict[str, Any]) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package)
    names: dict[str, Any] = {"input_names": [_INPUT], "output_names": [_OUTPUT]}
    program = torch.onnx.export(network, (clips,), dynamo=True, dynamic_shapes=(dict(axes),), verbose=False, **names)
    assert program is not None
    program.model.metadata_props.update({name: _text(value) for name, value in about.items()})
    program.save(path, external_data=False)


def _save_program(
    network: nn.Module, clips: Tensor, axes: Mapping[int, str], path: Path, about: dict[str, Any]
) -> None:
    shapes = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    program = torch.export.export(network, (clips,), dynamic_shapes=(shapes,))
    torch.export.save(program, path, extra_files={METADATA: json.dumps(about)})


def _reopened(path: Path, format: Format) -> tuple[Callable[[Tensor], Tensor], str]:
    """A function that computes scores with the saved file, and what computes them."""
    if format == "exported-program":
        module = torch.export.load(path).module()
        return module, f"torch.export of torch {torch.__version__}"
    onnxruntime = require("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def compute(clips: Tensor) -> Tensor:
        return torch.from_numpy(session.run([_OUTPUT], {_INPUT: clips.numpy()})[0])

    return compute, f"onnxruntime {onnxruntime.__version__}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
