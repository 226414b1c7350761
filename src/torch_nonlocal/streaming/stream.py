"""`stream`: a causal network on a video as it arrives, frame by frame or in chunks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import eager
from torch_nonlocal._common.context_values import Held, added, values_of
from torch_nonlocal._common.wrappers import named_modules
from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.attention.watch import target_name
from torch_nonlocal.layers import NonLocal
from torch_nonlocal.layers.streamed import streamed_by
from torch_nonlocal.streaming.cache import BlockCache
from torch_nonlocal.streaming.convolutions import CachedConvolutions, ConvolutionCache, convolution_names
from torch_nonlocal.streaming.records import record_of
from torch_nonlocal.streaming.refused import check_by_trial, check_modules

_open: ContextVar[tuple[Held[Any], ...]] = ContextVar("torch_nonlocal_open_streams", default=())


@contextmanager
def stream(model: nn.Module, *, watch: bool = False) -> Iterator["Step"]:
    """Run a network on a video as it arrives: `step(frames)` returns the outputs of new frames.

    The outputs of all steps together are those of the whole video, in chunks of any number of frames. Causal blocks
    keep phi and g of the frames in their window (of a dot product without a window, the sum of phi^T g), and
    convolutions over time keep the frames that they reach, so that every frame is computed once. With `window_frames`,
    memory and the time of a step do not grow.

    The network consists of blocks with causal="frames" or attend="space", of convolutions with a time kernel of 1 or
    with padding of earlier frames only, and of layers that treat every frame alone. Others are refused by name, such as
    pooling over time, convolutions that pad both ends of the clip, and group norms over frames: modules with known
    rules when the context opens, all others at the first step, which first runs the network on four random frames at
    once and in parts.

    Steps run without gradients, and compiled code as plain PyTorch. The network is not changed, also not if a step
    raises an error, and other threads may run it. After an error inside the network, the stream has ended: some of its
    modules have seen frames that others have not.

    Args:
        model: a network in eval mode that maps clips (B, C, T, H, W) to outputs for each frame.
        watch: keep theta as well, for `step.seen`: records of the weights of the newest frames.

    Yields:
        the function that computes a step.

    Raises:
        ValueError: if a module mixes frames in another way than causally.
        RuntimeError: if a stream is open in this thread.

    Example:
        >>> with nl.stream(model) as step:
        ...     for frames in video:  # (1, 3, t, H, W)
        ...         y = step(frames)
    """
    if values_of(_open):
        raise RuntimeError("nl.stream: a stream is open in this thread, and streams cannot be nested")
    modules = named_modules(model)
    check_modules(modules)
    step = Step(model, modules, watch=watch)
    with added(_open, step), eager():
        try:
            yield step
        finally:
            step.close()


class Step:
    """Computes the outputs of new frames; see `stream`.

    Attributes:
        frames: the number of frames so far.
    """

    def __init__(self, model: nn.Module, modules: dict[str, nn.Module], *, watch: bool) -> None:
        self.frames = 0
        self._model, self._modules = model, modules
        self._state: _State | None = _State(modules, watch=watch)
        self._failed = False
        self._size: tuple[Any, ...] | None = None

    def __call__(self, frames: Tensor) -> Any:
        """Return the network's outputs for new frames.

        Args:
            frames: the next frames of the video, (B, C, t, H, W), with t >= 1. Sizes other than t do not change.

        Raises:
            ValueError: if the sizes, the dtype or the device are not those of the first frames, or, in the first step,
                if the network mixes frames.
            RuntimeError: if the stream has ended, or an earlier step raised an error inside the network.
        """
        if self._failed:
            raise RuntimeError(
                f"nl.stream: the step after {self.frames} frames raised an error inside the network, which ended the "
                "stream; open another stream and start from the first frame that it needs"
            )
        if self._state is None:
            raise RuntimeError(
                "nl.stream: the stream has ended; step(frames) works inside `with nl.stream(model) as step`"
            )
        self._check(frames)
        if self._size is None:
            check_by_trial(self._modules, frames, self._at_once, self._in_chunks)
            self._size = _size(frames)
        try:
            output = self._state.run(self._model, frames)
        except BaseException:
            self._failed = True
            self.close()
            raise
        self.frames += frames.shape[2]
        return output

    @property
    def seen(self) -> dict[str, BlockRecord]:
        """Records of the causal blocks by name, as of `nl.watch`, with `watch=True` only.

        Their frames are those that a block keeps: the newest frames last, after those that they see. The geometry
        divides the frames evenly.

        Raises:
            RuntimeError: if the stream has ended, has had no frames, or does not watch.
        """
        if self._state is None or self._size is None or not self._state.watches:
            raise RuntimeError("nl.stream: step.seen needs nl.stream(model, watch=True), and a step before it")
        (batch, _, *pixels), *_ = self._size
        names = {module: target_name(name) for name, module in self._modules.items()}
        return {
            names[block]: record_of(names[block], cache, batch, pixels) for block, cache in self._state.blocks.items()
        }

    def close(self) -> None:
        """End the stream and release its memory."""
        self._state = None

    def _check(self, frames: Tensor) -> None:
        if not isinstance(frames, Tensor) or frames.ndim != 5 or frames.shape[2] < 1:
            given = tuple(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
            raise ValueError(f"nl.stream: expected frames (B, C, t, H, W) with t >= 1, got {given}")
        if self._size not in (None, _size(frames)):
            shown = "(B, C, H, W), dtype and device"
            raise ValueError(f"nl.stream: expected {shown} of the first frames, {self._size}, got {_size(frames)}")

    @torch.no_grad()
    def _at_once(self, clip: Tensor) -> Any:
        with streamed_by(_attend_at_once):  # not shown to observers
            return self._model(clip)

    def _in_chunks(self, chunks: Sequence[Tensor]) -> Iterator[Any]:
        state = _State(self._modules, watch=False)
        for chunk in chunks:
            yield state.run(self._model, chunk)


class _State:
    """What the network keeps between steps."""

    def __init__(self, modules: dict[str, nn.Module], *, watch: bool) -> None:
        self.watches = watch
        self.blocks = {
            module: BlockCache(module, keep_queries=watch)
            for module in modules.values()
            if isinstance(module, NonLocal) and module.causal
        }
        self._convolutions = ConvolutionCache(convolution_names(modules))

    @torch.no_grad()
    def run(self, model: nn.Module, frames: Tensor) -> Any:
        with streamed_by(self._attend), CachedConvolutions(self._convolutions, frames.shape[2]):
            return model(frames)

    def _attend(self, block: Any, query: Tensor, key: Tensor, g_BMV: Tensor, grid: Sequence[int]) -> Tensor:
        return self.blocks[block].attend(query, key, g_BMV, grid)


def _attend_at_once(block: Any, query: Tensor, key: Tensor, g_BMV: Tensor, grid: Sequence[int]) -> Tensor:
    return block._weighted_sum(query, key, g_BMV, grid[0])


def _size(frames: Tensor) -> tuple[Any, ...]:
    batch, channels, _, *size = frames.shape
    return (batch, channels, *size), frames.dtype, frames.device
