"""What `nonlocal test action` writes: scores.json, predictions, confusion.png and pictures of the worst mistakes.

Where clips have several classes there is no confusion matrix, and no mistakes are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_nonlocal._common.files import check_folder, write_json
from torch_nonlocal._common.optional import require
from torch_nonlocal.tasks.action.evaluation import Evaluation, evaluate
from torch_nonlocal.tasks.action.metrics import Scores, check_metrics, confusion_picture
from torch_nonlocal.tasks.action.mistakes import PAGE, show_mistakes
from torch_nonlocal.tasks.action.predictions import check_format, write_predictions
from torch_nonlocal.tasks.action.settings import ActionTestOptions


def run_test(
    weights: Path,
    data: Path | None,
    out: Path,
    options: ActionTestOptions,
    *,
    on_progress: Callable[[int, int], None] | None,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate trained weights and write the results to a folder; arguments as in `TaskSpec.test`.

    Returns:
        The metrics, as in `Scores.plain` or `MultiLabelScores.plain`.

    Raises:
        FileNotFoundError: the file of weights does not exist.
        ValueError: the weights are of another task, the data have other classes, or `out` is a file.
        ImportError: a package is not installed; raised before the evaluation.
    """
    if options.whole and data is None:
        raise ValueError("--whole needs --data: moving digits for testing are never trained on")
    if options.split != "auto" and data is None:
        raise ValueError(f"--split {options.split} needs --data: moving digits have clips for testing of their own")
    check_folder(out)
    check_metrics()
    check_format(options.predictions)
    require("matplotlib", extra="view")
    crops = options.crops if options.crops == "full" else int(options.crops)
    tested = evaluate(
        weights,
        data,
        views=options.views,
        crops=crops,
        batch=options.batch_size,
        workers=options.workers,
        on_error=options.on_error,
        split=options.split,
        whole=options.whole,
        root=options.root,
        prefix=options.prefix or "",
        fold=options.fold,
        network=options.network,
        on_views=on_progress,
    )
    out.mkdir(parents=True, exist_ok=True)
    metrics, classes = tested.scores.plain(), tested.clips.classes
    scores: dict[str, Any] = {
        **metrics,
        "per_class": tested.scores.per_class(classes),
        "not_read": [entry._asdict() for entry in tested.broken.entries()],
        "left_out": list(tested.clips.problems),
        "weights": str(weights),
        "data": tested.summary,
        "tested": tested.subset,
        "trained_on": {"clips": list(tested.trained_on), "left_out": tested.left_out},
        "notes": list(tested.notes),
        "views": options.views,
        "crops": crops,
    }
    if isinstance(tested.scores, Scores):
        scores["confusion"] = tested.scores.confusion.tolist()
        confusion_picture(tested.scores, classes).savefig(out / "confusion.png", dpi=120)
    write_json(out / "scores.json", scores, indent=1)
    write_predictions(tested, out / f"predictions.{options.predictions}")
    log(f"{tested.subset} of {tested.summary}")
    for note in tested.notes:
        log(note)
    shown = {name: value for name, value in metrics.items() if name != "mean_class"}  # the former name of another one
    width = max(10, *map(len, shown)) + 1
    for name, value in shown.items():
        log(f"{name:<{width}}{value:,}" if name == "clips" else f"{name:<{width}}{value:.4f}")
    if options.mistakes and isinstance(tested.scores, Scores):
        _log_mistakes(weights, tested, out / "mistakes", options, log)
    if scores["not_read"]:
        log(f"clips that could not be read: {len(scores['not_read'])}, listed in scores.json")
    if tested.clips.problems:
        log(f"problems in lists, and classes without clips: {len(tested.clips.problems)}, listed in scores.json")
    log(f"scores, predictions and pictures: {out}/")
    return metrics


def _log_mistakes(
    weights: Path, tested: Evaluation, folder: Path, options: ActionTestOptions, log: Callable[[str], None]
) -> None:
    mistakes = show_mistakes(weights, tested, folder, count=options.mistakes, network=options.network)
    for mistake in mistakes:
        log(f"mistake: {mistake}{f' ({mistake.note})' if mistake.note else ''}")
    if any(mistake.block for mistake in mistakes):
        log(f"attention at the mistakes: {folder / PAGE}")
