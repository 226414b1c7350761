"""One run, one folder: its settings, its surroundings, its checkpoints, its log.

config.json        the settings, and what the caller said about the run
environment.json   versions and device, of every start
metrics.jsonl      a line for each logged update and each test
tensorboard/       the same, as curves
checkpoints/last.pt            the whole state; a run goes on from here
checkpoints/best.pt            weights of the best test, with the settings: what is tested and used
checkpoints/step-00001234.pt   weights of earlier tests, if asked for
"""

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common import files
from torch_nonlocal._version import __version__
from torch_nonlocal.training.checkpoint import write_torch
from torch_nonlocal.training.config import HARMLESS, TrainConfig

WEIGHTS_FORMAT = "torch-nonlocal weights 1"
_PACKAGES = ("torchvision", "accelerate", "av", "numpy", "timm")


class RunFolder:
    """Paths and small files of a run's folder.

    Args:
        path: made if missing.
        config: of the run.
        about: what else tells one run from another, as JSON values (network, classes, data).
    """

    def __init__(self, path: Path, config: TrainConfig, about: Mapping[str, Any]) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.pt"
        self.best = self.checkpoints / "best.pt"
        self.metrics = path / "metrics.jsonl"
        self.board = path / "tensorboard"
        self._config = path / "config.json"
        self._environment = path / "environment.json"
        self._settings = {"config": config.plain(), "about": json.loads(json.dumps(dict(about)))}

    def differences(self) -> str:
        """What differs of the settings that the folder holds and that change the weights, in words; "" if nothing.

        Raises:
            ValueError: the folder has a config.json that is not of a run.
        """
        if not self._config.exists():
            return ""
        try:
            held = json.loads(self._config.read_text())
            held = {**held["config"], **{f"about.{key}": value for key, value in held["about"].items()}}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._config} is not a file of a run: {error}") from error
        given = {
            **self._settings["config"],
            **{f"about.{key}": value for key, value in self._settings["about"].items()},
        }
        differing = [name for name in {**held, **given} if name not in HARMLESS and held.get(name) != given.get(name)]
        return ", ".join(f"{name} (was {held.get(name)!r}, is {given.get(name)!r})" for name in differing)

    def begin(self, *, step: int, device: torch.device, processes: int) -> None:
        """Make the folder, write the settings, and note this start in environment.json."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        files.write_json(self._config, self._settings)
        try:
            starts = json.loads(self._environment.read_text())["starts"]
        except (OSError, ValueError, KeyError, TypeError):
            starts = []
        files.write_json(self._environment, {"starts": [*starts, _environment(step, device, processes)]})

    def write_weights(self, path: Path, model: dict[str, Tensor], *, step: int, metrics: Mapping[str, float]) -> None:
        """Write weights for use: the tensors, the settings, and what a test said of them."""
        content = {"format": WEIGHTS_FORMAT, "model": model, "step": step, "metrics": dict(metrics), **self._settings}
        write_torch(path, content)

    def keep(self, model: dict[str, Tensor], *, step: int, metrics: Mapping[str, float], newest: int) -> None:
        """Write the weights of one test besides the best, and remove all such files but the newest."""
        self.write_weights(self.checkpoints / f"step-{step:08d}.pt", model, step=step, metrics=metrics)
        for old in sorted(self.checkpoints.glob("step-*.pt"))[:-newest]:
            old.unlink()


def load_weights_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of trained weights (best.pt) without running any code of it.

    Returns:
        "model": the network's state_dict on the CPU; "config", "about": the settings it was trained with; "step";
        "metrics": of its test.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
    except Exception as error:  # whatever a damaged or foreign file provokes, the user learns which file it was
        raise ValueError(
            f"{path} is not a file of trained weights, such as checkpoints/best.pt of a run; or it is damaged"
        ) from error
    if found != WEIGHTS_FORMAT:
        hint = "; best.pt beside it holds the weights" if path.name == "last.pt" else ""
        raise ValueError(f"{path}: its format is {found!r}, expected {WEIGHTS_FORMAT!r}{hint}")
    return content


def _environment(step: int, device: torch.device, processes: int) -> dict[str, Any]:
    versions = {"torch-nonlocal": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "from_step": step,
        "command": sys.argv,
        "device": f"{device}: {name}",
        "processes": processes,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "versions": versions,
    }
