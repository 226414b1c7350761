"""Weights for the video ResNets: a 2D ResNet's, inflated, or their own."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.insertion.inflation import inflate_weight
from torch_nonlocal.insertion.storage import safetensors_torch
from torch_nonlocal.models.video_resnet import VideoResNet

_log = logging.getLogger("torch_nonlocal")


def load_weights(model: VideoResNet, weights: str | os.PathLike[str]) -> None:
    """Load a 2D ResNet's weights by inflation, or this model's own.

    The last layer keeps its fresh weights where the number of classes differs, blocks keep theirs where the file has
    none; both are said in the log.

    Args:
        model: changed in place, only if all else fits.
        weights: "imagenet" for torchvision's, which it downloads unless it has them; or a file, .safetensors or of
            `torch.save` (read with weights_only=True).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read or does not fit; the message names the tensors.
        ImportError: torchvision or safetensors is needed and not installed.
    """
    state = _imagenet(model.depth) if weights == "imagenet" else read_state(Path(weights))
    own = model.state_dict()
    fitted: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in own and value.ndim == 4 and own[key].ndim == 5:
            value = inflate_weight(value, own[key].shape[2])
        if key.startswith("fc.") and key in own and value.shape != own[key].shape:
            _log.warning("%s: %d classes in the weights, %d here: starts fresh", key, len(value), len(own[key]))
            continue
        fitted[key] = value
    kept = {key for key in own if key.startswith("fc.") or ".non_local." in key}
    wrong = sorted(key for key, value in fitted.items() if key not in own or value.shape != own[key].shape)
    missing = sorted(set(own) - set(fitted) - kept - {key for key in own if key.endswith("num_batches_tracked")})
    if wrong or missing:
        raise ValueError(
            f"{weights}: not weights of a {type(model).__name__}-{model.depth}: "
            f"do not fit: {_few(wrong)}; missing: {_few(missing)}"
        )
    model.load_state_dict({**own, **fitted})


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; a training checkpoint's "state_dict" or "model" is looked into.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or holds no tensors by name.
        ImportError: safetensors is needed and not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors_torch().load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:  # whatever a broken file provokes, the user learns which file it was
        raise ValueError(f"{path} cannot be read as weights: {error}") from error
    for key in ("state_dict", "model", "model_state"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no tensors by name")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _imagenet(depth: int) -> dict[str, Tensor]:
    try:
        import torchvision
    except ImportError as error:
        raise ImportError("weights='imagenet' needs torchvision: pip install torchvision") from error
    return torchvision.models.get_model(f"resnet{depth}", weights="DEFAULT").state_dict()


def _few(names: list[str]) -> str:
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"
