"""Files of trained weights: read, checked and built into a network. Errors name what reads a file of another kind."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from torch_nonlocal._common.plain_values import check_entries, check_names, shown
from torch_nonlocal.tasks.action.network import set_saved_inputs, trained_network
from torch_nonlocal.tasks.action.settings import NONE, ActionSettings, settings_of_file
from torch_nonlocal.tasks.trained_files import read_trained_file, weights_path


class Trained(NamedTuple):
    """A trained network in eval mode, its settings, its class names, and the content of its file."""

    model: nn.Module
    settings: ActionSettings
    classes: tuple[str, ...]
    content: Mapping[str, Any]


def read_trained(weights: Path, network: str = "") -> Trained:
    """Read a trained network.

    Args:
        weights: checkpoints/best.pt of a run, or the folder of the run.
        network: name of the network instead of the one in the file; only this one can be FILE.py:FUNCTION.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not hold weights of this task, or its settings and tensors do not fit. The message
            names what reads a file of another kind.
        ImportError: a package is not installed; the message names the extra.
    """
    path = weights_path(weights)
    content = read_trained_file(path, "action")
    about = {name: value for name, value in content["about"].items() if name != "task"}
    try:
        inputs = {name: about.pop(name) for name in ("inputs",) if name in about}
        for one in inputs.values():
            check_entries(one, {"mean": tuple[float, ...], "std": tuple[float, ...]})
        classes = check_names("classes", about.pop("classes", None))
        settings = settings_of_file(about, network)
        model = trained_network(replace(settings, weights=NONE), len(classes), content["model"], "its tensors")
        set_saved_inputs(model, {"network": settings.network, **inputs})
    except (ImportError, FileNotFoundError):
        raise
    except Exception as error:  # settings of a file can cause any error
        raise ValueError(f"{path}: {shown(error)}") from error
    return Trained(model.eval(), settings, classes, content)
