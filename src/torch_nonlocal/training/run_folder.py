"""The folder of a run: configuration, environment, checkpoints and log.

config.json                    configuration, the task's `about`, and the former lengths of an extended run
data.json                      names and sizes of the items, if the task gives them; a run resumes on the same data
environment.json               versions and device, for each start
run.lock                       process that trains now
metrics.jsonl                  one line per logged step and per evaluation
tensorboard/                   the same as curves, pictures and hyperparameters, if TensorBoard is installed
checkpoints/last.pt            the whole state; a run resumes from it
checkpoints/best.pt            weights of the best evaluation, with the configuration; for testing and use
checkpoints/step-00001234.pt   weights of recent evaluations, with `keep`
"""

import json
import os
import platform
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common import files
from torch_nonlocal._common.files import printable
from torch_nonlocal._common.locks import locked
from torch_nonlocal._common.plain_values import check_entries, read_json, shown
from torch_nonlocal._common.tensor_files import read_content
from torch_nonlocal._common.text import near_path
from torch_nonlocal._version import __version__
from torch_nonlocal.training.checkpoint import write_torch
from torch_nonlocal.training.config import ADDED, HARMLESS, TrainConfig, current_names
from torch_nonlocal.training.errors import RunLengthError
from torch_nonlocal.training.items import Items, item_differences, plain_items

WEIGHTS_FORMAT = "torch-nonlocal weights 1"
_CONFIG, _DATA, _ENVIRONMENT = "config.json", "data.json", "environment.json"
_MOST_THREADS = 4096
_PACKAGES = ("torchvision", "accelerate", "av", "numpy", "timm")


