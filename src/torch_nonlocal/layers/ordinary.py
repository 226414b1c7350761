"""Whether the weights of a block's child may be used directly instead of calling the child.

A block merges its children where the result is the same: theta, phi and g as one matrix product, the batch norm folded
into W_z, w_f folded into theta and phi. Other tools change what a call of a module does: hooks, a forward replaced on
the instance, parametrizations, pruning, adapters, quantized or sharded weights, offloading. A block with such a child
calls every child, as any other network does.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn.modules import module as every_module
from torch.utils.module_tracker import ModuleTracker

from torch_nonlocal._common.autocast import autocast_dtype

_CONVS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_FORWARDS = {kind: kind.forward for kind in (*_CONVS, *_BATCH_NORMS, nn.Linear, nn.Identity)}
_ONES, _ZEROS = ((), (1,), (1, 1), (1, 1, 1)), ((), (0,), (0, 0), (0, 0, 0))
# Weights of other classes interpret operations in their own way. Fake runs and torch.export compute with the last two.
_TENSORS = (nn.Parameter, Tensor, FakeTensor, FunctionalTensor)
_GLOBAL_HOOKS = (
    every_module._global_forward_hooks,
    every_module._global_forward_pre_hooks,
    every_module._global_backward_hooks,
    every_module._global_backward_pre_hooks,
)
_AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)


def convolution_weights(module: Any, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Return the weight and bias of an ordinary 1x1 convolution with the dtype and device of its input, or None."""
    axes = _CONVS.get(type(module))
    if (
        axes is None
        or not is_untouched(module)
        or module.kernel_size != _ONES[axes]
        or module.stride != _ONES[axes]
        or module.padding != _ZEROS[axes]
        or module.groups != 1
    ):
        return None
    weight, bias = _tensor(module, "weight"), _tensor(module, "bias")
    return (weight, bias) if _is_plain(weight, dtype, device) and _is_plain(bias, dtype, device) else None


def is_linear(module: nn.Module, x: Tensor, *, recorded: bool = False) -> bool:
    """True for an ordinary linear layer, with or without a bias, whose weights have the dtype and device of x.

    Args:
        module: the module.
        x: its input.
        recorded: x is being recorded, and may have neither dtype nor device.
    """
    if type(module) is not nn.Linear or not is_untouched(module):
        return False
    weight, bias = _tensor(module, "weight"), _tensor(module, "bias")
    if recorded:
        return type(weight) in _TENSORS and (bias is None or type(bias) in _TENSORS)
    dtype, device = x.dtype, x.device
    return _is_plain(weight, dtype, device) and (bias is None or _is_plain(bias, dtype, device))


def is_fixed_norm(norm: Any, weight: Tensor) -> bool:
    """True for an ordinary batch norm in eval mode, an affine map with the dtype and device of a weight.

    False for a norm of another dtype: its statistics would be rounded.
    """
    if type(norm) not in _BATCH_NORMS or norm.training or not is_untouched(norm):
        return False
    dtype, device = weight.dtype, weight.device
    tensors = (*norm._parameters.values(), *norm._buffers.values())[:4]  # weight, bias, running mean and variance
    for tensor in tensors:
        if type(tensor) not in _TENSORS or tensor.dtype != dtype or tensor.device != device:
            return False
    return len(tensors) == 4


def is_identity(module: nn.Module) -> bool:
    """True for an ordinary identity, whose call returns its input and does nothing else."""
    return type(module) is nn.Identity and is_untouched(module)


def is_untouched(module: nn.Module) -> bool:
    """True for a module of PyTorch's own class whose call runs PyTorch's own forward and nothing else."""
    kind, own = type(module), module.__dict__
    return (
        _FORWARDS.get(kind) is kind.forward
        and not (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            or _has_hooks_of_all_modules()
        )
        and type(module.forward) is MethodType  # torch.compile has guards on this, not on keys of __dict__
        and not ("forward" in own or "_conv_forward" in own or "_call_impl" in own or "_compiled_call_impl" in own)
    )


def _has_hooks_of_all_modules() -> bool:
    return any(_GLOBAL_HOOKS) and any(_acts(hook) for hooks in _GLOBAL_HOOKS for hook in hooks.values())


def _acts(hook: Any) -> bool:
    """False for the tracker of FlopCounterMode, which only keeps names: what is counted is what otherwise runs."""
    return not isinstance(getattr(hook, "__self__", None), ModuleTracker)


def _tensor(module: nn.Module, name: str) -> Any:
    """The attribute of a module; faster than getattr, which searches the class first."""
    found = module._parameters.get(name)
    return found if found is not None else getattr(module, name, None)


def _is_plain(tensor: Any, dtype: torch.dtype, device: torch.device) -> bool:
    if type(tensor) not in _TENSORS or tensor.device != device or tensor.layout != torch.strided:
        return False
    if tensor.dtype == dtype:
        return True
    return tensor.dtype in _AUTOCAST and dtype in _AUTOCAST and autocast_dtype(device) is not None
