"""Weights from files and from 2D networks, into networks with or without blocks and of other classes."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal._common.tensor_files import safetensors_torch
from torch_nonlocal.inflation.inflate import inflate_weight
from torch_nonlocal.insertion import blocks
from torch_nonlocal.models.video_resnet import VideoResNet

_log = logging.getLogger("torch_nonlocal")
_FEW = 5


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
    taken = take_weights(model, state, str(weights))
    if taken.new:
        _log.warning("%s: new are %s", weights, "; ".join(taken.new))


class Taken(NamedTuple):
    """What `take_weights` did.

    Attributes:
        tensors: how many were taken.
        inflated: how many of them are kernels that were 2D.
        new: what keeps its fresh weights, in words: the last layer, blocks.
    """

    tensors: int
    inflated: int
    new: tuple[str, ...]


def take_weights(model: nn.Module, state: Mapping[str, Tensor], source: str, *, same_classes: bool = True) -> Taken:
    """Take weights as far as they go, in place: blocks that they lack stay as inserted, so they start at zero.

    Tensors go by name. 2D kernels are inflated where the network's are 3D. The last linear layer stays as it is where
    the weights have another number of classes, or none. All else must be there and fit.

    Args:
        model: with its blocks.
        state: tensors by name.
        source: what messages call them.
        same_classes: False leaves the last layer as it is, though its size may be the same.

    Raises:
        ValueError: they do not fit; the message names tensors. The network is then as it was.
    """
    own, last = model.state_dict(), last_linear(model)
    taken: dict[str, Tensor] = {}
    inflated = 0
    for key, value in state.items():
        if key in own and value.ndim == 4 and own[key].ndim == 5:
            value, inflated = inflate_weight(value, own[key].shape[2]), inflated + 1
        of_last = key in own and key in (f"{last}.weight", f"{last}.bias")
        if of_last and not (same_classes and value.shape == own[key].shape):
            continue
        taken[key] = value
    fresh = [name for name in blocks(model) if not any(key.startswith(f"{name}.non_local.") for key in state)]
    _check_fit(source, own, taken, may_lack=(f"{last}.", *(f"{name}.non_local." for name in fresh)))
    model.load_state_dict({**own, **taken})
    new: list[str] = []
    if f"{last}.weight" not in taken:
        theirs = state.get(f"{last}.weight")
        there = "none" if theirs is None else f"{len(theirs)} {'classes' if same_classes else 'other classes'}"
        new.append(f"last layer {last} ({there} there, {len(own[f'{last}.weight'])} here)")
    if fresh:
        new.append(f"blocks at {', '.join(fresh)} (they start at zero)")
    return Taken(len(taken), inflated, tuple(new))


def last_linear(model: nn.Module) -> str:
    """The name of a network's last linear layer, which gives its scores.

    Raises:
        ValueError: it has none.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise ValueError(f"{type(model).__name__} has no linear layer at its end: it gives no scores of classes")
    return names[-1]


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
    try:
        return torchvision.models.get_model(f"resnet{depth}", weights="DEFAULT").state_dict()
    except OSError as error:  # no network, no such host, a download cut off
        raise OSError(
            f"the ImageNet weights of resnet{depth} are not on this machine, and torchvision cannot download them "
            f"({error}): bring the file (.pth) and give its path as the weights"
        ) from error


def _check_fit(
    source: str, own: Mapping[str, Tensor], taken: Mapping[str, Tensor], *, may_lack: tuple[str, ...]
) -> None:
    surplus = [key for key in taken if key not in own]
    misfits = [key for key in taken if key in own and taken[key].shape != own[key].shape]
    lacking = [
        key for key in own if key not in taken and not key.startswith(may_lack) and "num_batches_tracked" not in key
    ]
    if not (surplus or misfits or lacking):
        return
    if surplus and not misfits and not lacking and all(".non_local." in key for key in surplus):
        places = ", ".join(dict.fromkeys(key.split(".non_local.")[0] for key in surplus))
        raise ValueError(f"{source} has blocks at {places}, this network has none there: expected the same places")
    told = [
        f"{what} {', '.join(keys[:_FEW])}{f' and {len(keys) - _FEW} more' if len(keys) > _FEW else ''}"
        for what, keys in (("it lacks", lacking), ("it has besides", surplus), ("other shapes:", misfits))
        if keys
    ]
    raise ValueError(f"{source}: weights of another network: {'; '.join(told)}")
