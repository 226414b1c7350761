"""Which axis of a tensor holds the channels, from the operations that produce and consume it while a network runs.

Convolutions, batch, group and instance norms act on axis 1, linear maps, layer and RMS norms on the last axis.
`AxisTrace` follows the axes of tensors through permutations, reshapes and elementwise operations between these. It
follows axes, not sizes, so it tells C from H in a map where they are equal.
"""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

# Each axis of a tensor has a set of labels: _BATCH, _CHANNELS, or (place, axis) for an axis of the output of a place.
_BATCH, _CHANNELS = "batch", "channels"
_Labels = tuple[frozenset[Any], ...]

_CONVS = {f"conv{kind}{dims}d": dims for kind in ("", "_transpose") for dims in (1, 2, 3)}
_NORMS_OF_AXIS_1 = {"batch_norm", "group_norm", "instance_norm"}
_NORMS_OF_LAST_AXES = {"layer_norm", "rms_norm"}
_REORDERING = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT", "unsqueeze"}
_REORDERING |= {"mean", "sum", "amax", "amin", "__getitem__"}
_RESHAPING = {"view", "reshape", "flatten", "unflatten", "squeeze", "view_as", "reshape_as"}
_KEEPING = {"roll", "flip", "pad", "cat", "concat", "chunk", "split", "interpolate", "upsample", "pixel_shuffle"}
_MIXING = {"matmul", "bmm", "mm", "addmm", "baddbmm", "einsum", "tensordot", "scaled_dot_product_attention", "gather"}
_MIXING |= {"__matmul__", "__rmatmul__", "sort", "take_along_dim", "rot90"}
_DISTINCT = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049)  # sizes that tell axes apart


class AxisTrace(TorchFunctionMode):
    """Follows the axes of tensors while a network runs inside the context.

    Attributes:
        produced: the channel axis of the output of each place, by the operations before it.
        consumed: the same, by the first operation after it that acts on one axis.
        batch: the batch axis of the output of each place.
        input_size: size of the map that the first convolution takes.

    A place is absent where nothing is known.

    Args:
        example_input: an input of the model. Axis 0 of its tensors is the batch, unless they are in a list.
    """

    def __init__(self, example_input: Any) -> None:
        super().__init__()
        self.produced: dict[str, int] = {}
        self.consumed: dict[str, int] = {}
        self.batch: dict[str, int] = {}
        self.input_size: tuple[int, ...] | None = None
        self._labels = WeakTensorKeyDictionary()
        arguments = example_input.values() if isinstance(example_input, dict) else example_input
        for one in arguments if isinstance(example_input, dict | tuple) else [arguments]:
            if isinstance(one, Tensor) and one.ndim > 1:
                self._labels[one] = (frozenset({_BATCH}), *[frozenset()] * (one.ndim - 1))

    def see_output(self, place: str, output: Any) -> None:
        """Note what is known of the axes of a place's output, and follow them from here."""
        if not isinstance(output, Tensor):
            return
        labels = self._of(output)
        for found, label in ((self.produced, _CHANNELS), (self.batch, _BATCH)):
            axes = [axis for axis, own in enumerate(labels) if label in own]
            if len(axes) == 1:
                found[place] = axes[0]
        self._labels[output] = tuple(own | {(place, axis)} for axis, own in enumerate(labels))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        before = [(self._of(one), tuple(one.shape)) for one in given]  # an operation may work in place
        result = func(*args, **(kwargs or {}))
        outputs = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        if outputs and any(any(labels) or _acts(func) for labels, _ in before):
            with suppress(AttributeError, IndexError, RuntimeError, TypeError, ValueError):
                self._follow(func, args, kwargs or {}, given, before, outputs)  # unusual arguments: no evidence
        return result

    def _of(self, tensor: Tensor) -> _Labels:
        known = self._labels.get(tensor)
        return known if known is not None and len(known) == tensor.ndim else (frozenset(),) * tensor.ndim

    def _follow(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        given: list[Tensor],
        before: list[tuple[_Labels, tuple[int, ...]]],
        outputs: list[Tensor],
    ) -> None:
        name, (labels, shape) = _name(func), before[0]
        axis = _acts_on(name, args, kwargs, given)
        if axis is not None:
            if name in _CONVS and self.input_size is None:
                self.input_size = shape[2:]
            self._act(labels, axis, outputs[0])
        elif name in _REORDERING:
            self._set(outputs[0], _reordered(func, args, kwargs, labels))
        elif name in _RESHAPING:
            self._set(outputs[0], _reshaped(labels, shape, tuple(outputs[0].shape)))
        elif name not in _MIXING:
            keeps = name in _KEEPING or "pool" in name
            for out in outputs:
                self._set(out, _combined(before, tuple(out.shape), keeps=keeps))

    def _act(self, labels: _Labels, axis: int, out: Tensor) -> None:
        """An operation acts on one axis: it holds the channels of its input and of its output."""
        for label in labels[axis]:
            if isinstance(label, tuple):
                self.consumed.setdefault(*label)
        kept = [own - {_CHANNELS} for own in labels]
        kept[axis] = frozenset({_CHANNELS})
        self._set(out, tuple(kept))

    def _set(self, out: Tensor, labels: _Labels | None) -> None:
        """Label a tensor, without the axes of places that need not be followed any more."""
        if labels is not None and len(labels) == out.ndim:
            self._labels[out] = tuple(
                frozenset(one for one in own if not isinstance(one, tuple) or one[0] not in self.consumed)
                for own in labels
            )


