"""Action recognition: from a folder of clips to a tested network.

`recipes.settings_for` chooses network, frames and crop for the machine; `train` trains, and goes on where it was;
`evaluate` scores. The settings go with the weights, so a file of weights is all that testing needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.clip_list import ClipList
from torch_nonlocal.data.dataset import collate_clips
from torch_nonlocal.data.moving_digits import RELATIONS
from torch_nonlocal.tasks.action.data import Views, source
from torch_nonlocal.tasks.action.metrics import Scores, score
from torch_nonlocal.tasks.action.network import ActionSettings, network, prepare, start_from
from torch_nonlocal.tasks.action.recipes import settings_for
from torch_nonlocal.training import (
    Metric,
    Result,
    Task,
    TrainConfig,
    fit,
    is_begun,
    is_main_process,
    load_weights_file,
)

__all__ = [
    "ActionSettings",
    "Tested",
    "evaluate",
    "load",
    "network",
    "predict",
    "prepare",
    "settings_for",
    "train",
]

_VALIDATION_VIEWS = 2
LEFT_OUT = "left_out.txt"
"""In the folder of a run: what is wrong in the lists of clips, and classes without clips, a line each."""


def train(
    data: Path | None,
    run_dir: Path,
    settings: ActionSettings,
    config: TrainConfig,
    *,
    on_error: str = "skip",
    log: Callable[[str], None] | None = None,
) -> Result:
    """Train on a folder or list of clips; the same call again goes on where it was.

    Clips without a split of their own: a fifth of each class is held out, always the same ones, and never trained on.

    Args:
        data: as for `data.clips.find_clips`; None for moving digits, which are built in.
        run_dir: folder of the run; broken clips are listed in its broken.jsonl.
        settings: what is trained.
        config: how.
        on_error: "skip" or "fail" for clips that cannot be read.
        log: gets messages.

    Raises:
        ValueError: data without clips or with one class, settings or weights that do not fit.
        FileNotFoundError: no such weights.
        ImportError: an extra is not installed.
    """
    clips = source(data, settings, on_error)
    torch.manual_seed(config.seed)
    model = network(settings, len(clips.classes))
    if not is_begun(run_dir):  # else the weights come from its checkpoint
        started = start_from(model, settings, clips.classes)
        if is_main_process():
            (log or print)(started)
    if is_main_process():
        (log or print)(clips.summary)
    run_dir.mkdir(parents=True, exist_ok=True)
    if clips.problems and is_main_process():
        (run_dir / LEFT_OUT).write_text("".join(f"{problem}\n" for problem in clips.problems), encoding="utf-8")
    broken = BrokenClips(run_dir / "broken.jsonl")
    training, names = clips.training(settings, config.seed, broken)
    views = clips.validation(settings, _VALIDATION_VIEWS, broken)
    return fit(ActionTask(model, training, settings, config, clips.classes, views, names), config, run_dir, log=log)


class ActionTask(Task):
    """Action recognition for `fit`: cross-entropy, and the accuracy on held-out clips.

    Args:
        model: takes clips (B, C, T, H, W), gives logits (B, classes).
        data: items (clip, label, index) to train on.
        settings: of the network.
        config: batch size and workers are those of the evaluation, too.
        classes: their names.
        views: views of the held-out clips; None without any.
        names: the name of a clip by its index.
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
        """The batch with its clips as the network's input."""
        clips, labels, indices = batch
        return prepare(self._settings, clips), labels, indices

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy in nats, and accuracy."""
        clips, labels, _ = batch
        logits = model(clips)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}

    def item_indices(self, batch: tuple[Tensor, Tensor, Tensor], requested: Sequence[int]) -> Sequence[int]:
        """The clips that were read: another one takes the place of a broken one."""
        return batch[2].tolist()

    def item_name(self, index: int) -> str:
        """The name of a clip."""
        return self._names(index)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Accuracies and cross-entropy on the held-out clips."""
        if self._views is None:
            return {}
        options: dict[str, Any] = {"batch": self._config.batch_size, "workers": self._config.workers}
        probabilities, labels, _ = predict(model, self._views, **options, prepare=partial(prepare, self._settings))
        scores = score(probabilities, labels)
        loss = F.nll_loss(probabilities.clamp_min(torch.finfo(torch.float32).tiny).log(), labels)
        return {"accuracy": scores.top1, "mean_class": scores.mean_class, "loss": float(loss)}


@dataclass(frozen=True)
class Tested:
    """A test's outcome.

    Attributes:
        scores: the figures.
        clips: what was tested.
        indices: which of the clips were readable, (N,) indices into `clips`.
        probabilities: of each of those, (N, classes).
        labels: true classes, (N,).
        broken: clips that could not be read.
        views: the data set of views, as many in a row for each clip.
        summary: what was tested, in words.
    """

    scores: Scores
    clips: ClipList
    indices: Tensor
    probabilities: Tensor
    labels: Tensor
    broken: BrokenClips
    views: Views
    summary: str


