"""Centers of receptive fields, found by running the network.

A NaN propagates through convolutions, pooling and activations to every output that depends on it, for any weights.
The first p pixels of one axis are set to NaN, and the last output that becomes NaN is recorded for increasing p. The p
at which it advances is the first pixel of the next output's receptive field; the same from the other end of the axis
gives the last pixel. Their midpoint is the center, exactly: center = offset + stride * index. Three consecutive steps
must lie on one line at both ends. The input is a strip, long on the probed axis and thin on the others, which makes a
run cheap.

Normalization layers and non-local blocks are bypassed, because the position of receptive fields does not depend on
them. After any other operation over the whole map (squeeze-and-excitation, adaptive pooling) every output depends on
every pixel: there is no rule.
"""

import math
import threading
import weakref
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal._common.structural_copy import NotCopiedError
from torch_nonlocal.attention.undisturbed import undisturbed
from torch_nonlocal.layers import Block

_LENGTHS = (128, 256, 512, 1024, 2048)  # candidate lengths of the strip, in pixels; half a receptive field must fit
_WIDTHS = (1, 8, 32, 96, None)  # candidate sizes of its other axes, None for the input's own; the network must run
_FREE = 5  # positions that must not depend on the end of the strip, to follow three steps
_MOST_PIXELS = 2**19  # largest batch of strips; a network that needs more is too expensive to probe
_SPLIT = 8  # the search for a step divides its interval by this in each run


class AxisRule(NamedTuple):
    """The rule center = offset + stride * index on one axis, in pixels.

    An input of `pixels` gave `cells` positions. Runs of `run` positions share a receptive field (more than one after
    upsampling).
    """

    offset: float
    stride: float
    pixels: int
    cells: int
    run: int

    def fits(self, pixels: int, cells: int) -> bool:
        """Return whether an input of this size gives the number of positions that the rule predicts."""
        return abs(cells - (self.cells + (pixels - self.pixels) / self.stride)) < self.run


@dataclass(frozen=True)
class Example:
    """Description of a network's input, sufficient to run the network on another size.

    Args:
        channels: channels of the input (B, channels, *size).
        size: size of the axes after the channels.
        dtype: floating-point type of the input.
        device: device of the input.
        call: runs the network on another tensor with the same further arguments.
    """

    channels: int
    size: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    call: Callable[[nn.Module, Tensor], Any]


_lock = threading.Lock()
_known: weakref.WeakKeyDictionary[nn.Module, dict[Any, tuple[AxisRule | None, ...]]] = weakref.WeakKeyDictionary()


def pixel_rules(
    model: nn.Module, modules: Mapping[str, nn.Module], example: Example
) -> dict[str, tuple[AxisRule | None, ...]]:
    """Return, for each module, one rule per axis of the input, or None where there is none.

    A copy runs; the model is unchanged at all times. Results are cached for the model and its `repr`, which shows
    strides and padding.

    Args:
        model: the network.
        modules: modules of the network by name; their outputs are maps (B, C, *size), or (B * T, C, H, W) for the
            frames of a clip.
        example: description of the input.
    """
    with _lock:
        known = _known.setdefault(model, {})
    architecture = hash(repr(model))  # shows strides and padding: a changed architecture is probed again
    keys = {name: (architecture, len(example.size), example.dtype, name) for name in modules}
    missing = {name: module for name, module in modules.items() if keys[name] not in known}
    if missing:
        found = _rules(model, missing, example)
        for name in missing:
            known[keys[name]] = tuple(rules.get(name) for rules in found)
    return {name: known[keys[name]] for name in modules}


def _rules(model: nn.Module, modules: Mapping[str, nn.Module], example: Example) -> list[dict[str, AxisRule | None]]:
    """Return, for each axis, the rules by name; none if the model cannot be copied."""
    axes = range(len(example.size))
    try:
        with undisturbed(model) as copy:
            copies = {name: copy[module] for name, module in modules.items()}
            return [_axis_rules(copy.model, copies, example, axis) for axis in axes]
    except NotCopiedError:
        return [{} for _ in axes]


def _axis_rules(
    model: nn.Module, modules: Mapping[str, nn.Module], example: Example, axis: int
) -> dict[str, AxisRule | None]:
    probe = _Probe(model, modules, example, axis)
    for width in _WIDTHS:
        if probe.affected([(1, "first")], _LENGTHS[1], width):
            return probe.rules(width)
    return {}


class _Reached(BaseException):
    """All modules have run, so the rest of the network is skipped. Not an Exception, which a network may catch."""


