"""Block files: the weights of the non-local blocks alone, small and independent of the network's checkpoint.

A .safetensors file holds tensors named "<place>/<parameter>" and, as metadata, the plan: class and options of the block
at each place. The class of a relative is its name in `list_blocks`. A file with any other suffix is a `torch.save`
dictionary of the same two things.
"""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common.plain_values import fits, parse_json, shown
from torch_nonlocal._common.tensor_files import read_weights, write_tensors
from torch_nonlocal._common.text import listed
from torch_nonlocal._common.wrappers import named_modules
from torch_nonlocal.insertion.attachment import CHILD, attach
from torch_nonlocal.insertion.block_weights import check_writable, gathered, read, write
from torch_nonlocal.insertion.insert import blocks, warn_of_processes
from torch_nonlocal.insertion.probe import placement
from torch_nonlocal.insertion.stored_names import match_names, own_block
from torch_nonlocal.layers import Block
from torch_nonlocal.layers.registry import stored_kind, stored_name
from torch_nonlocal.layers.widths import device_and_dtype

FORMAT = "torch-nonlocal blocks 1"
_ON_META = (
    "the network is on the meta device, where the weights of the file would be lost. Load the network's own weights "
    "first, for example with load_state_dict(state, assign=True), or call to_empty(device=...)"
)


