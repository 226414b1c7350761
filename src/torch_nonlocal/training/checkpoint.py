"""The state of a run between two updates: all that is needed to go on as if nothing had happened.

Random numbers are not in it: they are seeded anew for every update and every clip (`sampler`), so the number of the
update restores them. Neither is the schedule: the learning rate is a function of the update. Optimiser states are kept
by parameter name and whole, so that a run may go on with another number of processes, sharded or not.
"""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common import files
from torch_nonlocal.distributed.processes import shared_out, whole
from torch_nonlocal.training.ema import Average, copy_into, tensors_of
from torch_nonlocal.training.errors import CheckpointError
from torch_nonlocal.training.precision import LossScale

FORMAT = "torch-nonlocal training state 1"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: updates done.
        epoch: of the next update, from 0.
        batch: place of the next update in its epoch, from 0.
        tested: updates done at the last test; -1 before the first.
        clips: in the training data.
        best: the best test so far: {"step", "metric", "value"}; None before the first.
        loss: of the last update.
        seconds: of training so far, over all starts.
        window: sums since the last line of the log, and how many updates they are of.
        finished: all is done.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tested: int = -1
    clips: int = 0
    best: dict[str, Any] | None = None
    loss: float | None = None
    seconds: float = 0.0
    window: dict[str, float] = field(default_factory=dict)
    finished: bool = False


@dataclass
class Training:
    """What changes while a network is trained."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    scale: LossScale
    average: Average | None
    progress: Progress


def capture(training: Training) -> dict[str, Any]:
    """The whole state as tensors on the CPU and plain values; every process must ask, all get it."""
    average = training.average
    return {
        "format": FORMAT,
        "progress": asdict(training.progress),
        "model": whole_on_cpu(tensors_of(training.model)),
        "optimiser": _capture_optimiser(training.model, training.optimiser),
        "scale": training.scale.state(),
        "average": None if average is None else whole_on_cpu(average.values),
    }


def restore(training: Training, state: dict[str, Any]) -> None:
    """Put a captured state into a network, optimiser and the rest, made as those that it was captured from.

    Raises:
        ValueError: the state is of another network or optimiser; nothing is changed then.
    """
    own = tensors_of(training.model)
    _check_same(own, state["model"])
    named = dict(training.model.named_parameters())
    trained = {id(one) for group in training.optimiser.param_groups for one in group["params"]}
    foreign = [name for name in state["optimiser"] if name not in named or id(named[name]) not in trained]
    if foreign:
        raise ValueError(f"the checkpoint trains {', '.join(foreign[:5])}, which this run does not train")
    copy_into(training.model, {name: shared_out(state["model"][name], like) for name, like in own.items()})
    _restore_optimiser(named, training.optimiser, state["optimiser"])
    training.scale.restore(state["scale"])
    if training.average is not None:
        for name, like in training.average.values.items():
            like.copy_(shared_out(state["average"][name], like))
    for name, value in state["progress"].items():
        setattr(training.progress, name, value)


def read(path: Path) -> dict[str, Any] | None:
    """The state in a file; None if there is no file. Reads tensors and plain values only, never code.

    Raises:
        ValueError: the file is damaged or not one of ours.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
    except Exception as error:  # whatever a damaged file provokes, the user learns which file it was
        raise ValueError(
            f"{path} cannot be read ({error}); move it away to start the run from its beginning"
        ) from error
    if found != FORMAT:
        raise ValueError(f"{path}: its format is {found!r}, expected {FORMAT!r}; name another run folder")
    return state


def is_begun(run_dir: str | os.PathLike[str]) -> bool:
    """Whether a run in this folder has trained weights to go on from.

    Raises:
        ValueError: its checkpoint is damaged.
    """
    saved = read(Path(run_dir, "checkpoints", "last.pt"))
    return saved is not None and saved["progress"]["step"] > 0


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a captured state atomically.

    Raises:
        CheckpointError: the disk is full or the file cannot be written; the file before it is intact.
    """
    write_torch(path, state)


def write_torch(path: Path, content: dict[str, Any]) -> None:
    """Write a torch.save file atomically.

    Raises:
        CheckpointError: the disk is full or the file cannot be written; the file before it is intact.
    """
    try:
        files.write_bytes(path, lambda file: torch.save(content, file))
    except OSError as error:
        raise CheckpointError(*error.args) from error


def whole_on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, whole and on the CPU, in memory of their own."""
    return {name: whole(one).detach().to("cpu", copy=True) for name, one in tensors.items()}


def _capture_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    states = {}
    for name, parameter in model.named_parameters():
        if parameter in optimiser.state:
            values = {key: whole(value) for key, value in optimiser.state[parameter].items()}
            states[name] = {
                key: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
                for key, value in values.items()
            }
    return states


def _restore_optimiser(
    named: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer, states: dict[str, dict[str, Any]]
) -> None:
    place = {id(one): i for i, one in enumerate(one for group in optimiser.param_groups for one in group["params"])}
    numbered = {
        place[id(named[name])]: {key: shared_out(value, named[name]) for key, value in values.items()}
        for name, values in states.items()
    }
    optimiser.load_state_dict({"state": numbered, "param_groups": optimiser.state_dict()["param_groups"]})


def _check_same(own: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    missing = [name for name in own if name not in saved]
    extra = [name for name in saved if name not in own]
    other = [name for name in own if name in saved and own[name].shape != saved[name].shape]
    if missing or extra or other:
        shapes = [f"{name} {tuple(saved[name].shape)} here {tuple(own[name].shape)}" for name in other[:3]]
        parts = [
            f"lacks {', '.join(missing[:3])}" if missing else "",
            f"has {', '.join(extra[:3])} besides" if extra else "",
            f"has {', '.join(shapes)}" if shapes else "",
        ]
        raise ValueError(f"the checkpoint is of another network: it {'; it '.join(part for part in parts if part)}")
