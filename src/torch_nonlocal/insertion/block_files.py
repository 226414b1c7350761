"""Block files: the weights of the non-local blocks alone, small and independent of the network's checkpoint.

A .safetensors file holds tensors named "<place>/<parameter>" and, as metadata, the plan: class and options of the block
at each place. A file with any other suffix is a `torch.save` dictionary of the same two things.
"""

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torch_nonlocal._common.plain_values import fits, parse_json, shown
from torch_nonlocal._common.tensor_files import read_weights, write_tensors
from torch_nonlocal._common.text import listed
from torch_nonlocal.insertion.attachment import CHILD, attach
from torch_nonlocal.insertion.insert import BLOCK_CLASSES, blocks
from torch_nonlocal.layers import NonLocal
from torch_nonlocal.layers.options import check_option_names
from torch_nonlocal.layers.widths import device_and_dtype

FORMAT = "torch-nonlocal blocks 1"
_CLASSES = {kind.__name__: kind for kind in BLOCK_CLASSES.values()}


def save_blocks(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the weights and options of a model's non-local blocks to a file, atomically.

    Args:
        model: a model with blocks.
        path: with the suffix .safetensors for a safetensors file (needs `pip install 'torch-nonlocal[checkpoints]'`),
            with any other for a file of `torch.save`.

    Raises:
        ValueError: the model has no blocks, or the folder does not exist.
        ImportError: safetensors is needed and not installed.
    """
    present = blocks(model)
    if not present:
        raise ValueError("the model has no blocks to save; nl.insert adds blocks")
    plan = {name: {"class": type(block).__name__, "options": block.config} for name, block in present.items()}
    tensors = {
        f"{name}/{key}": tensor.detach().cpu().contiguous()
        for name, block in present.items()
        for key, tensor in block.state_dict().items()
    }
    write_blocks(Path(path), plan, tensors)


def write_blocks(path: Path, plan: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a file that `load_blocks` reads.

    Args:
        path: as for `save_blocks`.
        plan: class and options of the block by place.
        tensors: tensors by "<place>/<parameter>".
    """
    write_tensors(path, tensors, {"format": FORMAT, "plan": json.dumps(plan)}, key="tensors")


def load_blocks(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read a file of `save_blocks`: insert the blocks that the model lacks, then load the weights of all blocks.

    Args:
        model: the network, with or without its blocks; changed in place.
        path: the file.

    Returns:
        The same model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a block file, names a module that the model does not have, differs from a block of
            the model in options or shapes, or lacks a block of the model. The model is then unchanged.
        ImportError: the file is in safetensors format and safetensors is not installed.
    """
    plan, tensors = _read(Path(path))
    present = blocks(model)
    lacking = sorted(set(present) - set(plan))
    if lacking:
        raise ValueError(f"{path}: holds no weights for the blocks at {', '.join(lacking)}; it has {', '.join(plan)}")
    modules = dict(model.named_modules())
    loaded: dict[str, NonLocal] = {}
    for name, entry in plan.items():
        if name not in modules:
            raise ValueError(f"{path}: has a block for {name!r}, which this model does not have")
        if name not in present and hasattr(modules[name], CHILD):
            raise ValueError(f"{path}: {name!r} has a child named {CHILD!r} that is not a block of torch-nonlocal")
        loaded[name] = _new_block(path, name, entry, tensors, present.get(name), modules[name])
    for name, block in loaded.items():
        if name in present:
            present[name].load_state_dict(block.state_dict())
        else:
            attach(modules[name], block)
    return model


def _new_block(
    path: Any, name: str, entry: Any, tensors: dict[str, Tensor], present: NonLocal | None, module: nn.Module
) -> NonLocal:
    """A new block with the file's weights, checked against the block of the model, which is not changed."""
    prefix = f"{name}/"
    weights = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    try:
        kind, options = _CLASSES[entry["class"]], dict(entry["options"])
        check_option_names("a block of the file", options.keys() - {"channels"})
        _check_shapes(kind(**{**options, "device": "meta", "dtype": None}), weights)  # before memory is taken
        like = next(module.parameters(), None)
        device, dtype = (like.device, like.dtype) if like is not None else (None, None)
        if present is not None:
            device, dtype = device_and_dtype(present)
        block = kind(**{**options, "device": device, "dtype": dtype})
        block.load_state_dict(weights)
    except Exception as error:  # options of wrong types can cause any error
        raise ValueError(f"{path}: the block for {name!r} cannot be read: {shown(error)}") from error
    if present is not None:
        cost_only = {"algorithm": None, "checkpoint": None}  # change no number, so they can differ
        ours, theirs = present.config | cost_only, block.config | cost_only
        if type(present) is not kind or ours != theirs:
            differing = [key for key in ours if ours[key] != theirs[key]] or ["class"]
            raise ValueError(
                f"{path}: the block for {name!r} differs in {', '.join(differing)}: "
                f"the file has {[theirs.get(key, kind.__name__) for key in differing]}, "
                f"the model {[ours.get(key, type(present).__name__) for key in differing]}"
            )
    return block


def _check_shapes(block: NonLocal, weights: dict[str, Tensor]) -> None:
    """Require the tensors of a block, which can be on the meta device."""
    own = block.state_dict()
    wrong = [key for key in {**own, **weights} if key not in own or key not in weights]
    if wrong:
        missing, unexpected = ([key for key in wrong if key in one] for one in (own, weights))
        raise ValueError(f"missing keys: {listed(missing) or 'none'}; unexpected keys: {listed(unexpected) or 'none'}")
    for key, tensor in weights.items():
        if tensor.shape != own[key].shape:
            raise ValueError(f"{key} has shape {tuple(tensor.shape)}, its options make it {tuple(own[key].shape)}")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        file = read_weights(path)
        if (found := file.facts.get("format")) != FORMAT:
            raise ValueError(f"format {shown(found)}, expected {FORMAT!r}")
        text = file.facts.get("plan")
        plan = parse_json(text) if isinstance(text, str) else None
        if not isinstance(plan, dict) or not all(fits(name, str) for name in plan):
            raise ValueError("it holds no plan")
    except ValueError as error:
        problem = str(error).replace(f"{path} ", "it ", 1)
        raise ValueError(f"{path} is not a file of nl.save_blocks: {problem}") from error
    return plan, file.tensors
