"""Insert and remove blocks, in place; the network's own state_dict keys do not change.

A block is a child module named `non_local` of the module it follows, applied by a forward hook that is a module-level
function. Nothing is wrapped, so the network keeps its keys, and deepcopy, pickle, torch.export, fx, torch.compile,
DDP and FSDP2 see an ordinary network.
"""

from typing import Any, TypeVar

from torch import Tensor, nn

from torch_nonlocal.insertion.probe import Output, output_by_module, outputs_by_run
from torch_nonlocal.insertion.targets import Places, find_targets
from torch_nonlocal.layers import NonLocal, NonLocal1d, NonLocal2d, NonLocal3d

CHILD = "non_local"
BLOCK_CLASSES: dict[int, type[NonLocal]] = {1: NonLocal1d, 2: NonLocal2d, 3: NonLocal3d}
Model = TypeVar("Model", bound=nn.Module)


def apply_non_local(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """The forward hook of a module with a block: the block runs on the module's output."""
    return module.non_local(output)  # pyright: ignore[reportCallIssue]


def insert(model: Model, at: Places, example_input: Any = None, **block_options: Any) -> Model:
    """Put a non-local block after each chosen module, in place. Right after it the model's output is bit-identical.

    Args:
        model: any network; changed in place.
        at: where: a module name ("layer3.1"), a glob ("layer3.*"; `*` is within one segment, `**` across), a module
            object, "paper-1", "paper-5" or "paper-10" (the paper's placements in a ResNet-like network), or a list of
            these. A Sequential ("layer3") stands for its last block.
        example_input: an input the model can run: a tensor, a tuple of arguments, a dict of keyword arguments, or any
            other single argument. It tells the channels at each place. Needless for convolutions, batch norms and
            ResNet blocks, where the module itself tells.
        **block_options: options of `NonLocal3d` (or 1d, 2d: chosen by the output's axes), but for `channels`.

    Returns:
        The same model.

    Raises:
        ValueError: nothing matches (the message suggests), a place that does not run or runs more than once in the
            example, an output that is not channels first with 3 to 5 axes, a place that has a block, a wrong option.
            The model is then as it was.
        TypeError: an option that a block does not have.

    Example:
        >>> nl.insert(model, at="layer3.*", example_input=torch.randn(1, 3, 8, 64, 64))
    """
    targets = find_targets(model, at)
    for name, module in targets.items():
        if hasattr(module, CHILD):
            raise ValueError(f"{name!r} has a block already: remove it first, nl.remove(model, at={name!r})")
    if example_input is None:
        outputs = {name: output_by_module(name, module) for name, module in targets.items()}
    else:
        outputs = outputs_by_run(model, targets, example_input)
    made = {name: make_block(name, output, block_options) for name, output in outputs.items()}
    for name, block in made.items():
        attach(targets[name], block)
    return model


def make_block(name: str, output: Output, options: dict[str, Any]) -> NonLocal:
    """The block for a place, not yet in the network.

    Raises:
        ValueError: a wrong option; the message names the place.
        TypeError: an option that a block does not have.
    """
    kind = BLOCK_CLASSES[output.dims]
    settings = {"device": output.device, "dtype": output.dtype, **options}
    try:
        return kind(output.channels, **settings)
    except ValueError as error:
        raise ValueError(f"block at {name!r} ({kind.__name__}, {output.channels} channels): {error}") from error


def attach(module: nn.Module, block: NonLocal) -> None:
    """Put one block behind one module; the block takes over its training or eval mode."""
    module.add_module(CHILD, block.train(module.training))
    module.register_forward_hook(apply_non_local)


def blocks(model: nn.Module) -> dict[str, NonLocal]:
    """The inserted blocks by the name of the module they follow, in the network's order."""
    children = {name: getattr(module, CHILD, None) for name, module in model.named_modules()}
    return {name: child for name, child in children.items() if isinstance(child, NonLocal)}


def remove(model: Model, at: Places | None = None) -> Model:
    """Take blocks out again, in place: the modules are as they were before `insert`.

    Args:
        model: changed in place.
        at: which, as for `insert`; None for all.

    Returns:
        The same model.

    Raises:
        ValueError: a named place has no block; the message lists those that have. The model is then as it was.
    """
    present = blocks(model)
    names = list(present) if at is None else list(find_targets(model, at))
    without = [name for name in names if name not in present]
    if without:
        raise ValueError(f"no block at {', '.join(map(repr, without))}; blocks: {', '.join(present) or 'none'}")
    for name in names:
        _detach(model.get_submodule(name))
    return model


def _detach(module: nn.Module) -> None:
    # register_forward_hook keeps its bookkeeping in these dictionaries; a handle would not survive deepcopy or pickle.
    for key in [key for key, hook in module._forward_hooks.items() if hook is apply_non_local]:
        del module._forward_hooks[key]
        module._forward_hooks_with_kwargs.pop(key, None)
        module._forward_hooks_always_called.pop(key, None)
    delattr(module, CHILD)
