"""Run a network to find where its features come from, unnoticed by the network's other users.

A structural copy of the network runs. Nothing of the process is changed, not even for a moment: other threads may run
or train the network at the same time.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torch_nonlocal._common.autocast import without_autocast
from torch_nonlocal._common.capture import eager
from torch_nonlocal._common.structural_copy import NotCopiedError, StructuralCopy
from torch_nonlocal.layers.operation import is_observable

_BYPASSED = (nn.GroupNorm, nn.modules.batchnorm._NormBase)
_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")
# Hooks that are part of a network's computation: those of torch (weight norm, pruning) and of inserted blocks.
_KEPT_HOOKS = ("torch.", "torch_nonlocal.insertion")
_CONVOLUTION = torch.ops.aten.convolution.default
_PAIRS = (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default, torch.ops.aten.cat.default)
_MOST_PAIRS = 2**26  # values in a result that may have one for each pair of positions


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[StructuralCopy]:
    """Yield a copy of a model to run for its structure alone.

    Normalization layers, blocks, and modules that `nl.replace` took over return their input.

    The copy is in eval mode and has no hooks of others. Inside the context, this thread runs without gradients,
    autocast and compiled code, and operations are restricted as `_Apart` describes.

    Raises:
        NotCopiedError: the model cannot be copied; see `StructuralCopy`.
    """
    copy = StructuralCopy(model)
    for module in copy.copies():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        attributes = vars(module)
        attributes["training"] = False
        for kind in _FORWARD_HOOKS:
            attributes[kind] = OrderedDict((key, hook) for key, hook in attributes[kind].items() if _is_kept(hook))
        for kind in _BACKWARD_HOOKS:
            attributes[kind] = OrderedDict()
        if isinstance(module, _BYPASSED) or is_observable(module):
            attributes["forward"] = _identity
    devices = {tensor.device for tensor in model.parameters()} or {torch.device("cpu")}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(eager())
        for device in devices:
            stack.enter_context(without_autocast(device))
        stack.enter_context(_Apart(copy))
        yield copy


class _Apart(TorchDispatchMode):
    """Keeps the operations of this thread apart from the network and from the state of the process.

    - Random numbers come from a generator of its own.
    - Convolutions use neither cuDNN nor NNPACK: some of their algorithms mix neighboring positions in intermediate
      results, which would spread a NaN beyond the true receptive field.
    - An operation that changes a tensor of the network, or that uses one of its buffers (the copy has its own), is not
      run.
    - The attention of other projects in the network may build the map of all pairs of positions. A map that is too
      large for a probe is not built.

    Raises:
        NotCopiedError: from an operation that cannot be kept apart.
        MemoryError: from an operation whose result would be too large.
    """

    def __init__(self, copy: StructuralCopy) -> None:
        super().__init__()
        shared: list[Tensor] = [tensor for module in copy.originals() for tensor in module.parameters(recurse=False)]
        plain = [
            value for module in copy.originals() for value in list(vars(module).values()) if isinstance(value, Tensor)
        ]
        buffers = [
            tensor
            for module in copy.originals()
            if not isinstance(module, torch.jit.ScriptModule)
            for tensor in module.buffers(recurse=False)
        ]
        self._unchanged = _storages([*shared, *plain, *buffers])
        self._unused = _storages(buffers) - _storages(shared)
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if not self._unused.isdisjoint(_storages(_tensors([*args, *kwargs.values()]))):
            raise NotCopiedError(f"{func} uses a buffer of the network itself")
        if func._schema.is_mutable and not self._unchanged.isdisjoint(_storages(_written(func, args, kwargs))):
            raise NotCopiedError(f"{func} changes a tensor of the network")
        if func in _PAIRS and _values(func, args) > _MOST_PAIRS:
            raise MemoryError(f"{func}: the map of all pairs of positions is too large for a probe")
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self._random(func, args, kwargs)
        return _convolved(*args) if func is _CONVOLUTION and not kwargs else func(*args, **kwargs)

    def _random(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        names = [argument.name for argument in func._schema.arguments]
        if "generator" not in names:
            name = func._overloadname
            other = "generator" if name == "default" else f"{name}_generator"
            if other in func.overloadpacket.overloads():
                func = getattr(func.overloadpacket, other)
            elif _draws(names, func._schema.arguments, args, kwargs):
                raise NotCopiedError(f"{func} draws random numbers of the process")
            else:
                return func(*args, **kwargs)
        if kwargs.get("generator") is None:
            kwargs["generator"] = self._generator([*args, *kwargs.values()], kwargs.get("device"))
        return func(*args, **kwargs)

    def _generator(self, given: list[Any], device: Any) -> torch.Generator:
        first = next(iter(_tensors(given)), None)
        place = torch.device(device) if device is not None else first.device if first is not None else None
        place = place or torch.device("cpu")
        if place not in self._generators:
            self._generators[place] = torch.Generator(place).manual_seed(0)
        return self._generators[place]


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
    stride, padding, dilation, transposed, output_padding, groups = options
    if x.device.type != "cpu":
        without = (False, False, False, False)  # benchmark, deterministic, cudnn_enabled, allow_tf32
        return torch.ops.aten._convolution.default(x, weight, bias, *options, *without)
    if x.ndim != 4 or transposed or x.dtype != torch.float32:  # not for NNPACK
        return _CONVOLUTION(x, weight, bias, *options)
    deep = ([1, *_pair(stride)], [0, *_pair(padding)], [1, *_pair(dilation)], False, [0, *_pair(output_padding)])
    return _CONVOLUTION(x.unsqueeze(2), weight.unsqueeze(2), bias, *deep, groups).squeeze(2)


def _pair(values: list[int]) -> list[int]:
    return list(values) * (2 // len(values))


def _draws(names: list[str], schema: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether an operation without a generator argument uses random numbers: not with a dropout of 0."""
    given = {argument.name: argument.default_value for argument in schema} | dict(zip(names, args, strict=False))
    given |= kwargs
    rates = [given[name] for name in ("dropout_p", "dropout", "p") if name in given]
    return given.get("train", True) and rates != [0.0]


def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation changes."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    return _tensors(
        [
            given[argument.name]
            for argument in func._schema.arguments
            if argument.name in given and argument.alias_info is not None and argument.alias_info.is_write
        ]
    )


def _tensors(given: Any) -> list[Tensor]:
    """The tensors in a list of arguments, and in the lists among them."""
    found = []
    for value in given:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(item for item in value if isinstance(item, Tensor))
    return found


def _storages(tensors: list[Tensor]) -> set[int]:
    """Identities of the memory of tensors, without those that have none of their own."""
    found = set()
    for tensor in tensors:
        try:
            found.add(tensor.untyped_storage()._cdata)
        except (RuntimeError, NotImplementedError):  # a subclass that wraps others
            continue
    return found


def _is_kept(hook: Any) -> bool:
    source = getattr(hook, "__module__", None) or type(hook).__module__
    return source.startswith(_KEPT_HOOKS)


def _identity(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _values(func: Any, args: Any) -> int:
    """The number of values in the result of a product of batches or a concatenation."""
    if func is torch.ops.aten.cat.default:
        return sum(one.numel() for one in args[0])
    left, right = args[-2:] if func is torch.ops.aten.bmm.default else args[1:3]
    return left.shape[0] * left.shape[1] * right.shape[2]
