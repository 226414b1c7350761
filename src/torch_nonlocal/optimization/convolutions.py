"""Convolutions computed by oneDNN, called by name.

On a CPU, PyTorch packs the weights of a convolution in every call and, with one thread, computes many convolutions with
kernels of its own that are slower. oneDNN called by name gives the same numbers up to rounding; without gradients, its
weights are packed once.

A module is made fast by a generated subclass of its class. Packed weights live beside the module, and are packed again
when the weights change. All other calls (other dtypes and devices, autocast, compiled and traced code) run the module's
own forward.
"""

import weakref
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal._common.generated_classes import generated_subclass, reduced_by_base
from torch_nonlocal._common.onednn import convolution
from torch_nonlocal._common.tracing import is_plain_call
from torch_nonlocal.insertion.attachment import change_plain_type, plain_type

_FAST = "_torch_nonlocal_fast"
_KINDS: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Conv3d)


class Uses(NamedTuple):
    """The calls for which a convolution is fast.

    Attributes:
        inference: calls without gradients use packed weights.
        training: calls with gradients use oneDNN.
    """

    inference: bool
    training: bool


class _Packed(NamedTuple):
    """Packed weights, and what tells whether the weights that they were made from have changed."""

    version: int
    address: int
    sample: Tensor
    weight: Tensor


_packed: "weakref.WeakKeyDictionary[nn.Module, _Packed]" = weakref.WeakKeyDictionary()
_classes: dict[tuple[type[nn.Module], Uses], type[nn.Module]] = {}


def can_be_fast(module: nn.Module) -> bool:
    """Return whether a module is an ordinary convolution in float32 on a CPU that oneDNN computes."""
    if own_type(module) not in _KINDS or "forward" in vars(module) or not _has_onednn():
        return False
    conv: Any = module
    weight = conv.weight
    return (
        type(weight.data) is Tensor
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def own_type(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module without the subclass that `make_fast` generates."""
    kind = plain_type(module)
    return kind.__bases__[0] if _FAST in kind.__dict__ else kind


def uses_of(module: nn.Module) -> Uses:
    """Return the calls for which a convolution is fast."""
    return getattr(type(module), _FAST, Uses(inference=False, training=False))


def make_fast(module: nn.Module, uses: Uses) -> None:
    """Let a convolution for which `can_be_fast` holds use oneDNN by name for some calls, and no others."""
    kind = own_type(module)
    if not any(uses):
        change_plain_type(module, kind)
    else:
        if (kind, uses) not in _classes:
            _classes[kind, uses] = _fast_class(kind, uses)
        change_plain_type(module, _classes[kind, uses])


def drop_packed(module: nn.Module) -> None:
    """Release the packed weights of a convolution that no longer uses them."""
    if not uses_of(module).inference:
        _packed.pop(module, None)


def packed_forward(conv: Any, x: Tensor) -> Tensor:
    """Compute a convolution for which `can_be_fast` holds, without gradients."""
    known = _packed.get(conv)
    weight: Tensor = conv.weight
    version = 0 if weight.is_inference() else weight._version
    sample = weight.detach().flatten(2)[_sample(weight.shape[0], weight.shape[1], weight.shape[2:].numel())]
    if known is None or known[:2] != (version, weight.data_ptr()) or not torch.equal(known.sample, sample):
        known = _packed[conv] = _Packed(version, weight.data_ptr(), sample.clone(), _pack(conv, x))
    return torch.ops.mkldnn._convolution_pointwise(x, known.weight, conv.bias, *_geometry(conv), "none", [], "")


def named_forward(conv: Any, x: Tensor) -> Tensor:
    """Compute a convolution for which `can_be_fast` holds, with gradients."""
    padding, stride, dilation, groups = _geometry(conv)
    return convolution(x, conv.weight, conv.bias, padding, stride, dilation, groups)


@cache
def _sample(outputs: int, inputs: int, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of weights that are compared in each call, two or more of every filter and input channel.

    Changes through `weight.data` do not change the version of the weight.
    """
    out, channel = torch.arange(outputs), torch.arange(inputs)
    to_out, to_channel = (
        torch.cat([out, out, channel % outputs, (channel * 7 + 3) % outputs]),
        torch.cat([out % inputs, (out * 7 + 3) % inputs, channel, channel]),
    )
    return to_out, to_channel, (to_out * 5 + to_channel * 3) % kernel


def _geometry(conv: Any) -> tuple[Any, Any, Any, int]:
    return conv.padding, conv.stride, conv.dilation, conv.groups


def _pack(conv: Any, x: Tensor) -> Tensor:
    nn_ops: Any = torch._C._nn  # pyright: ignore[reportAttributeAccessIssue]
    three = conv.weight.ndim == 5
    reorder = nn_ops.mkldnn_reorder_conv3d_weight if three else nn_ops.mkldnn_reorder_conv2d_weight
    weight = conv.weight.detach().to_mkldnn()
    return reorder(weight, *_geometry(conv), tuple(x.shape))


def _fast_class(kind: type[nn.Module], uses: Uses) -> type[nn.Module]:
    def forward(conv: Any, x: Tensor) -> Tensor:
        if _is_plain_call(conv, x):
            trains = torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)
            if trains and uses.training:
                return named_forward(conv, x)
            if not trains and uses.inference:
                return packed_forward(conv, x)
        return kind.forward(conv, x)

    def reduced(conv: nn.Module, protocol: Any) -> Any:
        return reduced_by_base(conv, kind, new_plain, protocol)

    return generated_subclass(kind, "torch_nonlocal.fast", {"forward": forward, "__reduce_ex__": reduced, _FAST: uses})


def new_plain(make: Any, args: tuple[Any, ...]) -> Any:
    """Create an uninitialized convolution, for unpickling and deepcopy; copies are plain.

    Args:
        make: function that creates a module of its own class.
        args: its arguments.
    """
    return make(*args)


def _is_plain_call(conv: Any, x: Tensor) -> bool:
    weight = conv.weight
    return (
        is_plain_call(x)
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.ndim == weight.ndim
        and x.numel() > 0
    )


def _has_onednn() -> bool:
    nn_ops: Any = torch._C._nn  # pyright: ignore[reportAttributeAccessIssue]
    reorders = hasattr(nn_ops, "mkldnn_reorder_conv3d_weight") and hasattr(nn_ops, "mkldnn_reorder_conv2d_weight")
    return torch.backends.mkldnn.is_available() and reorders and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