class RunFolder:
    """Paths and small files of a run's folder.

    Args:
        path: created by `locked` if missing.
        config: configuration of the run.
        about: JSON values that identify the task (model, classes, data).
        extra: plain values and tensors that are saved with the weights.
    """

    def __init__(
        self, path: Path, config: TrainConfig, about: Mapping[str, Any], extra: Mapping[str, Any] | None = None
    ) -> None:
        self.path = path
        self._extra = dict(extra or {})
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.pt"
        self.best = self.checkpoints / "best.pt"
        self.metrics = path / "metrics.jsonl"
        self.board = path / "tensorboard"
        self._config = path / _CONFIG
        self._environment = path / _ENVIRONMENT
        self._data = path / _DATA
        self._items: Items = {}
        self._settings = {"config": config.plain(), "about": json.loads(json.dumps(dict(about)))}
        self._extend = config.extend
        self.former_ends: tuple[int, ...] = ()
        """Number of steps of the run before each extension."""

    def locked(self) -> AbstractContextManager[None]:
        """Context in which no other process can train in this folder.

        Raises:
            FolderInUseError: another process trains in it; the message says which, and since when.
        """
        return locked(self.path / "run.lock", "training")

    def differences(self, but: Collection[str] = ()) -> str:
        """The saved values that affect the weights and differ from the given ones, as text; "" if there are none.

        Args:
            but: names of values that may differ.

        Raises:
            ValueError: if config.json in the folder is not a run's.
        """
        held = self._saved_settings()
        if held is None:
            return ""
        saved = {**held["config"], **{f"about.{key}": value for key, value in held["about"].items()}}
        given = {
            **self._settings["config"],
            **{f"about.{key}": value for key, value in self._settings["about"].items()},
        }
        names = [name for name in {**saved, **given} if name not in HARMLESS and name not in but]
        differing = [name for name in names if saved.get(name) != given.get(name)]
        return ", ".join(
            f"{name} (saved: {_brief(saved.get(name))}, given: {_brief(given.get(name))})" for name in differing
        )

    def take_length(self, steps_per_epoch: int) -> None:
        """Compare the length of the begun run in the folder with the given one, and extend it if the user asks for it.

        Raises:
            RunLengthError: the given run is longer and `extend` is not set, or it is shorter.
            ValueError: if config.json in the folder is not a run's.
        """
        held = self._saved_settings()
        if held is None:
            return
        self._set_former_ends(held["former_ends"])
        saved, given = (_steps(config, steps_per_epoch) for config in (held["config"], self._settings["config"]))
        if given == saved:
            return
        lengths = f"a run of {_length(held['config'])}, given: {_length(self._settings['config'])}"
        if given < saved:
            raise RunLengthError(
                f"{self.path} holds {lengths}. A run cannot be shortened: the learning rates of its steps are those of "
                f"the longer run. {self.best} has its best weights so far; train a shorter run in another folder",
                can_extend=False,
            )
        if not self._extend:
            raise RunLengthError(
                f"{self.path} holds {lengths}. The schedule of the learning rate is that of the shorter run. Set "
                "`extend` to train further, at a tenth of the peak learning rate and then down to 0, or start a new "
                f"run in another folder from its weights, {self.best}",
                can_extend=True,
            )
        self._set_former_ends([*self.former_ends, saved])

    def _set_former_ends(self, ends: Sequence[int]) -> None:
        self.former_ends = tuple(ends)
        if ends:
            self._settings["former_ends"] = list(ends)

    def _saved_settings(self) -> dict[str, Any] | None:
        """What config.json holds, with the current names of the configuration; None if there is no such file."""
        if not self._config.exists():
            return None
        try:
            held = read_json(self._config, "the configuration of a run")
            ends = [int(end) for end in held.get("former_ends", [])]
            if ends != sorted({*ends}) or min(ends, default=1) < 1:
                raise ValueError(f"former_ends={ends}: expected increasing numbers of steps")
            config = {**ADDED, **current_names(held["config"])}
            return {"config": config, "about": dict(held["about"].items()), "former_ends": ends}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._config} is not the configuration of a run: {shown(error)}") from error

    def take_items(self, items: Items, *, check: bool) -> None:
        """Set the items of this start; `begin` writes them to data.json.

        Args:
            items: of the task.
            check: compare them with those that the run was trained on; a run of an older version has no list of them.

        Raises:
            ValueError: items are added, removed, changed or in another order; the message counts and names them. Or
                data.json is damaged.
        """
        self._items = plain_items(items)
        if not check or not self._data.exists():
            return
        try:
            saved = plain_items(read_json(self._data, "the data of a run")["items"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{self._data} is damaged; restore it, or delete it to resume without its check"
            ) from error
        found = item_differences(saved, self._items)
        if found:
            raise ValueError(
                f"{self.path} holds a run on other data: {found}. Use the same data to resume it, or another folder"
            )

    def begin(self, *, step: int, device: torch.device, processes: int) -> None:
        """Write the configuration and the list of items, and record this start in environment.json."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        files.write_json(self._config, self._settings)
        files.write_json(self._data, {"items": self._items}, indent=None)
        try:
            starts = list(read_json(self._environment, "the environment of a run")["starts"])
        except (OSError, ValueError, KeyError, TypeError):
            starts = []
        files.write_json(self._environment, {"starts": [*starts, _environment(step, device, processes)]})

    def write_weights(self, path: Path, model: dict[str, Tensor], *, step: int, metrics: Mapping[str, float]) -> None:
        """Write weights for use: the tensors, the configuration and the metrics of their evaluation."""
        content = {"format": WEIGHTS_FORMAT, "model": model, "step": step, "metrics": dict(metrics), **self._settings}
        if self._extra:
            content["extra"] = self._extra
        write_torch(path, content)

    def lost_best(self, best: Mapping[str, Any] | None, step: int) -> str:
        """What is wrong with best.pt, in a few words; "" if it holds the best evaluation, or there is none yet.

        Args:
            best: the best evaluation, as in the training state.
            step: steps done; an evaluation after them may have written best.pt before the run was killed.
        """
        if best is None:
            return ""
        try:
            found = load_weights_file(self.best)["step"]
        except FileNotFoundError:
            return "is missing"
        except (ValueError, OSError, KeyError):
            return "is damaged"
        return "" if found in (best["step"], step) else f"is of step {found}, expected {best['step']}"

    def keep(self, model: dict[str, Tensor], *, step: int, metrics: Mapping[str, float], newest: int) -> None:
        """Write the weights of an evaluation in addition to the best, and remove all such files except the newest."""
        self.write_weights(self.checkpoints / f"step-{step:08d}.pt", model, step=step, metrics=metrics)
        for old in sorted(self.checkpoints.glob("step-*.pt"))[:-newest]:
            old.unlink()


def saved_about(run_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The `about` of the run in a folder; None if there is none, or its config.json is not a run's."""
    try:
        about = read_json(Path(run_dir, _CONFIG), "the configuration of a run")["about"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return about if isinstance(about, dict) else None


def saved_format(run_dir: str | os.PathLike[str]) -> bool | None:
    """Whether the configuration of the run in a folder asks for channels-last; None for auto, or if there is no run."""
    try:
        found = read_json(Path(run_dir, _CONFIG), "the configuration of a run")["config"]["channels_last"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, bool) else None


def saved_threads(run_dir: str | os.PathLike[str]) -> int | None:
    """Number of threads at the last start of the run in a folder, on a CPU; None if there is no such run."""
    try:
        start = read_json(Path(run_dir, _ENVIRONMENT), "the environment of a run")["starts"][-1]
        device, threads = start["device"], start["threads"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    is_valid = isinstance(threads, int) and 1 <= threads <= _MOST_THREADS and str(device).startswith("cpu")
    return threads if is_valid else None


def _steps(config: Mapping[str, Any], steps_per_epoch: int) -> int:
    return config["steps"] if config.get("steps") is not None else (config.get("epochs") or 0) * steps_per_epoch


def _length(config: Mapping[str, Any]) -> str:
    """The length of a run as the configuration gives it."""
    name = "steps" if config.get("steps") is not None else "epochs"
    number = config.get(name) or 0
    return f"{number:,} {name if number != 1 else name[:-1]}"


def saved_items(run_dir: str | os.PathLike[str]) -> Items | None:
    """The items of the run in a folder; None if there is no list of them, or it is damaged."""
    try:
        return plain_items(read_json(Path(run_dir, _DATA), "the data of a run")["items"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _brief(value: Any) -> str:
    return printable(textwrap.shorten(repr(value), 200, placeholder=" ..."))


def _unfinished(path: Path) -> str:
    """A hint for missing weights of a run that was interrupted before it saved weights; "" for other files."""
    is_begun = path.name == "best.pt" and path.with_name("last.pt").exists()
    return ": the run has not saved weights yet; rerun its `nonlocal train` command to resume" if is_begun else ""


def load_weights_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of trained weights (best.pt) without executing any code in it.

    Returns:
        "model": state_dict on the CPU; "config", "about": what it was trained with; "step"; "metrics": of its
        evaluation; "extra": `Task.extra`, if the task has any.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a file of trained weights.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}{_unfinished(path) or near_path(path)}")
    content = read_content(path)
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != WEIGHTS_FORMAT:
        hint = "; best.pt in the same folder holds the weights" if path.name == "last.pt" else ""
        raise ValueError(f"{path}: its format is {shown(found)}, expected {WEIGHTS_FORMAT!r}{hint}")
    try:
        check_entries(content, {"model": dict, "config": dict, "about": dict, "step": int, "metrics": dict})
        if not all(isinstance(name, str) and isinstance(one, Tensor) for name, one in content["model"].items()):
            raise ValueError("its model is not tensors by name")
    except ValueError as error:
        raise ValueError(f"{path} is not a file of trained weights: {error}") from error
    return {**content, "config": current_names(content["config"])}


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
