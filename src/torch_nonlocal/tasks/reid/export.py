"""Export of a trained network of re-identification: normalized clips -> embeddings, not divided by their norm."""

from pathlib import Path
from typing import Any

from torch_nonlocal._version import __version__
from torch_nonlocal.tasks.exporting import Exported, Format, Graph, export_graph
from torch_nonlocal.tasks.reid.trained import VIEWS, TrackletEmbedder


def metadata(model: TrackletEmbedder) -> dict[str, Any]:
    """What a program needs to prepare clips for the network and to compare its embeddings, as JSON values."""
    settings, inputs = model.settings, model.inputs
    length, stride = settings.schedule
    return {
        "dimension": model.dimension,
        "distance": "cosine",
        "digest": model.digest,
        "mean": list(inputs.mean),
        "std": list(inputs.std),
        "value_range": [0, 1],
        "color_order": inputs.color_order,
        "layout": "BCTHW",
        "size": list(settings.size),
        "frames": length,
        "stride": stride,
        "sampling": "window" if stride is not None else "uniform",
        "views": VIEWS,
        "task": "reid",
        "producer": f"torch-nonlocal {__version__}",
    }


def export(model: TrackletEmbedder, path: Path, *, format: Format) -> Exported:
    """Export a network; see `exporting.export_graph`."""
    length, _ = model.settings.schedule
    shape = model.inputs.channels, length, *model.settings.size
    return export_graph(Graph(model.network, shape, "embeddings", metadata(model)), path, format=format)
