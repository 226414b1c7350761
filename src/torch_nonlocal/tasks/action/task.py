"""Training of action recognition. The settings are saved with the weights, so a test needs only that file."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.dataset import collate_clips
from torch_nonlocal.tasks.action.data import Views, source
from torch_nonlocal.tasks.action.evaluation import predict
from torch_nonlocal.tasks.action.metrics import score
from torch_nonlocal.tasks.action.network import network, prepare, start_from
from torch_nonlocal.tasks.action.settings import ActionSettings
from torch_nonlocal.tasks.base import OnError
from torch_nonlocal.training import Metric, Result, Task, TrainConfig, fit, is_begun, is_main_process

_VALIDATION_VIEWS = 2
LEFT_OUT = "left_out.txt"
"""File in the run folder with one line per problem in the lists of clips and per class without clips."""


def train(
    data: Path | None,
    run_dir: Path,
    settings: ActionSettings,
    config: TrainConfig,
    *,
    on_error: OnError = "skip",
    log: Callable[[str], None] | None = None,
) -> Result:
    """Train on a folder or list of clips, or resume the run in `run_dir`.

    If the data have no split, a fixed fifth of each class is held out and never trained on.

    Args:
        data: as in `data.clips.find_clips`; None for built-in moving digits.
        run_dir: folder of the run; unreadable clips are listed in its broken.jsonl.
        settings: model and data options.
        config: training options.
        on_error: "skip" or "fail" for clips that cannot be read.
        log: receives messages, one line each; None prints them.

    Raises:
        FileNotFoundError: the file of initial weights does not exist.
        ValueError: the data have no clips or a single class, or settings, data and weights do not fit.
        ImportError: a package is not installed; the message names the extra.
    """
    clips = source(data, settings, on_error)
    torch.manual_seed(config.seed)
    model = network(settings, len(clips.classes))
    say = (log or print) if is_main_process() else _ignore
    if not is_begun(run_dir):  # otherwise the weights come from the checkpoint
        say(start_from(model, settings, clips.classes))
    say(clips.summary)
    run_dir.mkdir(parents=True, exist_ok=True)
    if clips.problems and is_main_process():
        (run_dir / LEFT_OUT).write_text("".join(f"{problem}\n" for problem in clips.problems), encoding="utf-8")
    broken = BrokenClips(run_dir / "broken.jsonl")
    training, names = clips.training(settings, config.seed, broken)
    views = clips.validation(settings, _VALIDATION_VIEWS, broken)
    task = ActionTask(model, training, settings, config, clips.classes, views, names)
    result = fit(task, config, run_dir, log=log)
    if len(broken):
        say(f"clips that could not be read: {len(broken)}, listed in {broken.path}")
    if clips.problems:
        say(f"problems in lists, and classes without clips: {len(clips.problems)}, listed in {run_dir / LEFT_OUT}")
    return result


class ActionTask(Task):
    """Action recognition for `fit`: cross-entropy loss, and accuracy on held-out clips.

    Args:
        model: maps clips (B, C, T, H, W) to logits (B, classes).
        data: training items (clip, label, index).
        settings: settings of the network.
        config: its batch size and number of workers are also used for the evaluation.
        classes: class names.
        views: views of the held-out clips; None if there are none.
        names: maps the index of a clip to its name.
    """

    collate = staticmethod(collate_clips)

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        settings: ActionSettings,
        config: TrainConfig,
        classes: Sequence[str],
        views: Views | None,
        names: Callable[[int], str],
    ) -> None:
        super().__init__(model, data, about={"task": "action", **asdict(settings), "classes": list(classes)})
        self.metric = None if views is None else Metric("accuracy")
        self._settings, self._config, self._views, self._names = settings, config, views, names

    def prepare(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The batch with normalized clips."""
        clips, labels, indices = batch
        return prepare(self._settings, clips), labels, indices

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy in nats, and accuracy."""
        clips, labels, _ = batch
        logits = model(clips)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}

    def item_indices(self, batch: tuple[Tensor, Tensor, Tensor], requested: Sequence[int]) -> Sequence[int]:
        """The indices of the clips that were read; another clip replaces an unreadable one."""
        return batch[2].tolist()

    def item_name(self, index: int) -> str:
        """The name of a clip."""
        return self._names(index)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Top-1 accuracy, mean class accuracy and cross-entropy on the held-out clips."""
        if self._views is None:
            return {}
        options: dict[str, Any] = {"batch": self._config.batch_size, "workers": self._config.workers}
        probabilities, labels, _ = predict(model, self._views, **options, prepare=partial(prepare, self._settings))
        scores = score(probabilities, labels)
        loss = F.nll_loss(probabilities.clamp_min(torch.finfo(torch.float32).tiny).log(), labels)
        return {"accuracy": scores.top1, "mean_class": scores.mean_class, "loss": float(loss)}


def _ignore(line: str) -> None:
    pass
