"""Inflation of a 2D network to a 3D network by repeating kernels over time (Carreira and Zisserman, CVPR 2017)."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from torch_nonlocal._common.text import listed
from torch_nonlocal.inflation.modules import (
    BatchNormAct3d,
    ClipCount,
    FrameAvgPool3d,
    RunsByFrame,
    SeparableConv3d,
    TakesClips,
    TimeConv3d,
    change_class,
)
from torch_nonlocal.inflation.tracing import has_own_forward, pools_before_scores, takes_any_axes
from torch_nonlocal.insertion.targets import Places, find_targets

Init: TypeAlias = Literal["repeat", "center"]
TimePadding: TypeAlias = Literal["replicate", "zeros"]
INITS: tuple[Init, ...] = get_args(Init)
TIME_PADDINGS: tuple[TimePadding, ...] = get_args(TimePadding)
_SAME_CLASSES = {nn.BatchNorm2d: nn.BatchNorm3d, nn.Dropout2d: nn.Dropout3d}
_POOLS = {
    nn.MaxPool2d: nn.MaxPool3d,
    nn.AvgPool2d: nn.AvgPool3d,
    nn.AdaptiveAvgPool2d: nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool2d: nn.AdaptiveMaxPool3d,
}
_OF_CLIPS = (
    *(nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.InstanceNorm3d, nn.MaxPool3d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d, nn.Dropout3d, TakesClips),
)
_TIMM_SAME_CONV = ("timm.layers.conv2d_same", "Conv2dSame")
_TIMM_NORM_ACT = ("timm.layers.norm_act", "BatchNormAct2d")


class _Kernels(NamedTuple):
    """How the chosen convolutions get a kernel over time; see `inflate`."""

    frames: int
    center: bool
    time_padding: TimePadding
    separable: bool

    def of_one_frame(self) -> "_Kernels":
        return self._replace(frames=1, separable=False)


def inflate_weight(weight: Tensor, time_kernel: int, *, center: bool = False) -> Tensor:
    """Inflate a 2D kernel (O, I, H, W) to a 3D kernel (O, I, time_kernel, H, W).

    Args:
        weight: kernel of a 2D convolution.
        time_kernel: number of frames.
        center: False repeats the kernel and divides it by `time_kernel`, so that a still clip has the image's output.
            True places the kernel on the middle frame with zeros elsewhere, so that every frame has the output that it
            has alone.
    """
    if not center:
        return weight.unsqueeze(2).repeat(1, 1, time_kernel, 1, 1) / time_kernel
    inflated = torch.zeros(*weight.shape[:2], time_kernel, *weight.shape[2:], dtype=weight.dtype, device=weight.device)
    inflated[:, :, time_kernel // 2] = weight
    return inflated


def inflate(
    model: nn.Module,
    time_kernel: int = 3,
    *,
    at: Places | None = None,
    init: Init = "repeat",
    time_padding: TimePadding = "replicate",
    time_stride: Mapping[str, int] | None = None,
    separable: bool = False,
    example_input: Tensor | None = None,
) -> nn.Module:
    """Inflate a 2D network for images (B, 3, H, W) to a new 3D network for clips (B, 3, T, H, W).

    The chosen convolutions get a kernel over time. All other layers process each frame as an image. Modules, names and
    state_dict keys are those of the 2D network; only the kernels have one more axis. If the network returns scores
    (B, K), time is averaged: before the last layer if a pool or `nn.Flatten` precedes it, otherwise over the scores of
    the frames. The 2D network is unchanged.

    By default, time is padded by repeating the first and the last frame, and a still clip has the image's output on
    every frame. With zero padding, as in I3D, this holds only for frames that are further from both ends than all
    kernels together reach.

    Args:
        model: a 2D network. Its forward may be written for images (permute, mean over (2, 3), functional pools): it
            then runs on all frames as one batch, and the modules that it calls still receive clips.
        time_kernel: number of frames of a chosen kernel, odd.
        at: convolutions that get the kernel over time: names, globs, modules of `model`, or a list of these, as for
            `insert`. None chooses all convolutions with a kernel larger than 1 x 1, including depthwise ones.
        init: "repeat" repeats each kernel over time and divides it by `time_kernel` (I3D). "center" places the kernel
            on the middle frame with zeros elsewhere, so that each frame initially has the output that it has alone.
        time_padding: "replicate" or "zeros".
        time_stride: strides over time in frames, by name or glob of convolutions, max pools and average pools;
            1 elsewhere. Both branches of a residual block need the same stride.
        separable: factor each chosen kernel into the 2D kernel and a kernel over time per output channel, an additional
            parameter `time_weight` (O, 1, time_kernel, 1, 1). The output is initially the same. On CPUs, a training
            step of a network with depthwise convolutions is two to three times as fast; fewer kernels can be learned.
        example_input: images (B, 3, H, W) to check the result on. In eval mode and with repeated edge frames, their
            still clips must have the 2D output.

    Returns:
        A new network with the device, dtype and mode of `model`.

    Raises:
        TypeError: if `model` is not a module or `example_input` is not a tensor.
        ValueError: if `time_kernel` is even or not positive, or 1 with `separable`; if the network has layers that
            cannot be inflated (the message lists them with their classes), is for clips already, has hooks or has no
            2D convolution; `at` names other modules than convolutions, an option has a wrong value, or the check on
            the example fails.
    Reference: Carreira and Zisserman, Quo Vadis, Action Recognition?, CVPR 2017, section 2.4 (I3D).

    Example:
        >>> net3d = nl.inflate(torchvision.models.resnet18(), 3)
        >>> net3d(torch.randn(1, 3, 8, 224, 224)).shape
        torch.Size([1, 1000])
    """
    if init == "centre":
        warnings.warn("init='centre' is deprecated: use init='center'", DeprecationWarning, stacklevel=2)
        init = "center"
    _check_options(model, time_kernel, init, time_padding, separable)
    if example_input is not None and (not isinstance(example_input, Tensor) or example_input.ndim != 4):
        raise _wrong_example(example_input)
    _check_network(model)
    chosen = _chosen_convolutions(model, at)
    strides = _strides(model, time_stride)
    kernels = _Kernels(time_kernel, init == "center", time_padding, separable)
    made = _build(model, chosen, strides, kernels)
    if example_input is not None:
        repeated = kernels._replace(time_padding="replicate")
        exact = made if kernels == repeated else _build(model, chosen, strides, repeated)
        _check_still_clip(model, exact, example_input, frames=max(2, time_kernel))
    return made


def _check_options(model: Any, time_kernel: Any, init: str, time_padding: str, separable: bool) -> None:
    if not isinstance(model, nn.Module):
        hint = "; inflate_weight takes one kernel" if isinstance(model, Tensor) else ""
        raise TypeError(f"inflate: expected a network (nn.Module), got {type(model).__name__}{hint}")
    if not isinstance(time_kernel, int) or isinstance(time_kernel, bool):
        raise TypeError(f"time_kernel: expected a number of frames (int), got {time_kernel!r}")
    if time_kernel < 1 or time_kernel % 2 == 0:
        near = max(1, time_kernel + 1)
        raise ValueError(
            f"time_kernel={time_kernel}: expected an odd number of frames, 1 or more, such as {near}. "
            "An even kernel has no middle frame and shifts features by half a frame at each layer"
        )
    if separable and time_kernel == 1:
        raise ValueError("separable=True with time_kernel=1: expected a kernel over time, such as time_kernel=3")
    if init not in INITS:
        raise ValueError(f"init={init!r}: expected {' or '.join(map(repr, INITS))}")
    if time_padding not in TIME_PADDINGS:
        raise ValueError(f"time_padding={time_padding!r}: expected {' or '.join(map(repr, TIME_PADDINGS))}")


def _wrong_example(example: Any) -> Exception:
    if isinstance(example, Tensor):
        return ValueError(f"example_input: expected images (B, 3, H, W), got {tuple(example.shape)}")
    return TypeError(f"example_input: expected a tensor of images (B, 3, H, W), got {type(example).__name__}")


def _check_network(model: nn.Module) -> None:
    of_clips = [name for name, module in model.named_modules() if isinstance(module, _OF_CLIPS)]
    if of_clips:
        first = model.get_submodule(of_clips[0])
        raise ValueError(
            f"{type(model).__name__} is for clips already: {of_clips[0]!r} is a {type(first).__name__}; "
            "expected a 2D network"
        )
    unknown = {name: problem for name, module in model.named_modules() if (problem := _problem(module))}
    if unknown:
        named = [f"{name or 'the network'} ({problem})" for name, problem in unknown.items()]
        raise ValueError(f"cannot inflate {listed(named, most=10)}")
    hooked = [name or "the network" for name, module in model.named_modules() if _has_hooks(module)]
    if hooked:
        raise ValueError(
            f"hooks at {listed(hooked, most=10)} are for images: remove them first (nl.remove for blocks, "
            "remove_weight_norm and similar functions for weights) and add them again afterwards"
        )
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} has no 2D convolution to inflate")


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _problem(module: nn.Module) -> str | None:
    """Return the module's class and the reason why it cannot be inflated, or None if it can."""
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return f"{kind.__name__}: compiled; inflate the original network"
    if isinstance(module, LazyModuleMixin):
        return f"{kind.__name__}: uninitialized weights; run the network once"
    if hasattr(module, "parametrizations"):
        return f"{kind.__name__}: parametrized; call torch.nn.utils.parametrize.remove_parametrizations first"
    if kind.__module__.startswith("torch.ao.nn"):
        return f"{kind.__name__}: quantized; inflate the original network"
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        base = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.ConvTranspose2d
        own = kind.forward is not base.forward or kind._conv_forward is not base._conv_forward  # pyright: ignore
        known = (kind.__module__, kind.__name__) == _TIMM_SAME_CONV
        return f"{kind.__name__}: a convolution with a custom forward" if own and not known else None
    if any(_is_kernel(parameter) for parameter in module.parameters(recurse=False)):
        return f"{kind.__name__}: a 2D kernel outside nn.Conv2d"
    return None


