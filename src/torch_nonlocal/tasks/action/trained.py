"""Files of trained weights: read, checked and built into a network. Errors name what reads a file of another kind."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from torch_nonlocal._common.plain_values import check_entries, check_names, shown
from torch_nonlocal._common.tensor_files import read_weights
from torch_nonlocal.tasks.action.network import set_saved_inputs, trained_network
from torch_nonlocal.tasks.action.settings import NONE, ActionSettings, settings_of_file
from torch_nonlocal.training import load_weights_file

_EXPECTED = "expected best.pt of `nonlocal train action`"
_OTHER_KINDS = {
    "blocks": "a file of blocks; nl.load_blocks(model, {path!r}) inserts them",
    "network": "a converted network; nl.create_model(NAME, weights={path!r}) loads it",
    "training state": "a training state; best.pt in the same folder holds the weights",
    "state dict": "a file of tensors by name; nl.load_weights(model, {path!r}) loads them into a network",
}


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
    content = _content(path)
    about = dict(content["about"])
    task = about.pop("task", None)
    if task != "action":
        of = f"are of the task {shown(task)}" if task is not None else "do not name their task"
        raise ValueError(f"{path}: not weights of `nonlocal train action`: they {of}; {_EXPECTED}")
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


def weights_path(weights: Path) -> Path:
    """The file of trained weights in the folder of a run, or the file itself."""
    return weights / "checkpoints" / "best.pt" if weights.is_dir() else weights


def _content(path: Path) -> Mapping[str, Any]:
    try:
        return load_weights_file(path)
    except ValueError as error:
        try:
            kind = read_weights(path).kind
        except ValueError:
            raise error from None
        if kind not in _OTHER_KINDS:
            raise
        raise ValueError(f"{path} is {_OTHER_KINDS[kind].format(path=str(path))}; {_EXPECTED}") from error
