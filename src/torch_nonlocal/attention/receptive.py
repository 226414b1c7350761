"""Where a place's positions lie in the input: the centers of their receptive fields, found by running the network.

A not-a-number passes through convolutions, pooling and activations to every output that depends on it, whatever the
weights. So the first p pixels of one axis are made NaN, and the last output that turns NaN is noted. Where it advances
with p is the first pixel that the next output depends on; from the other end of the axis, the last. Their middle is the
center, exactly: center = offset + stride * index. Three steps in a row must lie on one line, at both ends. The input is
a strip, long on that axis and thin on the others, so it costs little.

Normalization layers and non-local blocks are passed over: where features come from does not depend on them. Any other
operation over the whole map (squeeze and excitation, adaptive pooling) leaves no edge to find: no rule then.
"""

import math
import weakref
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal.attention.undisturbed import undisturbed

_LENGTHS = (128, 256, 512, 1024, 2048)  # of the strip, in pixels: the first that holds half a receptive field is taken
_WIDTHS = (1, 8, 32, 96, None)  # of its other axes, None as given: the first that the network runs on
_FREE = 5  # positions that must not depend on the strip's end: three steps are followed
_MOST_PIXELS = 2**19  # of one batch of strips: beyond, the network costs too much to probe
_SPLIT = 8  # strips in a batch that narrow down where a step is


class AxisRule(NamedTuple):
    """On one axis, center = offset + stride * index in pixels.

    `pixels` of input gave `cells` positions, in runs of `run` (above 1 after up-sampling).
    """

    offset: float
    stride: float
    pixels: int
    cells: int
    run: int

    def fits(self, pixels: int, cells: int) -> bool:
        """Whether an input of another size gives the number of positions that the rule expects."""
        return abs(cells - (self.cells + (pixels - self.pixels) / self.stride)) < self.run


@dataclass(frozen=True)
class Example:
    """What the network was run on: enough to run it again on another size.

    Args:
        channels: of the input (B, channels, *size).
        size: sizes of its axes after the channels.
        dtype: floating.
        device: where it lives.
        call: runs the network on another tensor, with the other arguments as they were.
    """

    channels: int
    size: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    call: Callable[[nn.Module, Tensor], Any]


_known: weakref.WeakKeyDictionary[nn.Module, dict[Any, tuple[AxisRule | None, ...]]] = weakref.WeakKeyDictionary()


def pixel_rules(
    model: nn.Module, places: Mapping[str, nn.Module], example: Example
) -> dict[str, tuple[AxisRule | None, ...]]:
    """One rule an axis of the input for each place, None where there is none; the model is left as it was.

    Found once for a model: a second call with the same architecture costs its `repr`.

    Args:
        model: the network.
        places: modules of it by name; their outputs are maps (B, C, *size), or (B * T, C, H, W) of a clip's frames.
        example: how to run it.
    """
    known = _known.setdefault(model, {})
    print_of_model = hash(repr(model))  # strides and paddings are in it: a changed architecture is probed anew
    keys = {name: (print_of_model, len(example.size), example.dtype, name) for name in places}
    missing = {name: place for name, place in places.items() if keys[name] not in known}
    if missing:
        axes = range(len(example.size))
        found = [_axis_rules(model, missing, example, axis) if _can_probe(model) else {} for axis in axes]
        for name in missing:
            known[keys[name]] = tuple(rules.get(name) for rules in found)
    return {name: known[keys[name]] for name in places}


def _can_probe(model: nn.Module) -> bool:
    """Not on the meta device, and not sharded: one process alone would wait for the others."""
    return not any(p.is_meta or hasattr(p, "full_tensor") for p in model.parameters())


def _axis_rules(
    model: nn.Module, places: Mapping[str, nn.Module], example: Example, axis: int
) -> dict[str, AxisRule | None]:
    probe = _Probe(model, places, example, axis)
    with undisturbed(model):
        for width in _WIDTHS:
            if probe.affected([(1, "first")], _LENGTHS[1], width):
                return probe.rules(width)
    return {}


