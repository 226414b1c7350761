"""A trained network of re-identification in use: `nl.load` returns it, `embed` embeds tracklets.

Shapes: B batch, T frames, H height, W width, N tracklets, E embedding width.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import evaluating
from torch_nonlocal._common.plain_values import check_entries, shown
from torch_nonlocal._common.text import counted
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.tracklets.given import GivenTracklets
from torch_nonlocal.data.tracklets.tracklet import TrackletSource
from torch_nonlocal.models.inputs import Inputs, inputs_of
from torch_nonlocal.models.tracklet_net import TrackletNet
from torch_nonlocal.tasks.base import OnError
from torch_nonlocal.tasks.reid.evaluation import Embedded, embed
from torch_nonlocal.tasks.reid.network import trained_network
from torch_nonlocal.tasks.reid.settings import NONE, ReidSettings, settings_of_file
from torch_nonlocal.tasks.trained_files import read_trained_file, weights_path

VIEWS = 2
"""Clips per tracklet unless another number is given."""
_CHANNELS = 3

TrackletInput = str | os.PathLike[str] | Tensor | Any
"""A folder of frames, a picture, a video file, or frames (T, H, W, 3) RGB uint8, as a tensor or a NumPy array."""


class TrackletEmbedder(nn.Module):
    """A trained network that embeds tracklets, with its preprocessing.

    As a module it is the network: normalized clips (B, 3, T, H, W) -> embeddings (B, E).

    Args:
        network: the network, in eval mode.
        settings: its settings.
        digest: digest of its weights; see `weights_digest`.
    """

    task = "reid"

    def __init__(self, network: TrackletNet, settings: ReidSettings, digest: str) -> None:
        super().__init__()
        self.network, self.settings, self.digest = network, settings, digest

    @property
    def inputs(self) -> Inputs:
        """Mean and standard deviation of the network's inputs, and the size and the frames it was trained at."""
        return replace(inputs_of(self.network), size=self.settings.size, frames=self.settings.schedule.length)

    @property
    def dimension(self) -> int:
        """E, width of an embedding."""
        return self.network.neck.num_features

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W), normalized by `inputs` -> embeddings (B, E), not normalized."""
        return self.network(clips)

    def embed(self, tracklets: TrackletInput | Sequence[TrackletInput], *, views: int = VIEWS) -> Tensor:
        """Embed tracklets.

        Args:
            tracklets: a folder of frames, a picture, a video file, frames (T, H, W, 3) RGB uint8 as a tensor or a NumPy
                array, or a list of these. Every frame is the picture of one person or animal, and is resized.
            views: clips per tracklet, evenly spaced; their embeddings are averaged.

        Returns:
            (E,) for one tracklet, (N, E) for a list; float32 on the CPU, divided by their Euclidean norm: the cosine
            similarity of two tracklets is the product of their embeddings.

        Raises:
            BrokenVideoError: (a ValueError) a file cannot be read or has no frames.
            ValueError: another shape or dtype of frames, or an invalid number of views.
            FileNotFoundError: there is no such file.
        """
        one = not isinstance(tracklets, list | tuple)
        if not one and not tracklets:
            raise ValueError("tracklets: got an empty list, expected one or more")
        source = GivenTracklets([tracklets] if one else list(tracklets), self.settings.size)
        found = self.embed_source(source, range(len(source.tracklets)), views=views, on_error="fail")
        vectors = nn.functional.normalize(found.vectors, dim=1)
        return vectors[0] if one else vectors

    predict = embed

    def embed_source(
        self,
        source: TrackletSource,
        indices: Sequence[int],
        *,
        views: int = VIEWS,
        batch: int = 16,
        workers: int = 0,
        on_error: OnError = "skip",
        broken: BrokenClips | None = None,
        on_views: Callable[[int, int], None] | None = None,
    ) -> Embedded:
        """Embed tracklets of a source; see `evaluation.embed`. The embeddings are not normalized."""
        if views < 1:
            raise ValueError(f"views: got {views}, expected 1 or more")
        options: dict[str, Any] = {"views": views, "batch": batch, "workers": workers}
        options |= {"on_error": on_error, "broken": broken, "on_views": on_views}
        with evaluating(self.network):
            return embed(self.network, source, indices, self.settings, self.inputs, **options)


class Trained(NamedTuple):
    """A trained network, and the content of its file."""

    model: TrackletEmbedder
    content: Mapping[str, Any]


def load_embedder(checkpoint: str | os.PathLike[str], *, network: str = "") -> TrackletEmbedder:
    """Load a trained network; see `torch_nonlocal.load`, which returns it."""
    return read_trained(Path(checkpoint), network).model


def read_trained(weights: Path, network: str = "") -> Trained:
    """Read a trained network.

    Args:
        weights: checkpoints/best.pt of a run, or the folder of the run.
        network: name of the network instead of the one in the file; only this one can be FILE.py:FUNCTION.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not hold weights of this task, or its settings and tensors do not fit. The message
            names what reads a file of another kind.
        ImportError: a package is not installed; the message names the extra.
    """
    path = weights_path(weights)
    content = read_trained_file(path, "reid")
    return Trained(embedder_of(path, content, network), content)


def embedder_of(path: Path, content: Mapping[str, Any], network: str = "") -> TrackletEmbedder:
    """The trained network of a file, in eval mode, on the CPU.

    Raises:
        ValueError: its settings and tensors do not fit.
        ImportError: a package is not installed; the message names the extra.
    """
    about = {name: value for name, value in content["about"].items() if name != "task"}
    try:
        check_entries(about, {"identities": int, "inputs": dict})
        identities = about.pop("identities")
        inputs = about.pop("inputs")
        check_entries(inputs, {"mean": tuple[float, ...], "std": tuple[float, ...]})
        settings = settings_of_file(about, network)
        model = trained_network(replace(settings, weights=NONE), identities, content["model"], "the file")
        model.inputs = Inputs.from_dict(inputs)
        if model.inputs.channels != _CHANNELS:
            raise ValueError(f"its inputs have {counted(model.inputs.channels, 'channel')}, expected {_CHANNELS}, RGB")
    except (ImportError, FileNotFoundError):
        raise
    except Exception as error:  # settings of a file can cause any error
        raise ValueError(f"{path}: {shown(error)}") from error
    return TrackletEmbedder(model, settings, weights_digest(content["model"])).eval()


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """A digest of the weights of a network, whatever file they are in: two galleries fit if it is the same."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
