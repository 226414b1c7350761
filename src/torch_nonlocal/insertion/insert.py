"""In-place insertion and removal of blocks. The network's own state_dict keys do not change.

`attachment` describes how a block is attached to the module it follows. Nothing is wrapped: the network keeps its keys
and works with deepcopy, pickle, torch.export, fx, torch.compile, DDP and FSDP2.
"""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Unpack

from torch import nn

from torch_nonlocal._common.text import listed
from torch_nonlocal._common.wrappers import named_copies, named_modules, synchronizer, unwrapped
from torch_nonlocal.insertion.attachment import (
    CHILD,
    attach,
    detach,
    is_attached,
    is_fusable,
    nearest_container,
    reparameterized,
)
from torch_nonlocal.insertion.attachment import apply_non_local as apply_non_local  # the name in pickles of 0.2
from torch_nonlocal.insertion.probe import Output, output_by_module, outputs_by_run
from torch_nonlocal.insertion.targets import Places, find_targets, preset_targets
from torch_nonlocal.layers import Block
from torch_nonlocal.layers.options import AnyBlockOptions
from torch_nonlocal.layers.registry import NON_LOCAL, Kind, block_kind

Model = TypeVar("Model", bound=nn.Module)


def insert(
    model: Model, at: Places, example_input: Any = None, *, block: str = NON_LOCAL, **options: Unpack[AnyBlockOptions]
) -> Model:
    """Insert a block after each chosen module, in place. The model's output stays bit-identical at first.

    The gates "se" and "cbam" are the exception: they change the output from the start.

    All checks run before the first change: if an error is raised, the model is unchanged.

    Args:
        model: any network, with or without wrappers; changed in place.
        at: places: a module name ("layer3.1"), a glob ("layer3.*"; `*` matches within one segment, `**` across
            segments), a module, "paper-1", "paper-5", "paper-10" or "nvan" (placements in a ResNet-like network),
            or a list of these. A Sequential ("layer3") stands for its last module. Of a preset's places, those that do
            not run on the example input are left out with a warning: decoders of some networks use two stages only.
        example_input: an input of the model: a tensor, a tuple of arguments, a dict of keyword arguments, or any other
            single argument. The model runs on it in eval mode, and is unchanged afterwards, to find the channels and
            the layout at each place. Not needed for convolutions, batch norms and ResNet blocks.
        block: "non_local", or the name of a relative, see `list_blocks`.
        **options: options of the block, see `NonLocal`, or the class of the relative in
            `torch_nonlocal.layers.relatives`. A non-local block is a `NonLocal1d`, `NonLocal2d` or `NonLocal3d`
            according to the axes of the place's output. A block takes the device, dtype (that of the module's
            parameters under autocast) and layout of the output unless they are given. Tokens (B, N, C) of an image
            network need `grid`, such as grid=(14, 14).

    Returns:
        The same model.

    Raises:
        ValueError: if nothing matches `at` or there is no such block (the message suggests the nearest name), a place
            already has a block, does not run exactly once on the example input or does not return one map
            (B, C, *size) or (B, *size, C) of 3 to 5 axes or tokens with a `grid`, the layout of its output is not
            certain, or an option has a wrong value.
        TypeError: if a block has no such option. The message suggests the nearest one and lists all.

    Example:
        >>> nl.insert(model, at="layer3.*", example_input=torch.randn(1, 3, 8, 64, 64))
    """
    kind = block_kind(block)
    kind.check_options("insert", options, parameters=("at", "example_input", "block"))
    targets = find_targets(model, at)
    check_free(targets)
    if example_input is None:
        outputs = {name: output_by_module(model, name, module, options) for name, module in targets.items()}
    else:
        outputs = outputs_by_run(model, targets, example_input, options, preset_targets(model, at))
    made = {name: make_block(kind, name, output, options) for name, output in outputs.items()}
    for name, one in made.items():
        attach(targets[name], one)
    _warn_of_leaves(model, made)
    warn_of_processes(model)
    return model


