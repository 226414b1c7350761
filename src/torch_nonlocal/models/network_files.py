"""Converted networks from their file alone: the file states the architecture and the blocks beside the weights."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch_nonlocal._common.plain_values import fits, parse_json, settings_from, shown
from torch_nonlocal._common.tensor_files import WeightsFile
from torch_nonlocal.insertion import insert
from torch_nonlocal.layers.options import check_option_names
from torch_nonlocal.models.fitting import limited_to, load_tensors
from torch_nonlocal.models.video_resnet import DEPTHS, TimePlan, VideoResNet

ARCHITECTURE = "architecture"
"""Key of the architecture beside the weights."""

_MAX_CLASSES = 100_000
_MAX_FRAMES = 64  # of a kernel or stride


@dataclass(frozen=True)
class Architecture:
    """A `VideoResNet` with its blocks, as plain values.

    Attributes:
        depth: 50 or 101.
        kernel: as in `VideoResNet`.
        num_classes: width of the last layer.
        time: the time plan as a dictionary.
        non_local: places of blocks.
        options: options of the blocks.
    """

    depth: int
    kernel: Literal["3x1x1", "3x3x3"] | None
    num_classes: int
    time: dict
    non_local: list
    options: dict


def text_of(
    depth: int, kernel: str | None, num_classes: int, time: TimePlan, places: list[str], options: Mapping[str, Any]
) -> str:
    """The architecture as the text that `load_network` reads."""
    parts = {"depth": depth, "kernel": kernel, "num_classes": num_classes, "time": asdict(time)}
    return json.dumps({**parts, "non_local": places, "options": dict(options)})


def load_network(path: str | os.PathLike[str], file: WeightsFile, dropout: float) -> VideoResNet:
    """Build the network of a file of `nonlocal convert` and load its weights.

    Args:
        path: the file, for messages.
        file: its content.
        dropout: dropout probability before the last layer.

    Raises:
        ValueError: the file holds no architecture, a wrong one, or other weights than its architecture has.
    """
    try:
        text = file.facts.get(ARCHITECTURE)
        if not isinstance(text, str):
            raise ValueError("it holds no architecture: give the name of the network, and the file as weights=")
        parts = parse_json(text)
        if not isinstance(parts, dict):
            raise ValueError("its architecture is not a dictionary")
        found = settings_from(Architecture, parts)
        time = settings_from(TimePlan, found.time)
        sizes = [value for value in asdict(time).values() if isinstance(value, int)]
        in_range = 1 <= found.num_classes <= _MAX_CLASSES and 0 <= min(sizes) <= max(sizes) <= _MAX_FRAMES
        if found.depth not in DEPTHS or not in_range:
            raise ValueError("its architecture has a depth, a number of classes or a stride that no network has")
        places = [place for place in found.non_local if fits(place, str)]
        check_option_names("an architecture", found.options)
        with limited_to(file.tensors):
            model = VideoResNet(
                found.depth, kernel=found.kernel, time=time, num_classes=found.num_classes, dropout=dropout
            )
            if places:
                insert(model, places, **found.options)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {shown(error)}") from error
    load_tensors(model, file.tensors, source=str(Path(path)))
    return model
