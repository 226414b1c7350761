"""The rank of this process as its launcher gives it. Importing this module does not import torch."""

import os


def is_main_process() -> bool:
    """Whether this process has rank 0; known before the process group exists."""
    return os.environ.get("RANK", "0") == "0"