def save_blocks(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the weights and options of a model's non-local blocks to a file, atomically.

    Names are those of the model without wrappers. Weights are those that a block computes with: parametrizations and
    masks are applied, the active adapters of peft are merged, offloaded and sharded tensors are gathered.

    Args:
        model: a model with blocks, with or without wrappers. If it is sharded, all processes must call this function.
        path: with the suffix .safetensors for a safetensors file (needs `pip install 'torch-nonlocal[checkpoints]'`),
            with any other for a file of `torch.save`.

    Raises:
        ValueError: the model has no blocks, the weights of a block cannot be written as those of a plain block (a
            quantized layer, or theta and g pruned to different widths), or the folder does not exist.
        ImportError: safetensors is needed and not installed.
    """
    present = blocks(model)
    if not present:
        raise ValueError("the model has no blocks to save; nl.insert adds blocks")
    plan: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    with gathered(model, write=False):
        for name, block in present.items():
            try:
                plan[name] = {"class": stored_name(block), "options": block.config}
                tensors |= {f"{name}/{key}": tensor for key, tensor in read(block).items()}
            except ValueError as error:
                raise ValueError(f"the block at {name!r} cannot be saved: {error}") from error
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

    Names of the file may be those of another nesting: "model.layer3.1" of a Lightning module is loaded at "layer3.1"
    and the reverse, if one common prefix makes all names fit. A file of `nonlocal convert` also fits the network that
    its checkpoint comes from: "layer2.1" stands for "s3.pathway0_res1" of PySlowFast.

    A network on the meta device is refused. Its own weights have to be loaded first, because `to_empty` and
    `load_state_dict(assign=True)` would discard or miss the weights of blocks.

    Args:
        model: the network, with or without its blocks and with or without wrappers; changed in place. If it is sharded,
            all processes must call this function.
        path: the file.

    Returns:
        The same model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a block file, names a module that the model does not have, differs from a block of
            the model in options or shapes, or lacks a block of the model; or the model applies the same blocks in its
            own code, is on the meta device, or a tool keeps the weights of its blocks in another form. The model is
            then unchanged.
        ImportError: the file is in safetensors format and safetensors is not installed.
    """
    plan, tensors = _read(Path(path))
    with gathered(model, write=True):
        _load(model, path, plan, tensors)
    return model


def _load(model: nn.Module, path: Any, plan: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    present, modules = blocks(model), named_modules(model)
    try:
        places = _places(plan, model, present)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    lacking = sorted(set(present) - set(places.values()))
    if lacking:
        raise ValueError(f"{path}: holds no weights for the blocks at {', '.join(lacking)}; it has {', '.join(plan)}")
    loaded: dict[str, Block] = {}
    for name, entry in plan.items():
        place = places[name]
        if place not in present and CHILD in modules[place]._modules:
            raise ValueError(f"{path}: {place!r} has a child named {CHILD!r} that is not a block of torch-nonlocal")
        try:
            if place in present:
                check_writable(present[place])
                device, dtype = device_and_dtype(present[place])
            else:
                device, dtype = placement(_with_parameters(modules[place], model))
            if device.type == "meta":
                raise ValueError(_ON_META)
        except ValueError as error:
            raise ValueError(f"{path}: the block for {name!r} cannot be loaded: {error}") from error
        block = _new_block(path, name, entry, tensors, present.get(place), device, dtype)
        if place in loaded and not _equal(block, loaded[place]):
            raise ValueError(f"{path}: has two different blocks for {place!r}, one of them named {name!r}")
        loaded[place] = block
    for place, block in loaded.items():
        if place in present:
            write(present[place], block.state_dict())
        else:
            attach(modules[place], block)
    if not loaded.keys() <= present.keys():
        warn_of_processes(model)


def _places(plan: dict[str, Any], model: nn.Module, present: Collection[str]) -> dict[str, str]:
    """The place in the model of each name of the plan, by the name of torch-nonlocal or of the source's network."""
    theirs = {name: found for name, entry in plan.items() if (found := _theirs(entry))}
    if own := next(
        (own for names in theirs.values() if (own := own_block(names["block"], names["part"], model))), None
    ):
        raise ValueError(
            f"the model applies the block itself, at {own!r}, and would apply it twice: load the checkpoint into the "
            "model as its project does; nl.replace(model) makes its blocks exact and without their map"
        )
    aliases = {name: theirs[name]["place"] for name in plan if "place" in theirs.get(name, {})}
    try:
        return match_names(plan, model, present)
    except ValueError as error:
        if len(aliases) < len(plan):
            raise
        try:
            found = match_names(aliases.values(), model, present)
        except ValueError:
            raise error from None
        return {name: found[alias] for name, alias in aliases.items()}


def _theirs(entry: Any) -> dict[str, str]:
    """Names in the network of another project, of an entry of a converted file: "block", "part" and maybe "place"."""
    names = entry.get("theirs") if isinstance(entry, dict) else None
    if not isinstance(names, dict) or not all(fits(names.get(key), str) for key in ("block", "part")):
        return {}
    return {key: value for key, value in names.items() if key in ("block", "part", "place") and fits(value, str)}


def _with_parameters(module: nn.Module, model: nn.Module) -> nn.Module:
    """The module whose device and dtype a new block takes: the one it follows or, without parameters, the network."""
    return module if any(True for _ in module.parameters()) else model


def _equal(block: Block, other: Block) -> bool:
    weights, others = block.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(torch.equal(weights[key], others[key]) for key in weights)


def _new_block(
    path: Any,
    name: str,
    entry: Any,
    tensors: dict[str, Tensor],
    present: Block | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Block:
    """A new block with the file's weights, checked against the block of the model, which is not changed."""
    prefix = f"{name}/"
    weights = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    try:
        (kind, known), options = stored_kind(entry["class"]), dict(entry["options"])
        known.check_options("a block of the file", options.keys() - {"channels", *known.fixed})
        _check_shapes(kind(**{**options, "device": "meta", "dtype": None}), weights)  # before memory is taken
        block = kind(**{**options, "device": device, "dtype": dtype})
        block.load_state_dict(weights)
    except Exception as error:  # options of wrong types can cause any error
        raise ValueError(f"{path}: the block for {name!r} cannot be read: {shown(error)}") from error
    if present is not None:
        cost_only = {"algorithm": None, "checkpoint": None}  # change no number, so they can differ
        ours, theirs = present.config | cost_only, block.config | cost_only
        if type(present) is not kind or ours != theirs:
            keys = {**ours, **theirs}
            differing = [key for key in keys if ours.get(key) != theirs.get(key)] or ["class"]
            raise ValueError(
                f"{path}: the block for {name!r} differs in {', '.join(differing)}: "
                f"the file has {[theirs.get(key, stored_name(block)) for key in differing]}, "
                f"the model {[ours.get(key, stored_name(present)) for key in differing]}"
            )
    return block


def _check_shapes(block: Block, weights: dict[str, Tensor]) -> None:
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
