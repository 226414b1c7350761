"""The training loop: steps, evaluations and checkpoints in an order that no interruption changes."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from torch_nonlocal.distributed.processes import Processes, lost_processes
from torch_nonlocal.training import checkpoint
from torch_nonlocal.training.callbacks.log import Log, PrintLine
from torch_nonlocal.training.config import TrainConfig
from torch_nonlocal.training.evaluator import Evaluator
from torch_nonlocal.training.job import Job
from torch_nonlocal.training.optimizer import EXTENSION_FACTOR
from torch_nonlocal.training.precision import check_precision, flushed_denormals, memory_errors
from torch_nonlocal.training.run_folder import RunFolder, saved_format, saved_threads
from torch_nonlocal.training.sampler import BatchSampler, RankBatchSampler
from torch_nonlocal.training.signals import StopRequest
from torch_nonlocal.training.step import StepResult, choose_memory_format, train_step
from torch_nonlocal.training.task import Task

Status = Literal["finished", "stopped", "finished before"]

_RESUME = "rerun the command to resume"


@dataclass(frozen=True)
class Result:
    """The outcome of a call of `fit`.

    Attributes:
        status: "finished", also if `patience` ended the run; "stopped": interrupted by a signal such as Ctrl-C, with a
            checkpoint; "finished before": the run was already complete.
        step: steps done, over all calls.
        steps: steps of the whole run.
        loss: mean loss of the last step's batch; None if there was no step.
        best: the best evaluation: {"step", "metric", "value"}; None if there was none.
        weights: file of the best weights; see `load_weights_file`.
        run_dir: folder of the run.
        seconds: training time, over all calls.
    """

    status: Status
    step: int
    steps: int
    loss: float | None
    best: dict[str, Any] | None
    weights: Path
    run_dir: Path
    seconds: float


def fit(task: Task, config: TrainConfig, run_dir: str | Path, *, log: PrintLine | None = None) -> Result:
    """Train a task's model. Called again with the same arguments, it resumes from the last checkpoint.

    On CPUs, a run that was killed at any moments and resumed with the same number of threads ends with bit for bit the
    weights of an uninterrupted run, if model and data draw random numbers only from torch, NumPy or Python.

    Run it alone for one process, or by `accelerate launch` or torchrun for several; all processes make the same call.

    Args:
        task: what is trained. Its model is trained in place and moved to the device; afterwards it is in eval mode and
            has the last weights. With FSDP2 its parameters stay sharded.
        config: training options.
        run_dir: folder of the run; see `run_folder`.
        log: called with each message, one line, also from another thread; None shows a progress bar in a terminal and
            prints to stderr elsewhere.

    Raises:
        RunLengthError: if the folder holds a run of another length, and `config.extend` does not permit a longer one.
        ValueError: if options do not fit each other, the device or the data, or the folder holds another run, a run on
            other data, or one that another process trains at the moment.
        NonFiniteLossError: if the loss or its gradient is NaN or infinite; the message names the items.
        TrainingMemoryError: out of memory; the message names the options to lower.
        CheckpointError: if the disk is full; the last checkpoint is intact.
        WorkerError: if processes that load data die repeatedly.
        ProcessLostError: if another process of the run ended; the last checkpoint is intact.
        ImportError: if accelerate is missing.
    """
    processes = Processes()
    check_precision(config, processes.device)
    if config.patience and task.metric is None:
        raise ValueError(f"patience={config.patience}: the task has no metric, expected patience=0 or validation data")
    config = _with_saved_format(config, run_dir)
    sampler = task.sampler(config.batch_size, config.seed)
    if sampler.batch_size != config.batch_size:
        raise ValueError(
            f"the task's sampler has batches of {sampler.batch_size} items, expected batch_size={config.batch_size}"
        )
    part = RankBatchSampler(sampler, config.accumulate, processes.count, processes.rank).size
    folder = RunFolder(Path(run_dir), config, task.about, task.extra)
    with StopRequest() as request, memory_errors(config, part), lost_processes(processes), ExitStack() as lock:
        processes.in_main(lambda: lock.enter_context(folder.locked()))
        saved = _saved_state(folder, sampler)
        processes.in_main(lambda: folder.take_items(task.fingerprint(), check=_has_steps(saved)))
        saved = _same_count(folder, saved, sampler)
        processes.wait()  # every process reads before any writes
        job = Job(task, config, folder, processes, sampler, saved)
        with flushed_denormals(processes.device):
            status = _run(job, request, log)
    task.model.eval()
    progress = job.progress
    return Result(
        status, progress.step, job.steps, progress.loss, progress.best, folder.best, folder.path, progress.seconds
    )


def _with_saved_format(config: TrainConfig, run_dir: str | Path) -> TrainConfig:
    """The configuration with the memory format of a begun run whose configuration states it, if none is asked for."""
    saved = saved_format(run_dir) if config.channels_last == "auto" else None
    return config if saved is None or not checkpoint.is_begun(run_dir) else replace(config, channels_last=saved)


def _saved_state(folder: RunFolder, sampler: BatchSampler) -> dict[str, Any] | None:
    """The state to resume from; None for a new run.

    Raises:
        ValueError: if the folder holds another run.
    """
    saved = checkpoint.read(folder.last)
    if not _has_steps(saved):
        return None if folder.differences() else saved  # nothing was trained with the saved configuration
    if folder.differences(but=("epochs", "steps")):
        raise ValueError(
            f"{folder.path} holds a run with another configuration: {folder.differences()}. "
            "Use the saved configuration to resume it, or another folder"
        )
    folder.take_length(sampler.steps_per_epoch)
    return saved


def _has_steps(saved: dict[str, Any] | None) -> bool:
    return saved is not None and saved["progress"]["step"] > 0


def _same_count(folder: RunFolder, saved: dict[str, Any] | None, sampler: BatchSampler) -> dict[str, Any] | None:
    """The state to resume from, if it is of as many items; None if nothing was trained on another number of items.

    Raises:
        ValueError: if the run was trained on another number of items.
    """
    if saved is not None and saved["progress"]["items"] != sampler.items:
        if not _has_steps(saved):
            return None
        raise ValueError(
            f"{folder.path} holds a run on {saved['progress']['items']} training items, given: {sampler.items}. "
            "Use the same data to resume it, or another folder"
        )
    return saved


def _run(job: Job, request: StopRequest, print_line: PrintLine | None) -> Status:
    """Do all that is left of a run."""
    progress, folder = job.progress, job.folder
    is_main = job.processes.is_main
    lost = job.processes.in_main(lambda: folder.lost_best(progress.best, progress.step))
    if lost:
        progress.finished = False
        progress.evaluated = min(progress.evaluated, progress.step - 1)  # the current weights can be evaluated again
    progress.finished = progress.finished and job.is_over  # it may have been extended
    if progress.finished:
        if is_main:
            how = job.patience_ended or f"{progress.step:,} steps"
            (print_line or print)(f"{folder.path}: the run is finished ({how}); nothing to do")
        return "finished before"
    threads = saved_threads(folder.path) if is_main and not job.is_new else None
    if is_main:
        folder.begin(step=progress.step, device=job.processes.device, processes=job.processes.count)
        job.task.begin(folder.path)
    done = {"step": progress.step, "evaluated": progress.evaluated}
    done["batch_size"] = job.sampler.batch_size
    log = Log(folder.metrics, folder.board, steps=job.steps, **done, print_line=print_line, silent=not is_main)
    with log:
        if lost:
            log.message(f"{folder.best} {lost}: its weights are lost; the next evaluation replaces it")
        if job.is_new:
            job.save()  # the untrained weights: a run killed at once starts again from the same ones
        else:
            log.message(f"{folder.path}: resuming from the checkpoint after {progress.step:,} of {job.steps:,} steps")
            if threads not in (None, torch.get_num_threads()):
                own = torch.get_num_threads()
                log.message(f"number of threads: {own}, before: {threads}; results may differ in the last digits")
        if folder.former_ends:
            steps = " and ".join(f"{end:,}" for end in folder.former_ends)
            rule = f"lr {EXTENSION_FACTOR * job.config.lr:g} for half of the new steps, then linearly to 0"
            log.message(f"extended after {steps} steps: {rule}")
        if progress.step < job.frozen_steps:
            until = "" if job.config.freeze_backbone < 0 else f" in the first {job.frozen_steps:,} steps"
            log.message(f"only the last layer and the blocks are trained{until}")
        return _train(job, request, log)


def _train(job: Job, request: StopRequest, log: Log) -> Status:
    progress, evaluator, clock = job.progress, Evaluator(job), _Clock()
    parts: Iterator[Any] | None = None
    stop, alone = False, job.processes.count == 1

    def flags() -> list[bool]:
        return [request.requested, clock.since_saved() >= 60 * job.config.checkpoint_minutes]

    job.train_mode()
    with ExitStack() as loaders:
        while not stop:
            if evaluator.is_due():
                job.save()  # an evaluation may take long; the training so far is safe
                log.doing("validation")
                try:
                    metrics = evaluator.run(log.pictures if log.has_board else None)
                except Exception:
                    if alone and request.requested:  # the signal may have ended worker processes of the task
                        log.message(f"interrupted in the validation after {progress.step:,} steps; {_RESUME}")
                        return "stopped"
                    raise
                log.evaluation(progress.step, metrics)
                job.save()
                clock.saved()
                clock.lap()
            if job.is_over:
                progress.finished = True
                if job.patience_ended:
                    log.message(job.patience_ended)
                log.hyperparameters({**job.config.plain(), **job.task.about}, progress.best)
                break
            if alone and request.requested:  # several processes agree after a step
                stop = True
                break
            if parts is None:  # workers start only if a step is left
                loader = loaders.enter_context(job.loader(progress.step, job.steps, log.message))
                parts = _announced(loader, log)
                if job.state.channels_last is None:
                    line, parts = choose_memory_format(job, parts)
                    log.message(line)
                    clock.lap()
            if progress.step == job.frozen_steps > 0:
                job.train_mode()
                log.message(f"the whole network is trained from step {progress.step + 1:,} on")
            result = train_step(job, parts, flags)
            _advance(job, result, clock.lap(), log)
            stop, checkpoint_due = result.flags
            if checkpoint_due and not evaluator.is_due():  # an evaluation begins with a checkpoint
                job.save()
                clock.saved()
        job.save()  # before the workers end, which may take seconds
    if stop:
        log.message(f"interrupted; checkpoint saved after {progress.step:,} steps; {_RESUME}")
    return "stopped" if stop else "finished"


def _announced(parts: Iterator[Any], log: Log) -> Iterator[Any]:
    """The same parts; the log knows whether they are awaited or computed."""
    while True:
        log.doing("waiting for data")
        part = next(parts, None)
        if part is None:
            return
        log.doing("computing")
        yield part


def _advance(job: Job, result: StepResult, seconds: float, log: Log) -> None:
    """Count a step, update the averaged weights, and log."""
    progress, length = job.progress, job.sampler.steps_per_epoch
    progress.step += 1
    progress.epoch, progress.batch = divmod(progress.step, length)
    progress.loss = result.scalars["loss"]
    progress.seconds += seconds
    if job.state.ema is not None:
        job.state.ema.update(job.model, progress.step)
    sums = {**result.scalars, "gradient_norm": result.gradient_norm}
    for name, value in {**sums, "seconds": seconds, "waited": result.waited, "steps": 1}.items():
        progress.window[name] = progress.window.get(name, 0.0) + value
    log.stepped(progress.step, progress.loss, seconds)
    if progress.step % job.config.log_every == 0 or progress.step == job.steps:
        window, progress.window = progress.window, {}
        line = {name: window[name] / window["steps"] for name in sums if not math.isnan(window[name])}
        line |= {
            "lr": result.lr,
            "epoch": round(progress.step / length, 4),
            "items_per_second": job.sampler.batch_size * window["steps"] / max(window["seconds"], 1e-9),
            "waiting_for_data": window["waited"] / max(window["seconds"], 1e-9),
            "seconds": progress.seconds,
        }
        log.train(progress.step, line)


class _Clock:
    """Seconds since the last step and since the last checkpoint."""

    def __init__(self) -> None:
        self._lap = self._saved = time.monotonic()

    def lap(self) -> float:
        before, self._lap = self._lap, time.monotonic()
        return self._lap - before

    def saved(self) -> None:
        self._saved = time.monotonic()

    def since_saved(self) -> float:
        return time.monotonic() - self._saved