def _is_kernel(parameter: Tensor) -> bool:
    # A scale (1, C, 1, 1) has four axes as well.
    return parameter.ndim == 4 and sum(size > 1 for size in parameter.shape) > 1


def _chosen_convolutions(model: nn.Module, at: Places | None) -> set[str]:
    if at is None:
        convs = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
        return {name for name, conv in convs.items() if max(conv.kernel_size) > 1}
    places = {"": model} if at is model else find_targets(model, at)
    others = {name: module for name, module in places.items() if not isinstance(module, nn.Conv2d)}
    if others:
        named = listed([f"{name!r} ({type(module).__name__})" for name, module in others.items()], most=10)
        raise ValueError(f"at: expected 2D convolutions, got {named}{_convolution_inside(others)}")
    chosen = set(places.values())
    return {name for name, module in model.named_modules() if module in chosen}  # names with those of wrappers


def _convolution_inside(places: dict[str, nn.Module]) -> str:
    for name, module in places.items():
        for inner, inside in module.named_modules():
            if isinstance(inside, nn.Conv2d):
                return f"; did you mean {f'{name}.{inner}'!r}?"
    return ""


def _strides(model: nn.Module, time_stride: Mapping[str, int] | None) -> dict[str, int]:
    if time_stride is not None and not isinstance(time_stride, Mapping):
        raise TypeError(
            f"time_stride: expected a dict of names and strides in frames, such as {{'layer2.0.conv2': 2}}, "
            f"got {type(time_stride).__name__}"
        )
    strides: dict[nn.Module, int] = {}
    for place, stride in (time_stride or {}).items():
        if not isinstance(stride, int) or isinstance(stride, bool) or stride < 1:
            raise ValueError(f"time_stride at {place!r}: expected a number of frames, 1 or more, got {stride!r}")
        for name, module in find_targets(model, place).items():
            if not isinstance(module, nn.Conv2d) and not _is_strided_pool(module):
                raise ValueError(
                    f"time_stride at {name!r}: expected a convolution, nn.MaxPool2d or nn.AvgPool2d, "
                    f"got {type(module).__name__}"
                )
            strides[module] = stride
    return {name: strides[module] for name, module in model.named_modules() if module in strides}