class _Reached(BaseException):
    """Every place was reached: the rest of the network need not run. Not an Exception, which a network may catch."""


class _Probe:
    """Runs strips along one axis."""

    def __init__(self, model: nn.Module, places: Mapping[str, nn.Module], example: Example, axis: int) -> None:
        self._model, self._places, self._example, self._axis = model, places, example, axis

    def rules(self, width: int | None) -> dict[str, AxisRule | None]:
        """One rule a place, None where there is no single line."""
        length, ends = 0, {}
        for length in _LENGTHS:
            ends = self.affected([(1, "first"), (1, "last")], length, width)
            if len(ends) == len(self._places) and all(_is_free(*masks) for masks in ends.values()):
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
        """Run all searches side by side: what they ask for next goes into one batch."""
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
        """Which positions of each place's axis depend on the NaN pixels: (strips, cells) bool; empty if it fails.

        Args:
            strips: one batch item each: how many pixels are NaN, from the "first" or up to the "last".
            length: pixels on the probed axis.
            width: pixels on the others, None for the example's own.
        """
        example, axis = self._example, self._axis
        size = [length if a == axis else min(width or own, own) for a, own in enumerate(example.size)]
        if len(strips) * math.prod(size) > _MOST_PIXELS:
            return {}
        x = torch.zeros(len(strips), example.channels, *size, dtype=example.dtype, device=example.device)
        for item, (count, side) in zip(x, strips, strict=True):
            item.narrow(axis + 1, 0 if side == "first" else length - count, count).fill_(math.nan)
        outputs: dict[str, Tensor] = {}
        handles = [place.register_forward_hook(self._keep(outputs, name)) for name, place in self._places.items()]
        try:
            example.call(self._model, x)
        except _Reached:
            pass
        except Exception:  # whatever a network raises on a strip means: not at this size
            outputs = outputs if len(outputs) == len(self._places) else {}
        finally:
            for handle in handles:
                handle.remove()
        masks = {name: self._mask(output, len(strips)) for name, output in outputs.items()}
        return {name: mask for name, mask in masks.items() if mask is not None}

    def _keep(self, outputs: dict[str, Tensor], name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output
            if len(outputs) == len(self._places):
                raise _Reached

        return hook

    def _mask(self, output: Tensor, strips: int) -> Tensor | None:
        """NaN or not along the probed axis; a clip's frames may have become batch items: (strips * T, C, H, W)."""
        axis = self._axis - (len(self._example.size) - (output.ndim - 2))
        if axis < 0 or output.shape[0] % strips:
            return None
        return output.isnan().movedim(axis + 2, -1).reshape(strips, -1, output.shape[axis + 2]).any(1).cpu()


class _Edge(NamedTuple):
    """First pixel that a position depends on: offset + stride * index, in runs of `run` positions."""

    offset: float
    stride: float
    run: int


_Search = Generator[list[int], list[int], _Edge | None]  # asks for strips by how many pixels are NaN, is told counts


def _edge(stride: float) -> _Search:
    """Look for three steps in a row, one stride apart; up-sampled maps step by several positions at once."""
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
    """Up to which position the NaN pixels are seen, as a count: (strips,). Dilation may leave holes before it."""
    places = torch.arange(1, masks.shape[1] + 1)
    return (masks * places).amax(1)


def _rule(first: _Edge | None, last: _Edge | None, length: int, cells: int) -> AxisRule | None:
    """The rule, from the edges seen from both ends (the second mirrored); None if they are not one line."""
    if first is None or last is None or first[1:] != last[1:]:
        return None
    last_offset = length - 1 - last.offset - last.stride * (cells - 1)
    return AxisRule((first.offset + last_offset) / 2, first.stride, length, cells, first.run)


def _is_free(first: Tensor, last: Tensor) -> bool:
    """Whether enough positions do not see the strip's first pixel, nor its last: it holds half a receptive field."""
    seen = _reached(torch.stack([first, last.flip(0)]))
    return int(seen.max()) + _FREE <= len(first)
