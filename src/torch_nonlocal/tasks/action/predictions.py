"""A table of the predictions for each tested clip, as CSV or Parquet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_nonlocal._common.files import encodable, spreadsheet_text
from torch_nonlocal._common.optional import require
from torch_nonlocal.tasks.action.evaluation import Evaluation
from torch_nonlocal.tasks.action.settings import PredictionFormat
from torch_nonlocal.tasks.tables import CSV_CLASSES, probability_columns, write_csv, write_parquet

_TOP = 5


def write_predictions(tested: Evaluation, path: Path) -> Path:
    """Write one row per clip, in the order of the clips.

    Columns: clip (name relative to the data folder), path, true_label, label (the predicted class), probability (its
    own), true_probability and true_rank (1 if the true class has the highest probability), then label_2, probability_2
    to label_5, probability_5 (if there are as many classes) and "probability NAME" for each class. Probabilities are
    those of softmax, averaged over views. With more than 100 classes CSV omits the columns "probability NAME"; Parquet
    has all of them. Parquet holds names as they are; in CSV, control characters are escapes, and a name that a
    spreadsheet would take for a formula starts with an apostrophe. `nonlocal predict` writes the same columns, without
    those of the true class.

    Where clips have several classes, true_label has their names, joined by "; ", and probabilities are those of
    sigmoid; there is no true_probability and no true_rank.

    Args:
        tested: the outcome of a test.
        path: file name that ends in .csv or .parquet.

    Returns:
        The path.

    Raises:
        ValueError: the file name has another ending, or the folder does not exist.
        ImportError: pyarrow is not installed.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: expected a file name that ends in .csv or .parquet")
    if path.suffix == ".parquet":
        _write_parquet(tested, path)
    else:
        _write_csv(tested, path)
    return path


def check_format(name: PredictionFormat) -> None:
    """Check that a format can be written. A test calls this first, so that a missing package raises at once.

    Raises:
        ImportError: the format is "parquet" and pyarrow is not installed.
    """
    if name == "parquet":
        require("pyarrow.parquet", extra="parquet")


def _write_csv(tested: Evaluation, path: Path) -> None:
    columns = _columns(tested, spreadsheet_text)
    if len(tested.clips.classes) <= CSV_CLASSES:
        columns |= probability_columns(tested.clips.classes, tested.probabilities.T, spreadsheet_text)
    write_csv(path, columns)


def _write_parquet(tested: Evaluation, path: Path) -> None:
    scores = probability_columns(tested.clips.classes, tested.probabilities.T, encodable)
    write_parquet(path, _columns(tested, encodable) | scores)


def _columns(tested: Evaluation, text: Callable[[str], str]) -> dict[str, Any]:
    """Columns by name, all of the same length; scores are tensors, and `text` is applied to names."""
    scores_NK = tested.probabilities
    names = [text(name) for name in tested.clips.classes]
    clips = [tested.clips.clips[index] for index in tested.indices.tolist()]
    best_N1 = scores_NK.argmax(1, keepdim=True)
    columns: dict[str, Any] = {
        "clip": [text(tested.clips.key(clip)) for clip in clips],
        "path": [text(str(clip.path)) for clip in clips],
        "true_label": [text("; ".join(tested.clips.classes[label] for label in clip.all_labels)) for clip in clips],
        "label": [names[best] for best in best_N1.flatten().tolist()],
        "probability": scores_NK.amax(1),
    }
    if not tested.clips.is_multi_label:
        own_N1 = scores_NK.gather(1, tested.labels[:, None])
        columns["true_probability"] = own_N1.flatten()
        columns["true_rank"] = (1 + (scores_NK > own_N1).sum(1)).tolist()
    following = scores_NK.scatter(1, best_N1, -1.0).topk(min(_TOP, len(names)) - 1)
    for place in range(following.indices.shape[1]):
        columns[f"label_{place + 2}"] = [names[k] for k in following.indices[:, place].tolist()]
        columns[f"probability_{place + 2}"] = following.values[:, place]
    return columns
