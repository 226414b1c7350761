"""Tables as CSV and Parquet files, written atomically."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from torch_nonlocal._common.files import replacing
from torch_nonlocal._common.optional import require

CSV_CLASSES = 100
"""Maximum number of columns with probabilities of each class in a CSV file."""

Columns = Mapping[str, Sequence[Any] | Tensor]
"""Columns by name, all of the same length; probabilities are tensors."""


def probability_columns(names: Sequence[str], probabilities_KN: Tensor, text: Callable[[str], str]) -> dict[str, Any]:
    """Return the column "probability NAME" of each class; `text` is applied to the titles."""
    return {text(f"probability {name}"): row for name, row in zip(names, probabilities_KN, strict=True)}


def write_csv(path: Path, columns: Columns) -> None:
    """Write a CSV file in UTF-8; probabilities have six decimal places."""
    written = [
        [f"{value:.6f}" for value in values.tolist()] if isinstance(values, Tensor) else values
        for values in columns.values()
    ]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*written, strict=True))


def write_parquet(path: Path, columns: Columns) -> None:
    """Write a Parquet file; probabilities are float32.

    Raises:
        ImportError: pyarrow is not installed.
    """
    pyarrow, parquet = require("pyarrow", extra="parquet"), require("pyarrow.parquet", extra="parquet")
    arrays = {
        name: pyarrow.array(values.numpy(), pyarrow.float32()) if isinstance(values, Tensor) else values
        for name, values in columns.items()
    }
    with replacing(path) as temporary:
        parquet.write_table(pyarrow.table(arrays), temporary)
