"""Training of action recognition. The settings are saved with the weights, so a test needs only that file."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.optional import is_installed
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.dataset import collate_clips
from torch_nonlocal.distributed.rank import main_process_log
from torch_nonlocal.models.inputs import inputs_of
from torch_nonlocal.tasks.action.balance import (
    ACCURACY,
    MEAN_AP,
    ClassCounts,
    balanced,
    class_shares,
    loss_weights,
)
from torch_nonlocal.tasks.action.board_pictures import attention_image, confusion_image
from torch_nonlocal.tasks.action.data import Source, Views, source
from torch_nonlocal.tasks.action.dropout import add_dropout
from torch_nonlocal.tasks.action.earlier_runs import about_as_begun, as_begun
from torch_nonlocal.tasks.action.evaluation import predict
from torch_nonlocal.tasks.action.losses import ClassLoss, accuracy
from torch_nonlocal.tasks.action.metrics import Scores, score
from torch_nonlocal.tasks.action.mixing import Mixing
from torch_nonlocal.tasks.action.multi_label import score_multi_label
from torch_nonlocal.tasks.action.network import network, set_saved_inputs, start_from
from torch_nonlocal.tasks.action.run_split import VALIDATION, record_of_weights, record_tensors
from torch_nonlocal.tasks.action.settings import AUTO, IMAGENET, NONE, PLACES, ActionSettings, resumed_settings
from torch_nonlocal.tasks.base import OnError
from torch_nonlocal.tasks.left_out import LEFT_OUT, write_left_out
from torch_nonlocal.training import BatchSampler, Metric, Result, Task, TrainConfig, fit, is_begun
from torch_nonlocal.training.class_sampler import ClassBatches
from torch_nonlocal.training.items import Items
from torch_nonlocal.training.run_folder import saved_about, saved_items

_VALIDATION_VIEWS = 2


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

    If the data have no split, a fifth is held out for validation. A resumed run keeps the split of its clips.

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
    saved = saved_about(run_dir) if is_begun(run_dir) else None
    kept = saved_items(run_dir) if saved is not None else None
    known = record_of_weights(settings.weights)
    if saved is not None:
        settings = resumed_settings(settings, saved)
        # The file of initial weights may be gone.
        known |= record_of_weights(str(run_dir / "checkpoints" / "best.pt"))
    clips = source(data, settings, on_error, kept=kept, known=known)
    settings = of_data(settings, clips)
    settings = settings if saved is None else as_begun(settings, saved)
    counts = _counts(clips, settings)
    settings, choices = balanced(settings, counts)
    torch.manual_seed(config.seed)
    model = network(settings, len(clips.classes))
    if settings.dropout:
        add_dropout(model, settings.dropout)
    say = main_process_log(log)
    if saved is None:
        say(start_from(model, settings, clips.classes))
    else:  # the weights come from the checkpoint
        set_saved_inputs(model, saved)
    for line in (clips.summary, *clips.notes, *choices):
        say(line)
    clips.check(settings)
    broken = BrokenClips(run_dir / "broken.jsonl")
    training, names = clips.training(settings, config.seed, broken)
    views = clips.validation(settings, _VALIDATION_VIEWS, broken)
    problems = clips.problems + clips.left_out
    task = ActionTask(model, training, settings, config, clips.classes, views, names, problems, counts)
    task.extra = {"split": record_tensors(clips.record)}
    if saved is not None:
        task.about = about_as_begun(task.about, saved)
    result = fit(task, config, run_dir, log=log)
    if len(broken):
        say(f"clips that could not be read: {len(broken)}, listed in {broken.path}")
    for name in clips.unreadable_classes(broken):
        say(f"warning: no training clip of class {printable(name)!r} could be read")
    if clips.problems:
        say(f"problems in lists, and classes without clips: {len(clips.problems)}, listed in {run_dir / LEFT_OUT}")
    if clips.left_out:
        say(f"files that are no clips: {len(clips.left_out)}, listed in {run_dir / LEFT_OUT}")
    return result


def check_data(
    data: Path | None, settings: ActionSettings, *, on_error: OnError = "skip", log: Callable[[str], None]
) -> None:
    """Find the clips, open training and validation clips, and build the network, without training.

    Weights that would be downloaded are not loaded.

    Raises:
        FileNotFoundError: the file of initial weights does not exist.
        ValueError: as `train` does before the first step.
        ImportError: a package is not installed; the message names the extra.
    """
    clips = source(data, settings, on_error)
    settings = of_data(settings, clips)
    _, choices = balanced(settings, _counts(clips, settings))
    for line in (clips.summary, *clips.notes, *choices):
        log(line)
    for problem in clips.problems:
        log(f"problem: {problem}")
    clips.check(settings)
    without = settings if settings.weights != IMAGENET else replace(settings, weights=NONE)
    model = network(without, len(clips.classes))
    log(start_from(model, without, clips.classes) if without is settings else "weights: ImageNet")


def has_validation(data: Path, settings: ActionSettings, *, on_error: OnError = "skip") -> bool:
    """Whether the data of a run have validation clips.

    Raises:
        ValueError: as `train` does for the data.
    """
    clips = source(data, settings, on_error, known=record_of_weights(settings.weights))
    return clips.validation(of_data(settings, clips), 1, BrokenClips()) is not None


def of_data(settings: ActionSettings, clips: Source) -> ActionSettings:
    """The settings with `multi_label` and `frames` as the data have them.

    Raises:
        ValueError: clips have several classes and multi_label is False.
    """
    if clips.is_multi_label and settings.multi_label is False:
        raise ValueError("multi_label=False, but the data have clips of several classes; expected none or True")
    return replace(settings, frames=clips.frames, multi_label=True if clips.is_multi_label else settings.multi_label)


def _counts(clips: Source, settings: ActionSettings) -> ClassCounts:
    return ClassCounts(clips.labels, clips.classes, bool(settings.multi_label))


class ActionTask(Task):
    """Action recognition for `fit`: cross-entropy loss, and accuracy on validation clips.

    Where clips have several classes: binary cross-entropy of each class, and mean average precision.

    Args:
        model: maps clips (B, C, T, H, W) to logits (B, classes).
        data: training items (clip, label, index).
        settings: settings of the network.
        config: its batch size and number of workers are also used for the evaluation.
        classes: class names.
        views: views of the validation clips; None if there are none.
        names: maps the index of a clip to its name.
        problems: problems of the data, listed in the run folder.
        counts: of the training clips, which balance="loss" and "sampler" need.

    Raises:
        ValueError: mixup or cutmix with one clip per forward pass.
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
        problems: Sequence[str] = (),
        counts: ClassCounts | None = None,
    ) -> None:
        self._inputs = inputs_of(model)
        kept = {name: value for name, value in asdict(settings).items() if name not in PLACES}
        about = {"task": "action", **kept, "classes": list(classes), "inputs": self._inputs.to_dict()}
        super().__init__(model, data, about=about)
        self._multi_label = bool(settings.multi_label)
        metric = settings.metric if settings.metric != AUTO else MEAN_AP if self._multi_label else ACCURACY
        self.metric = None if views is None else Metric(metric)
        weights = None if counts is None else loss_weights(settings, counts)
        self._loss = ClassLoss(self._multi_label, weights, settings.label_smoothing)
        self._mixing = Mixing(settings.mixup, settings.cutmix)
        if self._mixing and config.batch_size == config.accumulate:
            raise ValueError(
                f"mixup={settings.mixup}, cutmix={settings.cutmix}: one clip per forward pass (batch_size="
                f"{config.batch_size}, accumulate={config.accumulate}); expected two or more, or neither"
            )
        self._sampled = counts if settings.balance == "sampler" else None
        self._scores: Scores | None = None
        self._config, self._views, self._names, self._problems = config, views, names, problems

    def sampler(self, batch_size: int, seed: int) -> BatchSampler:
        """All clips in each epoch, or classes more evenly with balance="sampler"."""
        if self._sampled is None:
            return super().sampler(batch_size, seed)
        labels = [label for label, *_ in self._sampled.labels]
        return ClassBatches(labels, class_shares(self._sampled), batch_size, seed)

    def fingerprint(self) -> Items:
        """The training clips and the validation clips."""
        items = dict(super().fingerprint())
        if self._views is not None:
            items[VALIDATION] = self._views.fingerprint()  # pyright: ignore[reportAttributeAccessIssue]
        return items

    def begin(self, run_dir: Path) -> None:
        """List the problems of the data."""
        write_left_out(run_dir, self._problems)

    def prepare(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The batch with normalized clips."""
        clips, labels, indices = batch
        return self._inputs.normalize(clips), labels, indices

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy in nats, and accuracy; where clips have several classes, the mean binary cross-entropy."""
        clips, labels, _ = batch
        mixed = self._mixing(clips) if self._mixing else None
        logits = model(clips if mixed is None else mixed.clips)
        loss = self._loss(logits, labels, mixed)
        if self._multi_label:
            return {"loss": loss}
        return {"loss": loss, "accuracy": accuracy(logits.detach(), labels, mixed)}

    def item_indices(self, batch: tuple[Tensor, Tensor, Tensor], requested: Sequence[int]) -> Sequence[int]:
        """The indices of the clips that were read; another clip replaces an unreadable one."""
        return batch[2].tolist()

    def item_name(self, index: int) -> str:
        """The name of a clip."""
        return self._names(index)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Top-1 accuracy, balanced accuracy, macro F1 and cross-entropy on the validation clips.

        Where clips have several classes: mean average precision ("mAP") and binary cross-entropy.
        """
        if self._views is None:
            return {}
        options: dict[str, Any] = {"batch": self._config.batch_size, "workers": self._config.workers}
        options |= {"prepare": self._inputs.normalize, "multi_label": self._multi_label}
        probabilities, labels, _ = predict(model, self._views, **options)
        if self._multi_label:
            loss = F.binary_cross_entropy(probabilities, labels)
            return {"mAP": score_multi_label(probabilities, labels).mean_ap, "loss": float(loss)}
        scores = self._scores = score(probabilities, labels)
        loss = F.nll_loss(probabilities.clamp_min(torch.finfo(torch.float32).tiny).log(), labels)
        of_classes = {"balanced_accuracy": scores.balanced_accuracy, "macro_f1": scores.macro_f1}
        return {"accuracy": scores.top1, **of_classes, "loss": float(loss)}

    def pictures(self, model: nn.Module) -> dict[str, Tensor]:
        """The confusion matrix, and the attention of a block on the middle validation clip.

        None where clips have several classes.
        """
        if self._views is None or self._scores is None or not is_installed("matplotlib"):
            return {}
        item = self._views[len(self._views) // 2]  # pyright: ignore[reportArgumentType]
        found = {"validation/confusion": confusion_image(self._scores, self.about["classes"])}
        if item is not None:
            view = item[0] if item[0].ndim == 4 else item[0][0]  # (crops, C, T, H, W)
            label = int(item[1])
            options: dict[str, Any] = {"prepare": self._inputs.normalize}
            found["attention/clip"] = attention_image(model, view, label, self.about["classes"], **options)
        return {name: image for name, image in found.items() if image is not None}
