"""Weights of a block that another tool keeps in a form of its own: sharded, offloaded, parametrized, with adapters.

A block file holds the weights of a plain block. They are what the block computes with: a pruned weight with its mask
applied, an adapter merged.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from torch_nonlocal._common.offload import stored_value
from torch_nonlocal._common.wrappers import is_a, unwrapped
from torch_nonlocal.distributed.sharding import gather_full, shard_like
from torch_nonlocal.layers import Block

_REMEDIES = "merge_and_unload() of peft, remove_parametrizations or prune.remove of torch.nn.utils"


@contextmanager
def gathered(model: nn.Module, *, write: bool) -> Iterator[None]:
    """Inside the context, parameters sharded by FullyShardedDataParallel (FSDP1) are whole. All processes must enter.

    Args:
        model: any network.
        write: keep changes made inside.
    """
    sharded = [module for module in model.modules() if is_a(module, "torch", "FullyShardedDataParallel")]
    if not sharded:
        yield
        return
    with type(sharded[0]).summon_full_params(model, writeback=write):  # pyright: ignore[reportAttributeAccessIssue]
        yield


@torch.no_grad()
def read(block: Block) -> dict[str, Tensor]:
    """Return the weights of a plain block that computes the same.

    Raises:
        ValueError: if a child has no weights of that form, such as a quantized layer, has no values (meta device), or
            was pruned to a width that no option of the block describes.
    """
    state, shapes = block.state_dict(), _plain_shapes(block)
    as_is = shapes.keys() <= state.keys()
    weights = {key: _whole(block, key, state[key] if as_is else None) for key in (state if as_is else shapes)}
    for key, tensor in weights.items():
        if key in shapes and tensor.shape != shapes[key]:
            raise ValueError(f"its {key} has shape {tuple(tensor.shape)}, its options make it {tuple(shapes[key])}")
    return weights


def check_writable(block: Block) -> None:
    """Check that `write` can give a block the weights of a plain block.

    Raises:
        ValueError: if another tool keeps the block's weights in another form or elsewhere.
    """
    state = block.state_dict()
    for key in sorted(_plain_shapes(block)):
        child, _, _ = key.rpartition(".")
        if key not in state:
            raise ValueError(
                f"its {child} is {_described(block, child)}. Load the blocks first, then change their layers, "
                f"or undo the change: {_REMEDIES}"
            )
        if _is_packed(state[key]):
            raise ValueError(
                f"its {key} is a {type(state[key]).__name__}. Load the blocks first, then quantize the network"
            )
        if state[key].is_meta:
            raise ValueError(
                f"its {key} is on the meta device, where the weights of the file would be lost. Load the blocks "
                "before accelerate offloads the network, or load the network's own weights first"
            )


def write(block: Block, weights: Mapping[str, Tensor]) -> None:
    """Load the weights of a plain block, checked by `check_writable`."""
    state = block.state_dict()
    block.load_state_dict(
        {key: shard_like(value, state[key]) if _is_sharded(state[key]) else value for key, value in weights.items()}
    )


def _plain_shapes(block: Block) -> dict[str, torch.Size]:
    """Shapes of the tensors of a plain block with the options of this one."""
    plain = type(block)(**{**block.config, "device": "meta", "dtype": None})
    return {key: tensor.shape for key, tensor in plain.state_dict().items()}


def _whole(block: Block, key: str, tensor: Tensor | None) -> Tensor:
    """The tensor of a plain block: `tensor`, or where that is None what the child computes with."""
    child, _, name = key.rpartition(".")
    module = block.get_submodule(child)
    if tensor is None:
        module = _merged(module)
        tensor = getattr(module, name, None)
    if isinstance(tensor, Tensor) and tensor.is_meta:
        tensor = stored_value(module, name)
        if tensor is None:
            raise ValueError(f"its {key} is on the meta device and has no values")
    if not isinstance(tensor, Tensor):
        raise ValueError(f"its {child} is {_described(block, child)}. Undo the change first: {_REMEDIES}")
    whole = gather_full(tensor) if _is_sharded(tensor) else tensor
    if _is_packed(whole):
        whole = whole.dequantize()
    return whole.detach().cpu().contiguous()


def _merged(child: nn.Module) -> nn.Module:
    """The layer that computes what a changed layer does, with its `weight` up to date."""
    if is_a(child, "peft", "BaseTunerLayer"):
        if not child.merged and not child.disable_adapters:
            child = copy.deepcopy(child)
            child.merge()  # pyright: ignore[reportCallIssue]
        return child.get_base_layer()  # pyright: ignore[reportCallIssue]
    child, training = unwrapped(child), child.training
    try:
        child.training = False  # spectral norm must not take a step
        for hook in child._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils."):  # weight norm, spectral norm, pruning
                hook(child, ())
    finally:
        child.training = training
    return child


def _described(block: Block, child: str) -> str:
    kind = type(block.get_submodule(child))
    return f"a {kind.__module__}.{kind.__qualname__}, which has no plain weights"


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def _is_packed(tensor: Tensor) -> bool:
    """Whether a tensor is made of others, such as the quantized tensors of torchao."""
    return hasattr(tensor, "__tensor_flatten__") and not _is_sharded(tensor)
