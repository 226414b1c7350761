"""The loop: updates, tests and checkpoints, in an order that no interruption can change."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal.distributed.processes import Processes
from torch_nonlocal.training import checkpoint as states
from torch_nonlocal.training.callbacks.log import Log, Say, board_writer
from torch_nonlocal.training.config import TrainConfig
from torch_nonlocal.training.evaluator import Tests
from torch_nonlocal.training.job import Evaluate, Given, Job
from torch_nonlocal.training.precision import check_precision, memory_errors
from torch_nonlocal.training.run_folder import RunFolder
from torch_nonlocal.training.sampler import RankBatchSampler, ShuffledBatches
from torch_nonlocal.training.signals import StopRequest
from torch_nonlocal.training.update import Updated, update

Status = Literal["finished", "stopped", "finished before"]


@dataclass(frozen=True)
class Result:
    """How a call of `fit` ended.

    Attributes:
        status: "finished"; "stopped" by SIGTERM or Ctrl-C with a checkpoint written; "finished before": this run was
            complete when it was called.
        step: updates done, over all calls.
        steps: updates of the whole run.
        loss: of the last update, a mean over its clips.
        best: the best test: {"step", "metric", "value"}; None if there was none.
        weights: file of the best weights; see `load_weights_file`.
        run_dir: the run's folder.
        seconds: of training, over all calls.
    """

    status: Status
    step: int
    steps: int
    loss: float | None
    best: dict[str, Any] | None
    weights: Path
    run_dir: Path
    seconds: float


def fit(
    model: nn.Module,
    train_data: Any,
    config: TrainConfig,
    run_dir: str | Path,
    *,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
    evaluate: Evaluate | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    prepare: Callable[[Any], Any] | None = None,
    names: Callable[[int], str] | None = None,
    about: Mapping[str, Any] | None = None,
    log: Say | None = None,
) -> Result:
    """Train a network; called again with the same arguments it goes on where it was, with the same numbers.

    On CPUs the weights of a run that was killed at any moments, and started again each time, are bit for bit those of
    a run never interrupted, if the network and the data set draw random numbers from torch, NumPy or Python alone.

    Start it by itself for one process, by `accelerate launch` or torchrun for several; all of them call it alike.

    Args:
        model: trained in place, and moved to the device; afterwards in eval mode, with the last weights. With FSDP2 its
            parameters stay sharded.
        train_data: map-style: (input, label) or (input, label, index). May have `set_epoch(epoch)`. Its random draws
            are seeded for each clip and epoch.
        config: the settings.
        run_dir: folder of this run; see `run_folder`.
        loss: of the model's output and the batch of labels, a mean over the batch.
        evaluate: called with the model in eval mode, without gradients, by every process; gives numbers of which
            "accuracy", else the first, tells the best weights: the higher, the better. Without it the newest are best.
        collate: makes a batch (inputs, labels, indices) of items (input, label, index), for torch's default.
        prepare: makes the model's input of a batch of inputs, on the device (normalisation, say); None leaves it.
        names: the name of a clip, by index, for messages.
        about: what else tells this run from another, as JSON values; kept with the weights.
        log: gets messages, a line each; None shows a progress bar, or prints to stderr.

    Returns:
        How it ended.

    Raises:
        ValueError: settings that do not fit each other, the device or the data; a folder with another run in it.
        NonFiniteLossError: the loss or its gradient is NaN or infinite; names the clips.
        TrainingMemoryError: out of memory; names the settings to lower.
        CheckpointError: the disk is full; the last checkpoint is intact.
        ImportError: accelerate or TensorBoard is missing.
    """
    board_writer()  # a missing package is said before anything is done
    processes = Processes()
    check_precision(config, processes.device)
    order = ShuffledBatches(len(train_data), config.batch_size, config.seed)
    part = RankBatchSampler(order, config.accumulate, processes.count, processes.rank).size
    folder = RunFolder(Path(run_dir), config, about or {})
    saved, differences = states.read(folder.last), folder.differences()
    if differences:
        if saved is not None and saved["progress"]["step"] > 0:
            raise ValueError(
                f"{folder.path} holds a run with other settings: {differences}. Give the same ones to go on, "
                "or another folder"
            )
        saved = None  # nothing was trained with them
    if saved is not None and saved["progress"]["clips"] != order.items:
        raise ValueError(
            f"{folder.path} holds a run on {saved['progress']['clips']} training clips; here are {order.items}. "
            "Give the same data to go on, or another folder"
        )
    processes.wait()  # nobody writes before everybody has read
    given = Given(train_data, loss, evaluate, collate, names or "clip {}".format, prepare or _as_it_is)
    with memory_errors(config, part):
        job = Job(model, given, config, folder, processes, order, saved)
        status = _go(job, log)
    model.eval()
    progress = job.progress
    return Result(
        status, progress.step, job.steps, progress.loss, progress.best, folder.best, folder.path, progress.seconds
    )


def _as_it_is(inputs: Any) -> Any:
    return inputs


def _go(job: Job, say: Say | None) -> Status:
    """Everything that is still to be done."""
    progress, folder = job.progress, job.folder
    is_main = job.processes.is_main
    if progress.finished:
        if is_main:
            (say or print)(f"{folder.path}: this run is finished ({progress.step:,} updates); nothing to do")
        return "finished before"
    if is_main:
        folder.begin(step=progress.step, device=job.processes.device, processes=job.processes.count)
    done = {"step": progress.step, "tested": progress.tested}
    log = Log(folder.metrics, folder.board, steps=job.steps, **done, say=say, silent=not is_main)
    with StopRequest() as request, log:
        if job.is_new:
            job.save()  # of the untrained weights: a run killed at once starts from the same ones
        else:
            log.say(f"{folder.path}: going on after {progress.step:,} of {job.steps:,} updates")
        return _updates(job, request, log)


def _updates(job: Job, request: StopRequest, log: Log) -> Status:
    progress, tests, clock = job.progress, Tests(job), _Clock()
    batches: Iterator[Any] | None = None
    stop = False

    def flags() -> list[bool]:
        return [request.asked, clock.since_saved() >= 60 * job.config.checkpoint_minutes]

    job.train_mode()
    while not stop:
        if tests.is_due():
            job.save()  # a test may take long: what was trained is safe
            metrics = tests.run()
            log.test(progress.step, metrics)
            job.save()
            clock.saved()
            clock.lap()
        if progress.step == job.steps:
            progress.finished = True
            break
        if batches is None:  # workers start only if there is something to do
            batches = iter(job.loader(progress.step, job.steps))
        done = update(job, batches, flags)
        _count(job, done, clock.lap(), log)
        stop, due = done.flags
        if due and not tests.is_due():  # a test begins with a checkpoint
            job.save()
            clock.saved()
    job.save()
    if stop:
        log.say(f"asked to stop: checkpoint after {progress.step:,} updates; the same command goes on")
    return "stopped" if stop else "finished"


def _count(job: Job, done: Updated, seconds: float, log: Log) -> None:
    """Move on by an update."""
    progress, length = job.progress, job.order.steps_per_epoch
    progress.step += 1
    progress.epoch, progress.batch = divmod(progress.step, length)
    progress.loss = done.loss
    progress.seconds += seconds
    if job.training.average is not None:
        job.training.average.update(job.model, progress.step)
    sums = {"loss": done.loss, "accuracy": done.accuracy, "gradient_norm": done.gradient_norm}
    for name, value in {**sums, "seconds": seconds, "waited": done.waited, "updates": 1}.items():
        progress.window[name] = progress.window.get(name, 0.0) + value
    log.moved(progress.step, done.loss)
    if progress.step % job.config.log_every == 0 or progress.step == job.steps:
        window, progress.window = progress.window, {}
        line = {name: window[name] / window["updates"] for name in sums if not math.isnan(window[name])}
        line |= {
            "lr": done.lr,
            "epoch": round(progress.step / length, 4),
            "clips_per_second": job.config.batch_size * window["updates"] / max(window["seconds"], 1e-9),
            "waiting_for_data": window["waited"] / max(window["seconds"], 1e-9),
            "seconds": progress.seconds,
        }
        log.update(progress.step, line)


class _Clock:
    """Time since the last update and since the last checkpoint, in seconds."""

    def __init__(self) -> None:
        self._lap = self._saved = time.monotonic()

    def lap(self) -> float:
        before, self._lap = self._lap, time.monotonic()
        return self._lap - before

    def saved(self) -> None:
        self._saved = time.monotonic()

    def since_saved(self) -> float:
        return time.monotonic() - self._saved