def _warn_of_leaves(model: nn.Module, names: Iterable[str]) -> None:
    """Warn of blocks after a layer that tools merge with its neighbors."""
    modules = named_modules(model)
    parents = {name: name.rpartition(".")[0] for name in names if name}
    merged = {name: around for name in parents if (around := reparameterized(modules, name))}
    for name, around in merged.items():
        warnings.warn(
            f"the block at {name} is inside {around} ({type(modules[around]).__name__}), which drops the block when "
            f"its layers are merged, as by reparameterize_model of timm. If you use that, insert at {around}",
            stacklevel=3,
        )
    others = {name: parent for name, parent in parents.items() if name not in merged}
    leaves = [n for n, parent in others.items() if is_fusable(modules[parent], n.rpartition(".")[2])]
    if not leaves:
        return
    nearest = [near for near in dict.fromkeys(nearest_container(modules, parents[name]) for name in leaves) if near]
    advice = f"insert at {listed(nearest)}" if nearest else "fuse first, then insert the block"
    warnings.warn(
        f"the block at {listed(leaves)} follows a convolution or batch norm. Tools that fuse the two by isinstance, "
        f"such as fuse_conv_bn of mmcv, move or drop the block. If you use one, {advice}",
        stacklevel=3,
    )


def warn_of_processes(model: nn.Module) -> None:
    """Warn that a wrapper of several processes does not exchange the gradients of blocks inserted after wrapping."""
    if wrapper := synchronizer(model):
        warnings.warn(
            f"{wrapper} does not exchange the gradients of modules that are inserted after wrapping: blocks trained in "
            "several processes would differ. Insert blocks before the network is wrapped",
            stacklevel=3,
        )


def check_free(places: Mapping[str, nn.Module]) -> None:
    """Check that places have no block.

    Raises:
        ValueError: if a place has a block, or a child of another kind under the name of blocks. The message names the
            place.
    """
    for name, module in places.items():
        child = dict(module._modules.items()).get(CHILD)  # a plain attribute of this name is no block
        if child is None:
            continue
        if isinstance(unwrapped(child), Block):
            raise ValueError(f"{name!r} has a block already: remove it first, nl.remove(model, at={name!r})")
        raise ValueError(
            f"{name!r} has a child named {CHILD!r} of type {type(child).__name__}, which is not a block of "
            "torch-nonlocal: choose another module"
        )


def make_block(kind: Kind, name: str, output: Output, options: AnyBlockOptions) -> Block:
    """Build the block for a place without inserting it.

    Args:
        kind: the kind of the block.
        name: name of the place, for messages.
        output: the place's output.
        options: options of the block.

    Raises:
        ValueError: if an option has a wrong value. The message names the place.
    """
    block_class, key_channels = kind.class_for(output.dims), options.get("key_channels")
    if block_class.takes_keys_from and key_channels not in (None, output.channels):
        raise ValueError(
            f"block at {name!r}: key_channels={key_channels} is for blocks that are called with keys_from, another "
            f"map; an inserted block has the map of {output.channels} channels only"
        )
    settings: AnyBlockOptions = {
        "device": output.device,
        "dtype": output.dtype,
        **options,
        "layout": output.layout,
        "grid": output.grid,
        "prefix_tokens": output.prefix_tokens,
    }
    try:
        return kind.build(output.dims, output.channels, **settings)
    except ValueError as error:
        raise ValueError(f"block at {name!r} ({block_class.__name__}, {output.channels} channels): {error}") from error


def blocks(model: nn.Module) -> dict[str, Block]:
    """Return the inserted blocks by the name of the module they follow, in the network's order.

    Wrappers around the network and inside it (DistributedDataParallel, torch.compile, peft and others) are skipped:
    names have no segment of a wrapper, and each block is returned once. Of the copies that peft holds of a module, the
    one of the active adapter is returned.

    A block that another tool has cut off from the module it followed does not run. It is not returned, and a warning
    names it.
    """
    found: dict[str, Block] = {}
    for name, module in named_modules(model).items():
        children = dict(module._modules.items())  # those of a TorchScript module are no dict
        child = children.get(CHILD)
        block = unwrapped(child) if child is not None else None
        if not isinstance(block, Block):
            continue
        if is_attached(module):
            found[name] = block
        elif block.inserted:
            warnings.warn(
                f"the block at {name!r} no longer runs: another tool removed the forward hook that applies it. Insert "
                "the block after that tool has run, or after a module with children",
                stacklevel=2,
            )
    return found


def remove(model: Model, at: Places | None = None) -> Model:
    """Remove inserted blocks, in place. The modules are as before `insert`.

    Args:
        model: a network with blocks, with or without wrappers; changed in place.
        at: places, as for `insert`. None removes all blocks.

    Returns:
        The same model.

    Raises:
        ValueError: if a named place has no block. The message lists the blocks, and the model is unchanged.
    """
    present = blocks(model)
    names = list(present if at is None else find_targets(model, at))
    without = [name for name in names if name not in present]
    if without:
        raise ValueError(f"no block at {', '.join(map(repr, without))}; blocks: {', '.join(present) or 'none'}")
    for name, module in list(named_copies(model)):
        if name in names and CHILD in module._modules:
            detach(module)
    return model
