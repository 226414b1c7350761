"""The list of what a run left out of its data, in the run folder."""

from collections.abc import Sequence
from pathlib import Path

from torch_nonlocal._common.files import printable, write_text

LEFT_OUT = "left_out.txt"
"""File in the run folder with one line per problem of the data, and per file that is not used."""


def write_left_out(run_dir: Path, problems: Sequence[str]) -> None:
    """Write the list; without problems, remove that of an earlier start."""
    path = run_dir / LEFT_OUT
    if problems:
        write_text(path, "".join(f"{printable(problem)}\n" for problem in problems))
    else:
        path.unlink(missing_ok=True)
