"""Modules of an inflated network: convolutions over time, and image code that runs frame by frame.

Every module takes clips (B, C, T, H, W). Code written for images (B, C, H, W) runs on all frames at once, as a batch
of B T images. The modules that it calls receive such a batch and convert it back to clips, so that hooks always see
clips. In every layout, time is axis 2 of a clip's tensors and the other axes are those of the image's tensors.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_nonlocal._common.tracing import is_exported

CLIP_AXES = 5
IMAGE_AXES = 4


class TimeConv3d(nn.Conv3d):
    """A convolution over clips. With a time stride of 1 it keeps the number of frames.

    `inflate` makes it from a 2D convolution. Attributes in addition to those of `nn.Conv3d`:

    Attributes:
        time_padding: "replicate" repeats the first and the last frame, "zeros" pads with zeros. Height and width keep
            the padding of the 2D convolution.
        same: pad height and width to an output of ceil(size / stride), with the odd pixel at the end.
    """

    padding: Any  # pixels, never a string; `same` replaces "same"
    time_padding: str
    same: bool

    def forward(self, input: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, out_channels, ceil(T / time stride), H', W').

        Raises:
            ValueError: if the input does not have 5 axes.
        """
        self._check_clip(input)
        if self.kernel_size[0] == 1:
            return self._convolve_frames(input[:, :, :: self.stride[0]] if self.stride[0] > 1 else input, self.bias)
        edge = self.kernel_size[0] // 2
        # F.conv3d pads time only where height and width are padded with zeros, too.
        by_conv = self.time_padding == "zeros" and self.padding_mode == "zeros"
        if self.time_padding == "replicate":
            input = _repeat_edges(input, edge)
        elif not by_conv:
            input = F.pad(input, (0, 0, 0, 0, edge, edge))
        input, space = self._pad_space(input)
        padding = (edge if by_conv else 0, *space)
        return F.conv3d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _check_clip(self, input: Tensor) -> None:
        if input.ndim != CLIP_AXES:
            raise ValueError(f"expected a clip (B, {self.in_channels}, T, H, W), got {tuple(input.shape)}")

    def _convolve_frames(self, clip: Tensor, bias: Tensor | None) -> Tensor:
        """Apply a kernel (O, I, 1, H, W) to all frames as one batch of images, which is faster than in 3D on CPUs.

        Frames are not copied in the channels-last memory format, nor where a layer before returned a batch of images.
        """
        frames, space = self._pad_space(_to_images(clip))
        kernel = self.weight.squeeze(2)
        maps = F.conv2d(frames, kernel, bias, self.stride[1:], space, self.dilation[1:], self.groups)
        return maps.unflatten(0, (clip.shape[0], clip.shape[2])).transpose(1, 2)

    def _pad_space(self, input: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Pad height and width, the last two axes, unless the convolution can; return its padding as well."""
        if not self.same and self.padding_mode == "zeros":
            return input, self.padding[1:]
        if self.same:
            spaces = [*self._same_padding(input.shape[-1], 2), *self._same_padding(input.shape[-2], 1)]
        else:
            height, width = self.padding[1:]
            spaces = [width, width, height, height]
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        # F.pad has other modes for the last two axes of images, or the last three of clips.
        zeros = [0, 0] if input.ndim == CLIP_AXES and mode != "constant" else []
        return F.pad(input, [*spaces, *zeros], mode=mode), (0, 0)

    def _same_padding(self, size: int, axis: int) -> tuple[int, int]:
        kernel, stride, dilation = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
        total = (kernel - 1) * dilation
        if stride > 1:
            largest: Any = max if torch.jit.is_tracing() else torch.sym_max  # pyright: ignore[reportPrivateImportUsage]
            total = largest((-(-size // stride) - 1) * stride + total + 1 - size, 0)
        return total // 2, total - total // 2

    def extra_repr(self) -> str:
        """The text of `nn.Conv3d` and the padding of time."""
        return f"{super().extra_repr()}, time_padding={self.time_padding}" + (", same=True" if self.same else "")


class SeparableConv3d(TimeConv3d):
    """A convolution over clips with a separable kernel: each frame in 2D, then each channel over time.

    Its kernel is `weight` (O, I, 1, H, W) times `time_weight` (O, 1, T, 1, 1), which it never forms. For depthwise
    kernels this is several times faster on CPUs. `inflate` makes it from a 2D convolution; attributes as `TimeConv3d`.
    """

    time_weight: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, out_channels, ceil(T / time stride), H', W').

        Raises:
            ValueError: if the input does not have 5 axes.
        """
        self._check_clip(input)
        maps = self._convolve_frames(input, None)
        edge, size = self.kernel_size[0] // 2, maps.shape[3:]
        # One axis for height and width: a 2D convolution over time, which has fast kernels in all memory formats.
        rows = maps.flatten(3)
        if self.time_padding == "replicate":
            rows, edge = _repeat_edges(rows, edge), 0
        kernel = self.time_weight.squeeze(4)
        rows = F.conv2d(rows, kernel, self.bias, (self.stride[0], 1), (edge, 0), groups=self.out_channels)
        return rows.unflatten(3, size)

    def kernel(self) -> Tensor:
        """The kernel (O, I, T, H, W) that this convolution applies."""
        return self.weight * self.time_weight

    def extra_repr(self) -> str:
        """The text of `TimeConv3d`."""
        return f"{super().extra_repr()}, separable"


def _repeat_edges(clip: Tensor, count: int) -> Tensor:
    """Repeat the first and the last frame. Not F.pad: its backward has no deterministic algorithm."""
    first, last = clip[:, :, :1], clip[:, :, -1:]
    return torch.cat([*[first] * count, clip, *[last] * count], dim=2)


class FrameAvgPool3d(nn.AdaptiveAvgPool3d):
    """Adaptive average pooling of each frame: (B, C, T, H, W) -> (B, C, T, height, width).

    Its output size is (None, height, width), which ONNX has no operator for; exported graphs hold the mean over height
    and width where the output is one pixel.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T, height, width)."""
        if is_exported(input) and self.output_size == (None, 1, 1):
            return input.mean((-2, -1), keepdim=True)
        return super().forward(input)


class BatchNormAct3d(nn.BatchNorm3d):
    """timm's batch norm with activation, for clips: (B, C, T, H, W) -> same shape."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T, H, W) -> same shape."""
        return self.act(self.drop(super().forward(input)))


class ClipCount:
    """The number of clips in the current batch, shared by all modules of a network.

    A batch of images is converted back to clips by this count: the number of frames changes where time is strided, the
    number of clips does not. It is also valid when a checkpointed part is recomputed in backward.
    """

    clips: int = 1


class TakesClips(nn.Module):
    """Mixin of a module called by image code: it receives a batch of images as clips, and so do its hooks."""

    # Defaults for a module derived from such a module, such as a slice of a Sequential.
    _clip_count = ClipCount()
    _in_image_code = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._in_image_code or _first_tensor(IMAGE_AXES, (args, kwargs)) is None:
            return super().__call__(*args, **kwargs)
        to_clips = functools.partial(_to_clips, clips=self._clip_count.clips)
        output = super().__call__(*_each(args, to_clips), **_each(kwargs, to_clips))
        return _each(output, _to_images)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class is created at run time, so pickle cannot find it by name.
        mixin, kind = type(self).__bases__
        return _blank, (mixin, kind), self.__dict__.copy()


class RunsByFrame(TakesClips):
    """Mixin of a module whose own code is for images: the code runs on a batch of all frames.

    The outermost such module averages scores (B T, K) of frames over time, as in I3D.
    """


def run_by_frame(module: RunsByFrame, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a module's image forward on the frames of all clips in its arguments.

    Args:
        module: the module.
        forward: the forward method of its 2D class.
        args: positional arguments with clips (B, C, T, H, W).
        kwargs: keyword arguments with clips.

    Returns:
        The output with maps as clips. The outermost module averages scores (B T, K) over time.

    Raises:
        ValueError: if the input is images instead of clips, or the network returns tokens (B T, L, C).
    """
    clip = _first_tensor(CLIP_AXES, (args, kwargs))
    if clip is None:
        image = _first_tensor(IMAGE_AXES, (args, kwargs))
        if image is not None and not module._in_image_code:
            raise ValueError(f"expected a clip (B, C, T, H, W), got {tuple(image.shape)}")
        return forward(module, *args, **kwargs)
    count = module._clip_count
    count.clips = clip.shape[0]
    output = forward(module, *_each(args, _to_images), **_each(kwargs, _to_images))
    if module._in_image_code:
        return _each(output, functools.partial(_to_clips, clips=clip.shape[0]))
    return _each(output, functools.partial(_to_clips_or_scores, clips=clip.shape[0], name=type(module).__name__))


def change_class(module: nn.Module, mixin: type[TakesClips]) -> None:
    """Add a mixin to a module's class, in place. The class name and the parameters do not change."""
    module.__class__ = _mixed(mixin, type(module))


@functools.cache
def _mixed(mixin: Any, kind: Any) -> type[nn.Module]:
    names: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    if mixin is RunsByFrame:

        @functools.wraps(kind.forward)
        def forward(self: RunsByFrame, *args: Any, **kwargs: Any) -> Any:
            return run_by_frame(self, kind.forward, args, kwargs)

        names["forward"] = forward
    return type(kind.__name__, (mixin, kind), names)


def _blank(mixin: type[TakesClips], kind: type[nn.Module]) -> nn.Module:
    made = _mixed(mixin, kind)
    return nn.Module.__new__(made)


def _to_images(value: Tensor) -> Tensor:
    return value.transpose(1, 2).flatten(0, 1) if value.ndim == CLIP_AXES else value


def _to_clips(value: Tensor, clips: int) -> Tensor:
    return value.unflatten(0, (clips, -1)).transpose(1, 2) if value.ndim == IMAGE_AXES else value


def _to_clips_or_scores(value: Tensor, clips: int, name: str) -> Tensor:
    if value.ndim in (0, IMAGE_AXES, CLIP_AXES):
        return _to_clips(value, clips)
    if value.ndim == 3:
        raise ValueError(
            f"{name} returns {tuple(value.shape)} for a batch of frames: "
            "expected maps (B T, C, H, W) or scores (B T, K)"
        )
    return value.unflatten(0, (clips, -1)).mean(1)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to every tensor in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)((key, _each(item, change)) for key, item in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_each(item, change) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(_each(item, change) for item in value)
    return value


def _first_tensor(axes: int, value: Any) -> Tensor | None:
    """Return the first tensor with `axes` axes in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value if value.ndim == axes else None
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return next((found for item in items if (found := _first_tensor(axes, item)) is not None), None)
