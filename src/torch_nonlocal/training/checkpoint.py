"""The state of a run between two steps: all that is needed to resume as if it had not been interrupted.

Random states are not part of it: they are seeded for every step and every item (`sampler`), so the step restores them.
Neither is the schedule: the learning rate is a function of the step. Optimizer states are saved by parameter name and
unsharded, so a run may resume with another number of processes, sharded or not.
"""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common.plain_values import check_entries, fits, settings_from, shown
from torch_nonlocal._common.tensor_files import read_content, write_content
from torch_nonlocal._common.text import listed
from torch_nonlocal.distributed.sharding import gather_full, shard_like
from torch_nonlocal.training.ema import EMA, copy_into, state_tensors
from torch_nonlocal.training.errors import CheckpointError
from torch_nonlocal.training.precision import LossScale

FORMAT = "torch-nonlocal training state 2"
_FORMAT_1 = "torch-nonlocal training state 1"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps done.
        epoch: epoch of the next step, from 0.
        batch: position of the next step in its epoch, from 0.
        evaluated: steps done at the last evaluation; -1 before the first.
        items: number of items in the training data.
        best: the best evaluation: {"step", "metric", "value"}; None before the first.
        not_better: evaluations in a row, up to the last one, without a better metric.
        loss: of the last step.
        seconds: training time, over all starts.
        window: sums since the last log line, and under "steps" the number of steps they cover.
        finished: whether the run is complete.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    evaluated: int = -1
    items: int = 0
    best: dict[str, Any] | None = None
    not_better: int = 0
    loss: float | None = None
    seconds: float = 0.0
    window: dict[str, float] = field(default_factory=dict)
    finished: bool = False


@dataclass
class TrainState:
    """What changes while a model is trained."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scale: LossScale
    ema: EMA | None
    progress: Progress
    channels_last: bool | None = None
    """Memory format; None until a trial has chosen it."""


def capture(state: TrainState) -> dict[str, Any]:
    """The whole state as CPU tensors and plain values; every process must call it, and all get it."""
    return {
        "format": FORMAT,
        "progress": asdict(state.progress),
        "model": full_on_cpu(state_tensors(state.model)),
        "optimizer": _capture_optimizer(state.model, state.optimizer),
        "scale": state.scale.state(),
        "ema": None if state.ema is None else full_on_cpu(state.ema.values),
        "channels_last": state.channels_last,
    }


def restore(state: TrainState, saved: dict[str, Any]) -> None:
    """Copy a captured state into a model, optimizer and the rest, built like those it was captured from.

    Raises:
        ValueError: if the state belongs to another model or optimizer; nothing is changed then.
    """
    own = state_tensors(state.model)
    _check_same(own, saved["model"])
    named = dict(state.model.named_parameters())
    trained = {id(one) for group in state.optimizer.param_groups for one in group["params"]}
    foreign = [name for name in saved["optimizer"] if name not in named or id(named[name]) not in trained]
    if foreign:
        raise ValueError(f"the checkpoint trains {listed(foreign)}, which this run does not train")
    for name, values in saved["optimizer"].items():
        shape = named[name].shape
        for key, value in values.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != shape:
                raise ValueError(f"the checkpoint has {key} {tuple(value.shape)} for {name}, expected {tuple(shape)}")
    if state.ema is not None:
        if saved["ema"] is None:
            raise ValueError("the checkpoint has no averaged weights (ema)")
        _check_same(state.ema.values, saved["ema"])
    copy_into(state.model, {name: shard_like(saved["model"][name], like) for name, like in own.items()})
    _restore_optimizer(named, state.optimizer, saved["optimizer"])
    state.scale.restore(saved["scale"])
    if state.ema is not None:
        for name, like in state.ema.values.items():
            like.copy_(shard_like(saved["ema"][name], like))
    for name, value in saved["progress"].items():
        setattr(state.progress, name, value)


def read(path: Path) -> dict[str, Any] | None:
    """The state in a file; None if there is no file. Reads tensors and plain values only, never code.

    Raises:
        ValueError: if the file is damaged or not a training state.
    """
    if not path.exists():
        return None
    try:
        saved = read_content(path)
    except ValueError as error:
        raise ValueError(f"{error}; move it away to restart the run") from error
    found = saved.get("format") if isinstance(saved, dict) else type(saved).__name__
    if found not in (FORMAT, _FORMAT_1):
        raise ValueError(f"{path}: its format is {shown(found)}, expected {FORMAT!r}; use another run folder")
    try:
        saved = _from_format_1(saved) if found == _FORMAT_1 else saved
        _check_entries(saved)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a training state: {shown(error)}; move it away to restart the run") from error
    return saved


def is_begun(run_dir: str | os.PathLike[str]) -> bool:
    """Whether the run in this folder has a checkpoint with at least one step done.

    Raises:
        ValueError: if its checkpoint is damaged.
    """
    saved = read(Path(run_dir, "checkpoints", "last.pt"))
    return saved is not None and saved["progress"]["step"] > 0


def write(path: Path, saved: dict[str, Any]) -> None:
    """Write a captured state atomically.

    Raises:
        CheckpointError: if the disk is full or the file cannot be written; the previous file is intact.
    """
    write_torch(path, saved)


def write_torch(path: Path, content: dict[str, Any]) -> None:
    """Write a torch.save file atomically.

    Raises:
        CheckpointError: if the disk is full or the file cannot be written; the previous file is intact.
    """
    try:
        write_content(path, content)
    except OSError as error:
        raise CheckpointError(*error.args) from error


def full_on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors by name, unsharded, on the CPU."""
    return {name: gather_full(one).detach().to("cpu", copy=True) for name, one in tensors.items()}