def _name(func: Any) -> str:
    """Return the name of a function, method or property of tensors."""
    name = getattr(func, "__name__", "")
    return getattr(func.__self__, "__name__", "") if name == "__get__" else name


def _acts(func: Any) -> bool:
    name = _name(func)
    return name in _CONVS or name in _NORMS_OF_AXIS_1 or name in _NORMS_OF_LAST_AXES or name in ("linear", "matmul")


def _acts_on(name: str, args: Any, kwargs: Any, given: list[Tensor]) -> int | None:
    """Return the axis of its first tensor that an operation takes for the channels, or None."""
    if name in _CONVS:
        return 1 if given[0].ndim == _CONVS[name] + 2 else None
    if name in _NORMS_OF_AXIS_1:
        return 1 if given[0].ndim > 2 else None
    if name in _NORMS_OF_LAST_AXES:
        return -1 if len(kwargs.get("normalized_shape") or args[1]) == 1 else None
    if name in ("matmul", "__matmul__"):
        return -1 if isinstance(given[1], nn.Parameter) and given[1].ndim == 2 else None
    return -1 if name in ("linear", "multi_head_attention_forward") else None


def _reordered(func: Any, args: Any, kwargs: Any, labels: _Labels) -> _Labels:
    """Labels of the result of an operation that permutes, adds or removes axes: it runs on axes of distinct sizes."""
    first, *rest = args
    if _name(func) == "__getitem__":
        index = rest[0] if isinstance(rest[0], tuple) else (rest[0],)
        if any(isinstance(one, Tensor | list) for one in index):
            raise TypeError("indices of tensors are not followed")
        rest = [tuple(slice(None) if isinstance(one, slice) else one for one in index)]
    sizes = _DISTINCT[: first.ndim]
    moved = func(torch.empty(sizes, device="meta"), *rest, **kwargs)
    return tuple(labels[sizes.index(size)] if size in sizes else frozenset() for size in moved.shape)


def _reshaped(labels: _Labels, shape: tuple[int, ...], new: tuple[int, ...]) -> _Labels:
    """Labels after a row-major reshape: an axis remains if its size and the number of elements before it remain."""
    before = {(_product(new[:axis]), size): axis for axis, size in reversed(list(enumerate(new)))}
    moved = [frozenset() for _ in new]
    for axis, own in enumerate(labels):
        target = before.get((_product(shape[:axis]), shape[axis]))
        if target is not None:
            moved[target] = own
    return tuple(moved)


def _combined(before: list[tuple[_Labels, tuple[int, ...]]], new: tuple[int, ...], *, keeps: bool) -> _Labels | None:
    """Labels of the result of an elementwise operation with broadcasting, or of one that keeps the order of axes."""
    if not keeps and all(shape != new for _, shape in before):
        return None
    combined = [frozenset() for _ in new]
    for labels, shape in before:
        if len(shape) != len(new) if keeps else len(shape) > len(new):
            continue
        for axis in range(1, len(shape) + 1):
            if keeps or shape[-axis] == new[-axis]:
                combined[-axis] |= labels[-axis]
    return tuple(combined)


def _product(sizes: tuple[int, ...]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
