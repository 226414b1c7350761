"""Evaluation of trained weights on clips."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from torch_nonlocal._common.text import listed
from torch_nonlocal._common.workers import WorkerBatches, ignore_stop_signals
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.clip_list import ClipList
from torch_nonlocal.data.dataset import collate_clips
from torch_nonlocal.data.moving_digits import RELATIONS
from torch_nonlocal.models.inputs import inputs_of
from torch_nonlocal.optimization import Optimized, optimize
from torch_nonlocal.tasks.action.automatic_frames import sampled_lengths
from torch_nonlocal.tasks.action.clip_span import repeat_lines
from torch_nonlocal.tasks.action.clips_to_test import ClipsToTest, clips_to_test
from torch_nonlocal.tasks.action.data import Digits, Views, views_of
from torch_nonlocal.tasks.action.metrics import Scores, score
from torch_nonlocal.tasks.action.multi_label import MultiLabelScores, score_multi_label
from torch_nonlocal.tasks.action.run_split import saved_record
from torch_nonlocal.tasks.action.settings import TestSplit
from torch_nonlocal.tasks.action.trained import read_trained
from torch_nonlocal.tasks.base import OnError
from torch_nonlocal.tasks.trained_files import weights_path

_WORTHWHILE = 64  # batches: the trials of `optimize` take about as long as twelve


class NoClipsError(ValueError):
    """None of the clips can be read."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome of a test.

    Attributes:
        scores: the metrics.
        clips: the clips to test.
        indices: the clips that could be read, (N,) indices into `clips`.
        probabilities: scores of each of them, (N, classes): softmax, or sigmoid if clips have several classes.
        labels: true classes, (N,); if clips have several, (N, classes) with 1 for each of them.
        broken: clips that could not be read.
        views: the data set of views; each clip has the same number of consecutive views.
        summary: one line that describes the data.
        subset: what the clips are of the data, such as "the test clips".
        notes: lines about clips that the weights were trained on, that chose the weights, or whose frames repeat.
        trained_on: names of the clips that the weights were trained on.
        left_out: whether those were left out of the test.
    """

    scores: Scores | MultiLabelScores
    clips: ClipList
    indices: Tensor
    probabilities: Tensor
    labels: Tensor
    broken: BrokenClips
    views: Views
    summary: str
    subset: str = ""
    notes: tuple[str, ...] = ()
    trained_on: tuple[str, ...] = ()
    left_out: bool = False


def evaluate(
    weights: Path,
    data: Path | None,
    *,
    views: int = 10,
    crops: Any = 3,
    batch: int = 8,
    workers: int = 1,
    on_error: OnError = "skip",
    split: TestSplit = "auto",
    whole: bool = False,
    root: str | None = None,
    prefix: str = "",
    fold: int = 1,
    network: str = "",
    on_views: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a trained network on clips of a folder or list.

    Softmax scores are averaged over `views` clips of each video and `crops` crops of each clip. Where videos have
    several classes, the largest sigmoid score is taken.

    Args:
        weights: checkpoints/best.pt of a run, or the folder of the run.
        data: as in training, other data with classes of the training, or the folder of one split. None for 2,000 clips
            of moving digits in handwriting that training does not use.
        views: clips per video, evenly spaced; moving digits have one.
        crops: 1, 3, or "full"; moving digits are not cropped.
        batch: crops per forward pass.
        workers: processes that decode.
        on_error: "skip" or "fail" for clips that cannot be read.
        split: as for `clips_to_test.clips_to_test`, which has the rule for clips that the weights were trained on.
        whole: use all clips of the data.
        root: folder of the clips that a list names; None for the folder of the list.
        prefix: start of the names in a list that is removed.
        fold: number of the split of UCF101 and HMDB51, or value of the column "fold" whose clips are tested.
        network: name of the network instead of the one in the file; only this one can be FILE.py:FUNCTION.
        on_views: called after each batch with the number of finished views and their total.

    Raises:
        FileNotFoundError: the file of weights does not exist.
        ValueError: the weights are of another task, or the data have other classes.
    """
    model, settings, classes, content = read_trained(weights, network)
    broken = BrokenClips()
    if data is None:
        if classes != RELATIONS:
            trained = f"{', '.join(classes[:5])} ..."
            raise ValueError(f"{weights} was trained on {trained}, not on moving digits: give the data")
        digits = Digits(settings)
        clips, loaded = digits.test()
        chosen, summary = ClipsToTest(clips, "the test clips", (), (), False), digits.summary
    else:
        try:
            record = saved_record(content)
        except ValueError as error:
            raise ValueError(f"{weights_path(weights)}: {error}") from error
        places: dict[str, Any] = {"clip_root": root, "prefix": prefix, "fold": fold}
        chosen = clips_to_test(data, classes, record, split=split, whole=whole, on_error=on_error, **places)
        multi_label = bool(settings.multi_label)
        if chosen.clips.is_multi_label and not multi_label:
            raise ValueError(f"{data}: clips have several classes; {weights} was trained on one class per clip")
        clips = replace(chosen.clips, is_multi_label=multi_label)
        loaded = views_of(clips, settings, views, crops, on_error, broken)
        short = repeat_lines(sampled_lengths(clips, settings.fps), settings.schedule)
        chosen = replace(chosen, notes=(*chosen.notes, *short))
        summary = f"{data}: {len(clips)} clips; {len(classes)} classes: {listed(classes)}"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = {"batch": batch, "workers": workers, "prepare": inputs_of(model).normalize}
    options["multi_label"] = bool(settings.multi_label)
    optimized: list[str] = []
    options |= {"on_views": on_views, "on_optimized": optimized.append}
    probabilities, labels, indices = predict(model.to(device), loaded, **options)
    chosen = replace(chosen, notes=(*chosen.notes, *optimized))
    scores = (score_multi_label if settings.multi_label else score)(probabilities, labels)
    outcome = scores, clips, indices, probabilities, labels, broken, loaded, summary
    return Evaluation(*outcome, chosen.subset, chosen.notes, chosen.trained_on, chosen.left_out)