class _Probe:
    """Runs the network on strips along one axis."""

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module], example: Example, axis: int) -> None:
        self._model, self._modules, self._example, self._axis = model, modules, example, axis

    def rules(self, width: int | None) -> dict[str, AxisRule | None]:
        """Return one rule for each module, None where its steps do not lie on one line."""
        length, ends = 0, {}
        for length in _LENGTHS:
            ends = self.affected([(1, "first"), (1, "last")], length, width)
            if len(ends) == len(self._modules) and all(_is_free(*masks) for masks in ends.values()):
                break
        longer = self.affected([(1, "first")], 2 * length, width)
        searches: dict[tuple[str, str], _Search] = {}
        for name, masks in ends.items():
            more = longer[name].shape[1] - masks.shape[1] if name in longer else 0
            if _is_free(*masks) and more > 0:
                searches |= {(name, side): _edge(length / more) for side in ("first", "last")}
        edges = self._search(searches, length, width)
        return {
            name: _rule(edges[name, "first"], edges[name, "last"], length, masks.shape[1])
            for name, masks in ends.items()
            if (name, "first") in edges
        }

    def _search(
        self, searches: "dict[tuple[str, str], _Search]", length: int, width: int | None
    ) -> "dict[tuple[str, str], _Edge | None]":
        """Run all searches together: the strips that they request next form one batch."""
        asked = {key: next(search) for key, search in searches.items()}
        edges: dict[tuple[str, str], _Edge | None] = {}
        while asked:
            strips = sorted({(count, side) for (_, side), counts in asked.items() for count in counts})
            masks = self.affected(strips, length, width)
            now, asked = asked, {}
            for (name, side), counts in now.items():
                if name not in masks:
                    edges[name, side] = None
                    continue
                rows = masks[name][[strips.index((count, side)) for count in counts]]
                try:
                    asked[name, side] = searches[name, side].send(
                        _reached(rows if side == "first" else rows.flip(1)).tolist()
                    )
                except StopIteration as done:
                    edges[name, side] = done.value
        return edges

    def affected(self, strips: list[tuple[int, str]], length: int, width: int | None) -> dict[str, Tensor]:
        """Return which positions of each module depend on the NaN pixels: (strips, cells) bool; empty on failure.

        Args:
            strips: number of NaN pixels and the end they start from, "first" or "last", for each batch item.
            length: size of the probed axis, in pixels.
            width: size of the other axes, None for that of the example.
        """
        example, axis = self._example, self._axis
        size = [length if a == axis else min(width or own, own) for a, own in enumerate(example.size)]
        if len(strips) * math.prod(size) > _MOST_PIXELS:
            return {}
        x = torch.zeros(len(strips), example.channels, *size, dtype=example.dtype, device=example.device)
        for item, (count, side) in zip(x, strips, strict=True):
            item.narrow(axis + 1, 0 if side == "first" else length - count, count).fill_(math.nan)
        outputs: dict[str, Tensor] = {}
        handles = [module.register_forward_hook(self._keep(outputs, name)) for name, module in self._modules.items()]
        try:
            example.call(self._model, x)
        except _Reached:
            pass
        except Exception:  # any error means that the network does not run on a strip of this size
            outputs = outputs if len(outputs) == len(self._modules) else {}
        finally:
            for handle in handles:
                handle.remove()
        masks = {name: self._mask(output, len(strips)) for name, output in outputs.items()}
        return {name: mask for name, mask in masks.items() if mask is not None}

    def _keep(self, outputs: dict[str, Tensor], name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = (
                    module.to_map(output) if isinstance(module, Block) and module.layout != "frames" else output
                )
            if len(outputs) == len(self._modules):
                raise _Reached

        return hook

    def _mask(self, output: Tensor, strips: int) -> Tensor | None:
        """Reduce an output to NaN or not along the probed axis; the frames of a clip may be batch items."""
        axis = self._axis - (len(self._example.size) - (output.ndim - 2))
        if axis < 0 or output.shape[0] % strips:
            return None
        return output.isnan().movedim(axis + 2, -1).reshape(strips, -1, output.shape[axis + 2]).any(1).cpu()


class _Edge(NamedTuple):
    """First pixel of the receptive fields: offset + stride * index, shared by runs of `run` positions."""

    offset: float
    stride: float
    run: int


_Search = Generator[list[int], list[int], _Edge | None]  # yields numbers of NaN pixels, receives numbers of NaN outputs


def _edge(stride: float) -> _Search:
    """Search for three consecutive steps one stride apart; upsampled maps advance by several positions in a step."""
    for period in (round(stride * run) for run in (1, 2, 4)):
        if period < 1 or period > _LENGTHS[0] // 2:
            continue
        low, high = 1, 1 + period
        base, top = yield [low, high]
        if top <= base:
            continue
        while high - low > 1:
            inside = sorted({low + (high - low) * i // _SPLIT for i in range(1, _SPLIT)} - {low})
            for count, reached in zip(inside, (yield inside), strict=True):
                if reached > base:
                    high = count
                    break
                low = count
        counts = yield [high + n * period + d for n in range(3) for d in (-1, 0)]
        steps = [after - before for before, after in pairwise(counts)]
        run = steps[0]
        if run > 0 and steps == [run, 0, run, 0, run]:
            step = period / run
            return _Edge(high - 1 - step * (base + (run - 1) / 2), step, run)
    return None


def _reached(masks: Tensor) -> Tensor:
    """Number of positions up to the last that is NaN: (strips,). With dilation, some before it are not NaN."""
    counts = torch.arange(1, masks.shape[1] + 1)
    return (masks * counts).amax(1)


def _rule(first: _Edge | None, last: _Edge | None, length: int, cells: int) -> AxisRule | None:
    """Combine the edges found from both ends (the second is mirrored); None if they do not agree."""
    if first is None or last is None or first[1:] != last[1:]:
        return None
    last_offset = length - 1 - last.offset - last.stride * (cells - 1)
    return AxisRule((first.offset + last_offset) / 2, first.stride, length, cells, first.run)


def _is_free(first: Tensor, last: Tensor) -> bool:
    """Return whether enough positions depend on neither end of the strip: half a receptive field fits."""
    seen = _reached(torch.stack([first, last.flip(0)]))
    return int(seen.max()) + _FREE <= len(first)