def _is_strided_pool(module: nn.Module) -> bool:
    return type(module) in (nn.MaxPool2d, nn.AvgPool2d) and not getattr(module, "return_indices", False)


def _build(model: nn.Module, chosen: set[str], strides: dict[str, int], kernels: _Kernels) -> nn.Module:
    made = copy.deepcopy(model)
    image_code, pooled = _roles(made)
    inside = {
        module
        for name, module in made.named_modules(remove_duplicate=False)
        if any(made.get_submodule(parent) in image_code for parent in _parents(name))
    }
    count = ClipCount()
    for name, module in list(made.named_modules()):
        stride = strides.get(name, 1)
        if isinstance(module, nn.Conv2d):
            _inflate_convolution(module, kernels if name in chosen else kernels.of_one_frame(), stride)
        elif isinstance(module, nn.ConvTranspose2d):
            _inflate_transposed(module)
        elif (type(module).__module__, type(module).__name__) == _TIMM_NORM_ACT:
            module.__class__ = BatchNormAct3d
        elif type(module) in _SAME_CLASSES:
            module.__class__ = _SAME_CLASSES[type(module)]  # same attributes, other number of axes
        elif module not in image_code and type(module) in _POOLS:
            _inflate_pool(module, stride, pools_time=module in pooled)
        if module in image_code or (module in inside and has_own_forward(module)):
            change_class(module, RunsByFrame if module in image_code else TakesClips)
            module._clip_count, module._in_image_code = count, module in inside  # pyright: ignore
    return made


def _parents(name: str) -> list[str]:
    parts = name.split(".") if name else []
    return [".".join(parts[:length]) for length in range(len(parts))]


