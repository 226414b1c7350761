"""Load a trained network for use: `nl.load`. Importing this module does not import the packages of a task."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch_nonlocal.tasks.action.classifier import ActionClassifier
    from torch_nonlocal.tasks.denoise.trained import TrainedDenoiser
    from torch_nonlocal.tasks.reid.trained import TrackletEmbedder


def load(
    checkpoint: str | os.PathLike[str], *, network: str = ""
) -> ActionClassifier | TrainedDenoiser | TrackletEmbedder:
    """Load a network that `nonlocal train` trained for action, denoise or reid, in eval mode, on the CPU.

    The file is read without executing anything in it. The weights are those that `nonlocal test` tests: of the best
    evaluation, averaged if the run averaged them.

    Args:
        checkpoint: checkpoints/best.pt of a run, or the folder of the run.
        network: name of the network instead of the one in the file, for action recognition and re-identification. It is
            needed for a network of a Python file, FILE.py:FUNCTION, which is executed.

    Returns:
        For action recognition, a module: normalized clips (B, C, T, H, W) -> scores (B, classes). Its `predict`
        classifies files and frames; `classes`, `inputs` and `settings` describe it; `network` is the network inside.
        For denoising, a module: images with a noise map (B, C + 1, H, W) -> images (B, C, H, W). Its `denoise` takes
        files and images of any size; `settings` describe it; `network` is the network inside.
        For re-identification, a module: normalized clips (B, 3, T, H, W) -> embeddings (B, E). Its `embed` takes files
        and frames of tracklets; `inputs`, `dimension` and `settings` describe it; `network` is the network inside.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold a network of one of these tasks; the message names what reads it.
        ImportError: a package that the network needs is not installed; the message names the extra.

    Example:
        >>> model = nl.load("runs/action/checkpoints/best.pt")
        >>> print(model.predict("clip.mp4").top(3))
        >>> clean_CHW = nl.load("runs/denoise/checkpoints/best.pt").denoise("noisy.png")
        >>> a_E, b_E = nl.load("runs/reid/checkpoints/best.pt").embed(["tracklets/a", "tracklets/b"])
        >>> similarity = float(a_E @ b_E)
    """
    from torch_nonlocal.tasks.action.classifier import load_classifier
    from torch_nonlocal.tasks.trained_files import OtherTaskError

    try:
        return load_classifier(checkpoint, network=network)
    except OtherTaskError as error:
        if error.task == "reid":
            from torch_nonlocal.tasks.reid.trained import embedder_of

            return embedder_of(error.path, error.content, network)
        if error.task != "denoise" or network:
            raise
        from torch_nonlocal.tasks.denoise.trained import denoiser_of

        return denoiser_of(error.path, error.content)