@torch.no_grad()
def predict(
    model: nn.Module,
    views: Views,
    *,
    batch: int,
    workers: int,
    prepare: Callable[[Tensor], Tensor],
    multi_label: bool = False,
    on_views: Callable[[int, int], None] | None = None,
    on_optimized: Callable[[str], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax scores of each readable video, averaged over its views and crops.

    Where videos have several classes: the largest sigmoid score of each class, since an action may be in one view only
    (Feichtenhofer et al., SlowFast Networks, ICCV 2019, section 4.2).

    Args:
        model: a network in eval mode.
        views: the views of the videos.
        batch: crops per forward pass.
        workers: processes that decode.
        prepare: maps loaded clips on the network's device to its input.
        multi_label: whether videos have several classes.
        on_views: called after each batch with the number of finished views and their total.
        on_optimized: called with what `nl.optimize` chose for the run; with None, or few batches, nothing is optimized.

    Returns:
        Scores (N, K), labels (N,), or (N, K) with several classes, and indices (N,) into the videos, on the CPU.

    Raises:
        NoClipsError: no video can be read.
    """
    device = next(model.parameters()).device
    totals: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    labels: dict[int, Tensor] = {}
    total = len(views)  # pyright: ignore[reportArgumentType]

    def loader_from(number: int) -> DataLoader[Any]:
        rest = Subset(views, range(number * batch, total))
        options: dict[str, Any] = {"collate_fn": collate_clips, "worker_init_fn": ignore_stop_signals}
        return DataLoader(rest, batch_size=batch, num_workers=workers, **options)

    optimizing = _Optimizing(model, on_optimized if total >= _WORTHWHILE * batch else None)
    with optimizing, WorkerBatches(loader_from) as batches:
        for number, (clips, classes, indices) in enumerate(batches, 1):
            for part, own, which in zip(clips.split(batch), classes.split(batch), indices.split(batch), strict=True):
                if not part.numel():
                    continue
                x = prepare(part.to(device))
                optimizing.see(x)
                logits = model(x).float()
                scores = (logits.sigmoid() if multi_label else logits.softmax(1)).cpu()
                for row, label, index in zip(scores, own, which.tolist(), strict=True):
                    combined = torch.maximum if multi_label else torch.add
                    totals[index] = combined(totals[index], row) if index in totals else row
                    counts[index], labels[index] = counts.get(index, 0) + 1, label
            if on_views is not None:
                on_views(min(number * batch, total), total)
    if not totals:
        raise NoClipsError("none of the clips can be read")
    order = sorted(totals)
    probabilities = torch.stack([totals[index] / (1 if multi_label else counts[index]) for index in order])
    return probabilities, torch.stack([labels[index] for index in order]), torch.tensor(order)


class _Optimizing:
    """Optimizes a network for the batches of one run, and gives it back as it was."""

    def __init__(self, model: nn.Module, on_optimized: Callable[[str], None] | None) -> None:
        self._model, self._report = model, on_optimized
        self._chosen: Optimized | None = None

    def see(self, x: Tensor) -> None:
        """Optimize for the first batch."""
        if self._report is not None and self._chosen is None and x.device.type == "cpu":
            self._chosen = optimize(self._model, x)
            if not self._chosen.reason:
                self._report(str(self._chosen))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._chosen is not None:
            self._chosen.undo()
