"""The rank of this process as its launcher gives it. Importing this module does not import torch."""

import os
from collections.abc import Callable


def is_main_process() -> bool:
    """Whether this process has rank 0; known before the process group exists."""
    return os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    """Number of processes that train together; known before the process group exists."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def main_process_log(log: Callable[[str], None] | None) -> Callable[[str], None]:
    """A function that passes lines to `log`, by default `print`, in the main process, and ignores them in others."""
    return (log or print) if is_main_process() else ignored


def ignored(line: str) -> None:
    """A log that ignores its lines."""
