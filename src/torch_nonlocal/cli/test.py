"""`nonlocal test`: scores, confusion matrix, predictions and the worst mistakes of trained weights."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from torch_nonlocal._common.files import check_folder
from torch_nonlocal._common.optional import require
from torch_nonlocal.tasks.action import evaluation as action
from torch_nonlocal.tasks.action.metrics import check_metrics, confusion_picture
from torch_nonlocal.tasks.action.mistakes import PAGE, Mistake, show_mistakes
from torch_nonlocal.tasks.action.predictions import check_format, write_predictions
from torch_nonlocal.tasks.action.settings import PredictionFormat


def evaluate(
    task: tyro.conf.Positional[Literal["action"]],
    weights: tyro.conf.Positional[Path],
    *,
    data: Path | None = None,
    out: Path = Path("test-out"),
    views: int = 10,
    crops: Literal["1", "3", "full"] = "3",
    mistakes: int = 5,
    predictions: PredictionFormat = "csv",
    batch: int = 8,
    workers: int = 1,
    on_error: Literal["skip", "fail"] = "skip",
    whole: bool = False,
) -> None:
    """Test trained weights on the held-out clips: accuracies, F1, confusion matrix, a prediction for each clip.

    Softmax scores are averaged over evenly spread clips of each video and crops of each. The worst mistakes are shown
    with pictures of what a block related.

    Example: nonlocal test action runs/action/checkpoints/best.pt --data my-clips

    Example: nonlocal test action runs/digits/checkpoints/best.pt

    Args:
        task: action.
        weights: checkpoints/best.pt of a run of nonlocal train, or the run's folder.
        data: as in training: its test or validation split, or the fifth that was held out; without it, as in training,
            moving digits, in handwriting that was not trained on.
        out: folder for scores.json, predictions, confusion.png and mistakes/; made if missing.
        views: clips of a video.
        crops: of each clip: 1, 3, or full for the whole frame.
        mistakes: how many of the worst to draw; 0 for none.
        predictions: format of the table of predictions; parquet has every score where there are over 100 classes.
        batch: crops at a time.
        workers: processes that decode.
        on_error: skip a clip that cannot be read (it is counted), or fail.
        whole: test on all clips of the data, not on the held-out ones: for data that was not trained on.
    """
    if whole and data is None:
        raise ValueError("--whole: expected --data; moving digits are tested on clips that are never trained on")
    if mistakes < 0:
        raise ValueError(f"--mistakes {mistakes}: expected 0 or more")
    check_folder(out)
    check_metrics()  # what is missing is said before a long test
    check_format(predictions)
    require("matplotlib", extra="view")
    sizes: dict[str, Any] = {"views": views, "crops": crops if crops == "full" else int(crops)}
    with _bar() as on_views:
        options: dict[str, Any] = {"batch": batch, "workers": workers, "on_error": on_error, "whole": whole}
        tested = action.evaluate(weights, data, **sizes, **options, on_views=on_views)
    broken = tested.broken.entries()
    out.mkdir(parents=True, exist_ok=True)
    figures = {
        **tested.scores.plain(),
        "per_class": tested.scores.per_class(tested.clips.classes),
        "not_read": [entry._asdict() for entry in broken],
        "left_out": list(tested.clips.problems),
        "confusion": tested.scores.confusion.tolist(),
        "weights": str(weights),
        "data": tested.summary,
        "tested": "all clips" if whole else "the held-out clips",
        **sizes,
    }
    (out / "scores.json").write_text(json.dumps(figures, indent=1) + "\n")
    write_predictions(tested, out / f"predictions.{predictions}")
    confusion_picture(tested.scores, tested.clips.classes).savefig(out / "confusion.png", dpi=120)
    console = Console()
    console.print(f"{figures['tested']} of {tested.summary}", highlight=False, markup=False, soft_wrap=True)
    for name, value in tested.scores.plain().items():
        console.print(f"{name:<11}{value:,}" if name == "clips" else f"{name:<11}{value:.4f}", highlight=False)
    if mistakes:
        found = show_mistakes(weights, tested, out / "mistakes", count=mistakes)
        _say_mistakes(console, found, out / "mistakes" / PAGE)
    if broken:
        console.print(f"clips that could not be read: {len(broken)}; scores.json names them", highlight=False)
    if tested.clips.problems:
        count = len(tested.clips.problems)
        console.print(f"problems in lists or empty classes: {count}; scores.json names them", highlight=False)
    console.print(f"figures, predictions and pictures are in {out}/", highlight=False, markup=False)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar with the time to go, on a terminal; gives the callback that moves it."""
    console = Console(stderr=True)
    columns = (TextColumn("test"), BarColumn(), MofNCompleteColumn(), TextColumn("views"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _say_mistakes(console: Console, found: list[Mistake], page: Path) -> None:
    for mistake in found:
        note = f" ({mistake.note})" if mistake.note else ""
        console.print(f"mistaken: {mistake}{note}", highlight=False, markup=False, soft_wrap=True)
    if any(mistake.block for mistake in found):
        console.print(f"what was looked at meanwhile: {page}", highlight=False, markup=False)
