"""Block weights in a file of their own: small, and independent of the network's checkpoint.

A `.safetensors` file holds tensors named "<place>/<parameter>" and, as metadata, the plan: class and options of the
block at each place. Any other suffix is a `torch.save` file of the same two things, read with weights_only=True.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common.tensor_files import safetensors_torch, write_tensors
from torch_nonlocal.insertion.insert import BLOCK_CLASSES, CHILD, attach, blocks
from torch_nonlocal.layers import NonLocal

FORMAT = "torch-nonlocal blocks 1"
_CLASSES = {kind.__name__: kind for kind in BLOCK_CLASSES.values()}


def save_blocks(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the weights and options of the model's blocks, and nothing else, to a file.

    Args:
        model: a network with blocks.
        path: ending in .safetensors (needs `pip install 'torch-nonlocal[checkpoints]'`) or anything else.

    Raises:
        ValueError: the model has no blocks.
        ImportError: safetensors is asked for and not installed.
    """
    present = blocks(model)
    if not present:
        raise ValueError("the model has no blocks to save; nl.insert puts them in")
    plan = {name: {"class": type(block).__name__, "options": block.config} for name, block in present.items()}
    tensors = {
        f"{name}/{key}": tensor.detach().cpu().contiguous()
        for name, block in present.items()
        for key, tensor in block.state_dict().items()
    }
    write_blocks(Path(path), plan, tensors)


def write_blocks(path: Path, plan: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a file that `load_blocks` reads: class and options by place, tensors by "<place>/<parameter>"."""
    write_tensors(path, tensors, {"format": FORMAT, "plan": json.dumps(plan)}, key="tensors")


def load_blocks(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read a file of `save_blocks`: blocks that are missing are inserted as saved, then all weights are loaded.

    Args:
        model: the network, with or without its blocks; changed in place.
        path: the file.

    Returns:
        The same model.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, a place that the model does not have, a block there with other options or
            shapes, a block of the model that the file does not hold. The model is then as it was.
    """
    plan, tensors = _read(Path(path))
    present = blocks(model)
    extra = sorted(set(present) - set(plan))
    if extra:
        raise ValueError(f"{path}: holds no weights for the blocks at {', '.join(extra)}; it has {', '.join(plan)}")
    modules = dict(model.named_modules())
    loaded: dict[str, NonLocal] = {}
    for name, entry in plan.items():
        if name not in modules:
            raise ValueError(f"{path}: has a block for {name!r}, which this model does not have")
        if name not in present and hasattr(modules[name], CHILD):
            raise ValueError(f"{path}: {name!r} has a child named {CHILD!r} that is not a block of ours")
        loaded[name] = _fresh_block(path, name, entry, tensors, present.get(name), modules[name])
    for name, block in loaded.items():
        if name in present:
            present[name].load_state_dict(block.state_dict())
        else:
            attach(modules[name], block)
    return model


def _fresh_block(
    path: Any, name: str, entry: Any, tensors: dict[str, Tensor], present: NonLocal | None, module: nn.Module
) -> NonLocal:
    """A block with the file's weights, checked against the one in the model, which is not touched."""
    try:
        kind, options = _CLASSES[entry["class"]], dict(entry["options"])
        like = present.g.weight if present is not None else next(module.parameters(), None)
        device, dtype = (like.device, like.dtype) if like is not None else (None, None)
        block = kind(**options, device=device, dtype=dtype)
        prefix = f"{name}/"
        block.load_state_dict({key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: the block for {name!r} cannot be read: {error}") from error
    if present is not None:
        cost_only = {"algorithm": None, "checkpoint": None}  # change no number, so they may differ
        ours, theirs = present.config | cost_only, block.config | cost_only
        if type(present) is not kind or ours != theirs:
            differing = [key for key in ours if ours[key] != theirs[key]] or ["class"]
            raise ValueError(
                f"{path}: the block for {name!r} differs in {', '.join(differing)}: "
                f"the file has {[theirs.get(key, kind.__name__) for key in differing]}, "
                f"the model {[ours.get(key, type(present).__name__) for key in differing]}"
            )
    return block


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"no block file at {path}")
    try:
        if path.suffix == ".safetensors":
            with safetensors_torch().safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        else:
            header = torch.load(path, map_location="cpu", weights_only=True)
            tensors = header["tensors"]
        if header.get("format") != FORMAT:
            raise ValueError(f"format {header.get('format')!r}, expected {FORMAT!r}")
        plan = json.loads(header["plan"])
        if not isinstance(plan, dict) or not isinstance(tensors, dict):
            raise ValueError("no plan in it")
        return plan, tensors
    except ImportError:
        raise
    except Exception as error:  # whatever a broken or foreign file provokes, the user learns which file it was
        raise ValueError(f"{path} is not a file of nl.save_blocks: {error}") from error