def _capture_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    states = {}
    for name, parameter in model.named_parameters():
        if parameter in optimizer.state:
            values = {key: gather_full(value) for key, value in optimizer.state[parameter].items()}
            states[name] = {
                key: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
                for key, value in values.items()
            }
    return states


def _restore_optimizer(
    named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, states: dict[str, dict[str, Any]]
) -> None:
    number = {id(one): i for i, one in enumerate(one for group in optimizer.param_groups for one in group["params"])}
    numbered = {
        number[id(named[name])]: {key: shard_like(value, named[name]) for key, value in values.items()}
        for name, values in states.items()
    }
    optimizer.load_state_dict({"state": numbered, "param_groups": optimizer.state_dict()["param_groups"]})


def _check_same(own: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    missing = [name for name in own if name not in saved]
    unexpected = [name for name in saved if name not in own]
    other = [name for name in own if name in saved and own[name].shape != saved[name].shape]
    if missing or unexpected or other:
        shapes = [f"{name} {tuple(saved[name].shape)}, expected {tuple(own[name].shape)}" for name in other]
        parts = [
            f"missing keys: {listed(missing, most=3)}" if missing else "",
            f"unexpected keys: {listed(unexpected, most=3)}" if unexpected else "",
            f"other shapes: {listed(shapes, most=3)}" if shapes else "",
        ]
        raise ValueError(f"the checkpoint belongs to another model: {'; '.join(part for part in parts if part)}")


def _check_entries(saved: dict[str, Any]) -> None:
    """Require the entries of a training state with their types; tensors are compared with the model's by `restore`.

    Raises:
        ValueError: an entry is missing or has another type.
    """
    check_entries(saved, {"progress": dict, "model": dict, "optimizer": dict, "scale": dict, "ema": dict | None})
    check_entries({"channels_last": saved.get("channels_last")}, {"channels_last": bool | None})
    check_entries(saved["scale"], {"value": float, "good": float})
    progress = settings_from(Progress, {**saved["progress"], "best": None, "window": {}})
    counts = (
        progress.step,
        progress.epoch,
        progress.batch,
        progress.items,
        progress.evaluated + 1,
        progress.not_better,
    )
    if min(counts) < 0 or progress.seconds < 0:
        raise ValueError("its progress is below 0")
    best, window = saved["progress"].get("best"), saved["progress"].get("window")
    if best is not None:
        check_entries(best, {"step": int, "metric": str, "value": float})
    if not isinstance(window, dict) or not all(fits(key, str) for key in window):
        raise ValueError("its window is not a dictionary of numbers")
    if not all(isinstance(value, int | float) for value in window.values()):
        raise ValueError("its window is not a dictionary of numbers")
    if window and not window.get("steps", 0) > 0:
        raise ValueError("its window has no steps")
    for name in ("model", "ema"):
        if not all(isinstance(one, Tensor) for one in (saved[name] or {}).values()):
            raise ValueError(f"its {name} is not tensors by name")
    if not all(isinstance(one, dict) for one in saved["optimizer"].values()):
        raise ValueError("its optimizer state is not by parameter name")


def _from_format_1(saved: dict[str, Any]) -> dict[str, Any]:
    """A state with the names of format 2."""
    progress, window = dict(saved["progress"]), dict(saved["progress"]["window"])
    progress["evaluated"], progress["items"] = progress.pop("tested"), progress.pop("clips")
    if window:
        window["steps"] = window.pop("updates")
    return {
        "format": FORMAT,
        "progress": {**progress, "window": window},
        "model": saved["model"],
        "optimizer": saved["optimiser"],
        "scale": saved["scale"],
        "ema": saved["average"],
    }
