"""Evaluation of trained weights on the held-out clips."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from torch_nonlocal._common.plain_values import check_entries, check_names, shown
from torch_nonlocal._common.workers import WorkerBatches, ignore_stop_signals
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.clip_list import ClipList
from torch_nonlocal.data.dataset import collate_clips
from torch_nonlocal.data.moving_digits import RELATIONS
from torch_nonlocal.models.inputs import inputs_of
from torch_nonlocal.tasks.action.data import Views, source
from torch_nonlocal.tasks.action.metrics import Scores, score
from torch_nonlocal.tasks.action.network import set_saved_inputs, trained_network
from torch_nonlocal.tasks.action.settings import NONE, ActionSettings, settings_of_file
from torch_nonlocal.tasks.base import OnError
from torch_nonlocal.training import load_weights_file


@dataclass(frozen=True)
class Evaluation:
    """The outcome of a test.

    Attributes:
        scores: the metrics.
        clips: the clips to test.
        indices: the clips that could be read, (N,) indices into `clips`.
        probabilities: softmax scores of each of them, (N, classes).
        labels: true classes, (N,).
        broken: clips that could not be read.
        views: the data set of views; each clip has the same number of consecutive views.
        summary: one line that describes the data.
    """

    scores: Scores
    clips: ClipList
    indices: Tensor
    probabilities: Tensor
    labels: Tensor
    broken: BrokenClips
    views: Views
    summary: str


def load(weights: Path, network: str = "") -> tuple[nn.Module, ActionSettings, tuple[str, ...]]:
    """Load a trained network in eval mode, its settings and its class names.

    Args:
        weights: checkpoints/best.pt of a run, or the folder of the run.
        network: name of the network instead of the one in the file; only this one can be FILE.py:FUNCTION.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not hold weights of this task, or its settings and tensors do not fit.
        ImportError: a package is not installed; the message names the extra.
    """
    path = weights / "checkpoints" / "best.pt" if weights.is_dir() else weights
    content = load_weights_file(path)
    about = dict(content["about"])
    if about.pop("task", None) != "action":
        raise ValueError(f"{weights}: not weights of `nonlocal train action`")
    try:
        inputs = {name: about.pop(name) for name in ("inputs",) if name in about}
        for one in inputs.values():
            check_entries(one, {"mean": tuple[float, ...], "std": tuple[float, ...]})
        classes = check_names("classes", about.pop("classes", None))
        settings = settings_of_file(about, network)
        start = replace(settings, weights=NONE)
        model = trained_network(start, len(classes), content["model"], "its tensors")
        set_saved_inputs(model, {"network": settings.network, **inputs})
    except (ImportError, FileNotFoundError):
        raise
    except Exception as error:  # settings of a file can cause any error
        raise ValueError(f"{path}: {shown(error)}") from error
    return model.eval(), settings, classes


def evaluate(
    weights: Path,
    data: Path | None,
    *,
    views: int = 10,
    crops: Any = 3,
    batch: int = 8,
    workers: int = 1,
    on_error: OnError = "skip",
    whole: bool = False,
    network: str = "",
    on_views: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a trained network on the held-out clips of a folder or list.

    Softmax scores are averaged over `views` clips of each video and `crops` crops of each clip.

    Args:
        weights: checkpoints/best.pt of a run, or the folder of the run.
        data: as in training; its test or validation split is used, or the fifth that training held out. None for 2,000
            clips of moving digits in handwriting that training does not use.
        views: clips per video, evenly spaced; moving digits have one.
        crops: 1, 3, or "full"; moving digits are not cropped.
        batch: crops per forward pass.
        workers: processes that decode.
        on_error: "skip" or "fail" for clips that cannot be read.
        whole: use all clips instead of the held-out ones, for data that were not trained on.
        network: name of the network instead of the one in the file; only this one can be FILE.py:FUNCTION.
        on_views: called after each batch with the number of finished views and their total.

    Raises:
        FileNotFoundError: the file of weights does not exist.
        ValueError: the weights are of another task, or the data have other classes.
    """
    model, settings, classes = load(weights, network)
    if data is None and classes != RELATIONS:
        raise ValueError(f"{weights} was trained on {', '.join(classes[:5])} ..., not on moving digits: give the data")
    clips = source(data, settings, on_error, whole=whole)
    if clips.classes != classes:
        raise ValueError(
            f"{data} has {len(clips.classes)} classes ({', '.join(clips.classes[:5])} ...), "
            f"{weights} was trained on {len(classes)} ({', '.join(classes[:5])} ...)"
        )
    broken = BrokenClips()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    held_out, loaded = clips.test(settings, views, crops, broken)
    options: dict[str, Any] = {"batch": batch, "workers": workers, "prepare": inputs_of(model).normalize}
    probabilities, labels, indices = predict(model.to(device), loaded, **options, on_views=on_views)
    scores = score(probabilities, labels)
    return Evaluation(scores, held_out, indices, probabilities, labels, broken, loaded, clips.summary)


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
        model: a network in eval mode.
        views: the views of the videos.
        batch: crops per forward pass.
        workers: processes that decode.
        prepare: maps loaded clips on the network's device to its input.
        on_views: called after each batch with the number of finished views and their total.

    Returns:
        Scores (N, K), labels (N,) and indices (N,) into the videos, on the CPU.

    Raises:
        ValueError: no video can be read.
    """
    device = next(model.parameters()).device
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    labels: dict[int, int] = {}
    total = len(views)  # pyright: ignore[reportArgumentType]

    def loader_from(number: int) -> DataLoader[Any]:
        rest = Subset(views, range(number * batch, total))
        options: dict[str, Any] = {"collate_fn": collate_clips, "worker_init_fn": ignore_stop_signals}
        return DataLoader(rest, batch_size=batch, num_workers=workers, **options)

    with WorkerBatches(loader_from) as batches:
        for number, (clips, classes, indices) in enumerate(batches, 1):
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
        raise ValueError("none of the test clips can be read")
    order = sorted(sums)
    probabilities = torch.stack([sums[index] / counts[index] for index in order])
    return probabilities, torch.tensor([labels[index] for index in order]), torch.tensor(order)