def load(weights: Path) -> tuple[nn.Module, ActionSettings, tuple[str, ...]]:
    """A trained network in eval mode, its settings and class names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not weights of this task.
    """
    held = load_weights_file(weights / "checkpoints" / "best.pt" if weights.is_dir() else weights)
    about = dict(held["about"])
    if about.pop("task", None) != "action":
        raise ValueError(f"{weights}: not weights of `nonlocal train action`")
    classes = tuple(about.pop("classes"))
    settings = ActionSettings(**about)
    model = network(ActionSettings(**{**about, "weights": "none"}), len(classes))
    model.load_state_dict(held["model"])
    return model.eval(), settings, classes


def evaluate(
    weights: Path,
    data: Path | None,
    *,
    views: int = 10,
    crops: Any = 3,
    batch: int = 8,
    workers: int = 1,
    on_error: str = "skip",
    whole: bool = False,
    on_views: Callable[[int, int], None] | None = None,
) -> Tested:
    """Score a trained network on the held-out clips of a folder or list.

    Softmax scores are averaged over `views` clips of each video and `crops` crops of each.

    Args:
        weights: checkpoints/best.pt of a run, or the run's folder.
        data: as for `train`: its test or validation split, or the fifth that training held out; None for 2,000 clips of
            moving digits in handwriting that was not trained on.
        views: clips of a video, evenly spread; moving digits have one.
        crops: 1, 3, or "full"; moving digits are not cropped.
        batch: crops at a time.
        workers: processes that decode.
        on_error: "skip" or "fail" for clips that cannot be read.
        whole: all clips, not only the held-out ones: for data that was not trained on.
        on_views: called after each batch with how many views are done, and how many there are.

    Raises:
        ValueError: wrong weights, or data of other classes.
    """
    model, settings, classes = load(weights)
    if data is None and classes != RELATIONS:
        raise ValueError(f"{weights} was not trained on moving digits, but on {', '.join(classes[:5])} ...: give data")
    clips = source(data, settings, on_error, whole=whole)
    if clips.classes != classes:
        raise ValueError(
            f"{data} has {len(clips.classes)} classes ({', '.join(clips.classes[:5])} ...), "
            f"{weights} was trained on {len(classes)} ({', '.join(classes[:5])} ...)"
        )
    broken = BrokenClips()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    held_out, loaded = clips.test(settings, views, crops, broken)
    options: dict[str, Any] = {"batch": batch, "workers": workers, "prepare": partial(prepare, settings)}
    probabilities, labels, indices = predict(model.to(device), loaded, **options, on_views=on_views)
    scores = score(probabilities, labels)
    return Tested(scores, held_out, indices, probabilities, labels, broken, loaded, clips.summary)


@torch.no_grad()
def predict(
    model: nn.Module,
    views: Views,
    *,
    batch: int,
    workers: int,
    prepare: Callable[[Tensor], Tensor],
    on_views: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax scores of each readable video, averaged over its views and crops.

    Args:
        model: in eval mode.
        views: of the videos.
        batch: crops at a time.
        workers: processes that decode.
        prepare: makes the model's input of loaded clips on its device.
        on_views: called after each batch with how many views are done, and how many there are.

    Returns:
        Scores (N, K), labels (N,) and indices (N,) into the views' clips, on the CPU.

    Raises:
        ValueError: none of the videos can be read.
    """
    device = next(model.parameters()).device
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    labels: dict[int, int] = {}
    loader = DataLoader(views, batch_size=batch, num_workers=workers, collate_fn=collate_clips)
    total = len(views)  # pyright: ignore[reportArgumentType]
    for number, (clips, classes, indices) in enumerate(loader, 1):
        for part, own, which in zip(clips.split(batch), classes.split(batch), indices.split(batch), strict=True):
            if not part.numel():
                continue
            scores = model(prepare(part.to(device))).float().softmax(1).cpu()
            for row, label, index in zip(scores, own.tolist(), which.tolist(), strict=True):
                sums[index] = sums[index] + row if index in sums else row
                counts[index], labels[index] = counts.get(index, 0) + 1, label
        if on_views is not None:
            on_views(min(number * batch, total), total)
    if not sums:
        raise ValueError("none of the clips to test can be read")
    order = sorted(sums)
    probabilities = torch.stack([sums[index] / counts[index] for index in order])
    return probabilities, torch.tensor([labels[index] for index in order]), torch.tensor(order)