def _roles(model: nn.Module) -> tuple[set[nn.Module], set[nn.Module]]:
    """Return the modules with image code, and the pools that can pool time as well."""
    image_code: set[nn.Module] = set()
    pooled: set[nn.Module] = set()
    for name, module in model.named_modules():
        if not has_own_forward(module) or _has_a_clip_class(module):
            continue
        if not takes_any_axes(module):
            image_code.add(module)
        elif pools := pools_before_scores(module):
            # Image code around the module continues with frames, so time must not be pooled here.
            if any(model.get_submodule(parent) in image_code for parent in _parents(name)):
                image_code.add(module)
            else:
                pooled |= pools
    return image_code, pooled


def _has_a_clip_class(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) or type(module) in _SAME_CLASSES:
        return True
    if (type(module).__module__, type(module).__name__) == _TIMM_NORM_ACT:
        return True
    # Indices of maxima are pixels of a frame, not of a clip.
    return type(module) in _POOLS and not getattr(module, "return_indices", False)


def _inflate_convolution(conv: Any, kernels: _Kernels, stride: int) -> None:
    time_kernel = kernels.frames
    same = (type(conv).__module__, type(conv).__name__) == _TIMM_SAME_CONV or conv.padding == "same"
    space = (0, 0) if same or conv.padding == "valid" else conv.padding
    conv.__class__ = SeparableConv3d if kernels.separable else TimeConv3d
    conv.time_padding, conv.same = kernels.time_padding, same
    conv.kernel_size, conv.stride = (time_kernel, *conv.kernel_size), (stride, *conv.stride)
    conv.dilation, conv.padding = (1, *conv.dilation), (time_kernel // 2, *space)
    conv.output_padding = (0, 0, 0)
    conv._reversed_padding_repeated_twice = [size for size in reversed(conv.padding) for _ in range(2)]
    weight, trained = conv.weight.detach(), conv.weight.requires_grad
    if kernels.separable:
        one = weight.new_ones(conv.out_channels, 1, 1, 1)
        conv.time_weight = nn.Parameter(inflate_weight(one, time_kernel, center=kernels.center), requires_grad=trained)
    kernel = weight.unsqueeze(2) if kernels.separable else inflate_weight(weight, time_kernel, center=kernels.center)
    conv.weight = nn.Parameter(kernel, requires_grad=trained)


def _inflate_transposed(conv: Any) -> None:
    conv.__class__ = nn.ConvTranspose3d
    conv.kernel_size, conv.stride, conv.dilation = (1, *conv.kernel_size), (1, *conv.stride), (1, *conv.dilation)
    conv.padding, conv.output_padding = (0, *conv.padding), (0, *conv.output_padding)
    conv._reversed_padding_repeated_twice = [size for size in reversed(conv.padding) for _ in range(2)]
    conv.weight = nn.Parameter(conv.weight.detach().unsqueeze(2), requires_grad=conv.weight.requires_grad)


def _inflate_pool(pool: Any, stride: int, pools_time: bool) -> None:
    pool.__class__ = _POOLS[type(pool)]
    if hasattr(pool, "output_size"):
        if isinstance(pool, nn.AdaptiveAvgPool3d) and not pools_time:
            pool.__class__ = FrameAvgPool3d
        pool.output_size = (1 if pools_time else None, *_pair(pool.output_size))
        return
    pool.kernel_size, pool.stride = (1, *_pair(pool.kernel_size)), (stride, *_pair(pool.stride))
    pool.padding = (0, *_pair(pool.padding))
    if isinstance(pool, nn.MaxPool3d):
        pool.dilation = (1, *_pair(pool.dilation))


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def _check_still_clip(model: nn.Module, made: nn.Module, images: Tensor, frames: int) -> None:
    """Raise ValueError unless still clips have the output of the images."""
    image_net, clip_net = copy.deepcopy(model).eval(), copy.deepcopy(made).eval()
    clip = images.unsqueeze(2).repeat(1, 1, frames, 1, 1)
    for expected, got in zip(_tensors(image_net(images)), _tensors(clip_net(clip)), strict=True):
        expected = expected.unsqueeze(2).expand_as(got) if got.ndim == 5 and expected.ndim == 4 else expected
        if got.shape != expected.shape:
            raise ValueError(
                f"example_input: the output of a still clip has shape {tuple(got.shape)}, "
                f"expected {tuple(expected.shape)}, the shape of the image's output"
            )
        error = (got - expected).abs().max().item()
        bound = torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().max().item()
        if error > bound:
            raise ValueError(
                f"example_input: the output of a still clip differs from the image's by {error:.2g}, "
                f"expected at most {bound:.2g}"
            )


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for item in items for tensor in _tensors(item)]
