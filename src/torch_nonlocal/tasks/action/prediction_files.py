"""Files of predictions: JSON, CSV, Parquet, and a picture of the probabilities over time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from torch_nonlocal._common.files import encodable, printable, replacing, spreadsheet_text, write_json
from torch_nonlocal._common.optional import require
from torch_nonlocal.data.broken import Broken
from torch_nonlocal.tasks.action.classifier import ActionClassifier, Prediction
from torch_nonlocal.tasks.tables import CSV_CLASSES, probability_columns, write_csv, write_parquet

PICTURES = (".pdf", ".png", ".svg")
"""Suffixes of pictures."""
_LINES = 8  # classes that are drawn


def write_predictions_json(
    path: Path,
    model: ActionClassifier,
    found: Sequence[Prediction],
    broken: Sequence[Broken],
    *,
    weights: str,
    top: int,
) -> None:
    """Write predictions as JSON: for each clip the predicted class, the `top` classes and all probabilities.

    "label" is the class with the highest probability, "labels" all predicted classes where a clip can have several.
    "probabilities" are in the order of "classes". A "note" tells that frames repeat. "not_read" lists
    the clips without a prediction.
    """
    clips = [
        {
            "clip": encodable(one.clip),
            **({} if one.start is None else {"start": one.start, "end": one.end}),
            "label": one.label,
            "probability": one.probability,
            "labels": list(one.labels),
            **({"note": one.note} if one.note else {}),
            "top": [{"label": name, "probability": probability} for name, probability in one.top(top)],
            "probabilities": _row(one, model.classes),
        }
        for one in found
    ]
    about = {"weights": encodable(weights), "classes": list(model.classes), "multi_label": model.is_multi_label}
    write_json(path, {**about, "predictions": clips, "not_read": [_plain(entry) for entry in broken]}, indent=1)


def write_predictions_csv(path: Path, model: ActionClassifier, found: Sequence[Prediction], *, top: int) -> None:
    """Write one row per prediction; names as `spreadsheet_text`, those of each class for at most 100 classes."""
    columns = _columns(model, found, top, spreadsheet_text)
    if len(model.classes) <= CSV_CLASSES:
        columns |= _each_class(model, found, spreadsheet_text)
    write_csv(path, columns)


def write_predictions_parquet(path: Path, model: ActionClassifier, found: Sequence[Prediction], *, top: int) -> None:
    """Write one row per prediction, with names as they are and the probability of each class.

    Raises:
        ImportError: pyarrow is not installed.
    """
    write_parquet(path, _columns(model, found, top, encodable) | _each_class(model, found, encodable))


def write_time_picture(path: Path, model: ActionClassifier, found: Sequence[Prediction]) -> None:
    """Draw the probabilities of a time line, one line for each of the eight classes with the highest.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", extra="view")
    scores_RK = torch.tensor([_row(one, model.classes) for one in found])
    drawn = scores_RK.amax(0).sort(descending=True, stable=True).indices[:_LINES].tolist()
    seconds = [((one.start or 0.0) + (one.end or 0.0)) / 2 for one in found]
    figure = figure_module.Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    for index in drawn:
        (line,) = axes.plot(seconds, scores_RK[:, index].tolist(), marker="." if len(found) <= 60 else None)
        line.set_label(printable(model.classes[index]).lstrip("_") or "_")  # matplotlib hides labels with underscores
    axes.set_xlim(0.0, found[-1].end)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("time in seconds")
    axes.set_ylabel("probability")
    axes.set_title(printable(Path(found[0].clip).name), parse_math=False)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _columns(
    model: ActionClassifier, found: Sequence[Prediction], top: int, text: Callable[[str], str]
) -> dict[str, Any]:
    """Columns with the names of the tables that `nonlocal test` writes, see `predictions.write_predictions`."""
    columns: dict[str, Any] = {"clip": [text(one.clip) for one in found]}
    if any(one.start is not None for one in found):
        columns["start"] = torch.tensor([one.start or 0.0 for one in found])
        columns["end"] = torch.tensor([one.end or 0.0 for one in found])
    if model.is_multi_label:
        columns["labels"] = [text("; ".join(one.labels)) for one in found]
    for place in range(min(top, len(model.classes))):
        rank = f"_{place + 1}" if place else ""
        columns[f"label{rank}"] = [text(one.classes[place]) for one in found]
        columns[f"probability{rank}"] = torch.tensor([one.probabilities[place] for one in found])
    if any(one.note for one in found):
        columns["note"] = [text(one.note) for one in found]
    return columns


def _each_class(model: ActionClassifier, found: Sequence[Prediction], text: Callable[[str], str]) -> dict[str, Any]:
    scores_KR = torch.tensor([_row(one, model.classes) for one in found]).T
    return probability_columns(model.classes, scores_KR, text)


def _row(one: Prediction, classes: Sequence[str]) -> list[float]:
    """Probabilities in the order of the classes."""
    by_name = dict(zip(one.classes, one.probabilities, strict=True))
    return [by_name[name] for name in classes]


def _plain(entry: Broken) -> dict[str, str]:
    return {name: encodable(text) for name, text in entry._asdict().items()}
