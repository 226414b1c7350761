"""Export of a trained network of action recognition: normalized clips -> scores before softmax or sigmoid."""

from pathlib import Path
from typing import Any

from torch_nonlocal._version import __version__
from torch_nonlocal.data.moving_digits import RELATIONS
from torch_nonlocal.media.transforms import EvalTransform
from torch_nonlocal.tasks.action.classifier import ActionClassifier
from torch_nonlocal.tasks.exporting import Exported, Format, Graph, export_graph


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
    """Export a network; see `exporting.export_graph`."""
    settings = model.settings
    length, _ = settings.schedule
    shape = model.inputs.channels, length, settings.crop, settings.crop
    return export_graph(Graph(model.network, shape, "scores", metadata(model)), path, format=format)
