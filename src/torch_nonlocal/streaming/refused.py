"""Networks that cannot run on a video frame by frame, by the name of the module that prevents it.

Modules with known rules are checked before the first frame. All others are found by a trial, since any code may mix
frames: the network runs on a few random frames at once and one after the other, with the same results.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torch_nonlocal._common.own_hooks import own_hooks
from torch_nonlocal.layers import NonLocal
from torch_nonlocal.layers.relatives import Relative
from torch_nonlocal.streaming.convolutions import check_time_axis, of_time

CHUNKS = (1, 2, 1)
"""Frames of the trial."""

_POOLS = (nn.MaxPool3d, nn.AvgPool3d)
_ADAPTIVE = (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d)
_DROPOUTS = nn.modules.dropout._DropoutNd
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}

Ran = list[tuple[str, list[Tensor]]]


def check_modules(modules: Mapping[str, nn.Module]) -> None:
    """Check the modules of a network whose rules are known.

    Raises:
        ValueError: if a module mixes frames in another way than causally.
    """
    for name, module in modules.items():
        shown = name or type(module).__name__
        reason = _reason(shown, module)
        if reason:
            raise ValueError(f"nl.stream: {shown!r} ({type(module).__name__}) {reason}")


def _reason(name: str, module: Any) -> str:
    if isinstance(module, NonLocal):
        return _block_reason(module)
    if isinstance(module, Relative):
        return _relative_reason(module)
    if isinstance(module, _POOLS):
        sizes = [of_time(module.kernel_size), of_time(module.stride)]
        if sizes != [1, 1]:
            return f"pools over time with a kernel of {sizes[0]} and a stride of {sizes[1]} frames: expected 1 and 1"
    if isinstance(module, _ADAPTIVE) and of_time(module.output_size) is not None:
        return "pools over time: expected the output size None on the time axis, as in (None, 1, 1)"
    if type(module) is nn.Conv3d:
        check_time_axis(name, "Conv3d", module.kernel_size[0], module.stride, module.padding)
    if isinstance(module, nn.ConvTranspose3d) and (module.kernel_size[0], module.stride[0]) != (1, 1):
        return "is a transposed convolution over time: expected a kernel and a stride of 1 on the time axis"
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
        return "takes the statistics of the clip in train mode: expected model.eval()"
    if isinstance(module, _DROPOUTS) and module.training and module.p:
        return "is random in train mode: expected model.eval()"
    return ""


def _block_reason(block: NonLocal) -> str:
    if block.groups.spans_time and not block.causal:
        return f"attends to all frames (attend={block.attend!r}): expected causal='frames'"
    if block.causal and block.windows is not None:
        return f"attends within {block.groups.within}, which a stream does not keep: expected windows=None"
    if block.causal and block.keys == "pyramid":
        return "has keys='pyramid', which a stream does not keep: expected keys='pool' or 'stride'"
    if block.dims == 3 and block.grid is not None:
        return f"has a fixed number of frames, grid={block.grid}: expected a layout of maps"
    return ""


def _relative_reason(block: Relative) -> str:
    within_frames = block.computed is not None and not block.computed.groups.spans_time
    if block.dims == 3 and not within_frames:
        return f"computes over all frames: {block.name!r} has no causal form, expected 'non_local' with causal='frames'"
    return ""


def check_by_trial(
    modules: Mapping[str, nn.Module],
    frames: Tensor,
    at_once: Callable[[Tensor], Any],
    in_chunks: Callable[[Sequence[Tensor]], Iterator[Any]],
) -> None:
    """Check that a network gives the same outputs for random frames at once and one after the other.

    Args:
        modules: the modules of the network, by name.
        frames: a chunk, whose size and statistics the random frames have.
        at_once: runs the network as usual.
        in_chunks: runs it on chunks and yields their outputs.

    Raises:
        ValueError: if the outputs differ; the message names the first module whose outputs do.
    """
    clip = _random_clip(frames)
    with _recorded(modules) as ran:
        whole = _tensors(at_once(clip))
        expected = list(ran)
        runs, outputs = [], []
        ran.clear()
        for output in in_chunks(clip.split(CHUNKS, 2)):
            outputs.append(_tensors(output))
            runs.append(list(ran))
            ran.clear()
    reason = _difference(whole, outputs)
    if not reason:
        return
    for name, tensors in _first_difference(expected, runs):
        module = modules[name]
        raise ValueError(f"nl.stream: {name or 'the network'!r} ({type(module).__name__}) {tensors}")
    raise ValueError(f"nl.stream: the network {reason}")


def _first_difference(expected: Ran, runs: Sequence[Ran]) -> Iterator[tuple[str, str]]:
    if any([name for name, _ in run] != [name for name, _ in expected] for run in runs):
        return
    for number, (name, whole) in enumerate(expected):
        reason = _difference(whole, [run[number][1] for run in runs])
        if reason:
            yield name, reason


def _difference(whole: Sequence[Tensor], parts: Sequence[Sequence[Tensor]]) -> str:
    """Return how outputs for chunks differ from those for all frames; "" if they do not."""
    if any(len(part) != len(whole) for part in parts):
        return "returns another number of tensors for fewer frames"
    for one, *pieces in zip(whole, *parts, strict=True):
        axis = _time_axis(one, pieces)
        if axis is None:
            return f"has no output for each frame: it returns {tuple(one.shape)} for {sum(CHUNKS)} frames"
        joined = torch.cat(pieces, axis)
        limit = _TOLERANCE.get(one.dtype, 5e-2) * float(one.abs().max().clamp_min(1e-6)) if one.numel() else 0
        if not torch.allclose(joined, one, rtol=0, atol=limit, equal_nan=True):
            return (
                "mixes frames: its output for a frame depends on later frames, or on how many there are at once. "
                "Expected blocks with causal='frames', convolutions that are causal in time, and layers that treat "
                "every frame alone"
            )
    return ""


def _time_axis(whole: Tensor, parts: Sequence[Tensor]) -> int | None:
    for axis in range(whole.ndim):
        sizes = [part.shape[axis] for part in parts if part.ndim == whole.ndim]
        others = [part.shape[:axis] + part.shape[axis + 1 :] for part in parts]
        same = all(other == whole.shape[:axis] + whole.shape[axis + 1 :] for other in others)
        if same and sum(sizes) == whole.shape[axis] and len(sizes) == len(parts):
            return axis
    return None


def _tensors(output: Any) -> list[Tensor]:
    return [one.detach().clone() for one in tree_leaves(output) if isinstance(one, Tensor) and one.is_floating_point()]


def _random_clip(frames: Tensor) -> Tensor:
    size = (*frames.shape[:2], sum(CHUNKS), *frames.shape[3:])
    noise = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(frames.device)
    wide = frames.float()
    spread = wide.std(correction=0).nan_to_num(1.0).clamp_min(1e-3)
    return (noise * spread + wide.mean().nan_to_num(0.0)).to(frames.dtype)


@contextmanager
def _recorded(modules: Mapping[str, nn.Module]) -> Iterator[Ran]:
    """The outputs of all modules, in the order in which they end, in this thread."""
    ran: Ran = []
    with own_hooks() as hooks:
        for name, module in modules.items():
            hooks.after(module, lambda _module, _args, output, name=name: ran.append((name, _tensors(output))))
        yield ran
