"""Load a trained network for use: `nl.load`. Importing this module does not import the packages of a task."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch_nonlocal.tasks.action.classifier import ActionClassifier


def load(checkpoint: str | os.PathLike[str], *, network: str = "") -> ActionClassifier:
    """Load a network that `nonlocal train action` trained, in eval mode, on the CPU.

    The file is read without executing anything in it. The weights are those that `nonlocal test` tests: of the best
    evaluation, averaged if the run averaged them.

    Args:
        checkpoint: checkpoints/best.pt of a run, or the folder of the run.
        network: name of the network instead of the one in the file. It is needed for a network of a Python file,
            FILE.py:FUNCTION, which is executed.

    Returns:
        A module: normalized clips (B, C, T, H, W) -> scores (B, classes). Its `predict` classifies files and frames;
        `classes`, `inputs` and `settings` describe it; `network` is the network inside.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold a network of `nonlocal train action`; the message names what reads it.
        ImportError: a package that the network needs is not installed; the message names the extra.

    Example:
        >>> model = nl.load("runs/action/checkpoints/best.pt")
        >>> print(model.predict("clip.mp4").top(3))
    """
    from torch_nonlocal.tasks.action.classifier import load_classifier

    return load_classifier(checkpoint, network=network)
