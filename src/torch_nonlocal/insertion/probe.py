"""The output of a place: channels, layout, device and dtype, from a run on the example input or from the module."""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from math import isqrt, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torch_nonlocal._common.autocast import autocast_dtype
from torch_nonlocal._common.capture import capture_outputs, eager, evaluating, unchanged
from torch_nonlocal._common.offload import execution_device
from torch_nonlocal._common.own_hooks import own_hooks
from torch_nonlocal._common.text import listed
from torch_nonlocal.insertion.axes import AxisTrace
from torch_nonlocal.insertion.resized import at_other_sizes
from torch_nonlocal.layers.layout import Layout
from torch_nonlocal.layers.options import AnyBlockOptions

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = ((nn.BatchNorm1d, 1), (nn.BatchNorm2d, 2), (nn.BatchNorm3d, 3))
# Residual blocks whose last convolution determines the number of output channels.
_RESIDUAL_BLOCKS = {
    (package, name)
    for package in (
        "torchvision.models.resnet",
        "torchvision.models.video.resnet",
        "timm.models.resnet",
        "torch_nonlocal.models.video_resnet",
    )
    for name in ("BasicBlock", "Bottleneck")
}


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_PREFIX_TOKENS = 16  # or a quarter of the grid: more are a sign of another grid


class Output(NamedTuple):
    """The output of a place, from which its block follows.

    Attributes:
        channels: C.
        dims: number of axes of a map: 1, 2 or 3.
        device: device of the output.
        dtype: dtype of a block's parameters.
        layout: order of the axes.
        grid: sizes of the map of tokens.
        prefix_tokens: number of tokens before the map.
    """

    channels: int
    dims: int
    device: torch.device
    dtype: torch.dtype
    layout: Layout = "channels_first"
    grid: tuple[int, ...] | None = None
    prefix_tokens: int | None = None


class Probe:
    """One run of a network on an example, and what it shows of the outputs of places.

    The channel axis of an output follows from the operations around it, see `AxisTrace`. Where they do not determine
    it, the network runs once more on an input of another size: the axis that keeps its size holds the channels. Where
    nothing speaks against it, a map is channels-first.

    Attributes:
        outputs: what the modules returned, by name, one item per run.
        axes: what the operations show of the axes.

    Args:
        model: any network. Its modes, attributes, buffers, hooks and the random state are unchanged afterwards.
        modules: the places, by name. Their outputs are kept.
        example_input: a tensor, a tuple of positional arguments, a dict of keyword arguments, or any other single
            argument (such as a detector's list of images).
        keep: what is kept of an output; the output itself by default.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        example_input: Any,
        keep: Callable[[Any], Any] = lambda output: output,
    ) -> None:
        self.axes = AxisTrace(example_input)
        self._model, self._modules, self._example = model, dict(modules), example_input
        self._input_axes = max(
            (
                one.ndim + isinstance(example_input, list)
                for one in tree_leaves(example_input)
                if isinstance(one, Tensor)
            ),
            default=0,
        )
        self._autocast: set[str] = set()
        self._other_shapes: list[dict[str, list[Any]]] | None = None
        with own_hooks() as hooks:
            for name, module in modules.items():
                hooks.after(module, self._see(name))
            with capture_outputs(modules, keep) as self.outputs, self.axes:
                _run(model, example_input)

    def output(self, name: str, options: AnyBlockOptions) -> Output:
        """Describe the output of a place.

        Args:
            name: name of the place.
            options: options of the block, of which `layout`, `grid` and `prefix_tokens` count here.

        Raises:
            ValueError: if there is not exactly one run, the output is not one floating-point tensor of 3 to 5 axes, or
                its layout is not certain. The message names the module and what to pass.
        """
        module = self._modules[name]
        place = f"{name!r} ({type(module).__name__})"
        x = one_map(place, self.outputs[name])
        grid, layout = options.get("grid"), options.get("layout")
        if layout is None:
            layout = self._layout(name, place, x, tokens=grid is not None)
        dtype = self._dtype(name, module, x)
        if layout == "frames":
            if x.ndim != 4:
                raise ValueError(
                    f"{place} returns {tuple(x.shape)}: layout='frames' applies to images (B * T, C, H, W)"
                )
            return Output(x.shape[1], 3, x.device, dtype, layout, grid)  # pyright: ignore[reportArgumentType]
        if layout != "tokens":
            channels = x.shape[1] if layout == "channels_first" else x.shape[-1]
            return Output(channels, x.ndim - 2, x.device, dtype, layout)
        if x.ndim != 3:
            raise ValueError(f"{place} returns {tuple(x.shape)}: layout='tokens' and grid= apply to tokens (B, N, C)")
        if grid is None:
            raise ValueError(f"{place} returns {tuple(x.shape)}, tokens (B, N, C): {self._advice(x.shape[1])}")
        prefix = x.shape[1] - prod(grid)
        if prefix < 0 or (prefix > max(_MOST_PREFIX_TOKENS, prod(grid) // 4) and "prefix_tokens" not in options):
            raise ValueError(
                f"{place} returns {x.shape[1]} tokens, and grid={tuple(grid)} has {prod(grid)} positions: pass "
                + (f"prefix_tokens={prefix} if {prefix} other tokens precede them" if prefix > 0 else "a smaller grid")
            )
        return Output(x.shape[2], len(grid), x.device, dtype, layout, tuple(grid), prefix)

    def _see(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            self.axes.see_output(name, output)
            if isinstance(output, Tensor) and autocast_dtype(output.device) is not None:
                self._autocast.add(name)

        return hook

    def _dtype(self, name: str, module: nn.Module, x: Tensor) -> torch.dtype:
        """Return the output's dtype, or under autocast that of the parameters of the module or the network."""
        return placement(module, self._model)[1] if name in self._autocast else x.dtype

    def _layout(self, name: str, place: str, x: Tensor, *, tokens: bool) -> Layout:
        shape = tuple(x.shape)
        if self.axes.batch.get(name, 0) != 0:
            raise ValueError(f"{place} returns {shape} with the batch on axis {self.axes.batch[name]}: expected axis 0")
        known = [axes[name] for axes in (self.axes.produced, self.axes.consumed) if name in axes]
        if len(set(known)) > 1:
            raise ValueError(
                f"{place} returns {shape} with channels on axis {known[0]} by the operations before it, and on axis "
                f"{known[1]} by those after it: pass layout='channels_first' or layout='channels_last'"
            )
        axis = known[0] if known else self._axis_that_keeps_its_size(name, place, shape)
        if axis is None and x.ndim == 3 < self._input_axes and not tokens:
            raise ValueError(
                f"{place} returns {shape}, which can be (B, C, N) or (B, N, C): pass layout='channels_first', "
                "layout='channels_last', or layout='tokens' with grid="
            )
        if axis not in (None, 1, x.ndim - 1):
            raise ValueError(f"{place} returns {shape} with channels on axis {axis}: expected axis 1 or the last one")
        if x.ndim == 3 and axis != 1 and (tokens or (axis == 2 and self._input_axes > 3)):
            return "tokens"
        if tokens:
            raise ValueError(f"{place} returns a map {shape}: grid= applies to tokens (B, N, C)")
        return "channels_last" if axis == x.ndim - 1 else "channels_first"

    def _axis_that_keeps_its_size(self, name: str, place: str, shape: tuple[int, ...]) -> int | None:
        """Return the only axis after the batch that has the same size for an input of another size, None if unknown."""
        for run in self._at_other_sizes():
            others = run[name]
            if len(others) != 1 or len(others[0]) != len(shape) or others[0][1:] == shape[1:]:
                continue
            same = [axis for axis in range(1, len(shape)) if others[0][axis] == shape[axis]]
            if len(same) == 1:
                return same[0]
            if 1 not in same:
                raise ValueError(
                    f"{place} returns {shape}, and {others[0]} for another input size, so channels are not on axis 1: "
                    "pass layout='channels_last', or choose another module"
                )
        return None

    def _at_other_sizes(self) -> list[dict[str, list[Any]]]:
        """Outputs on inputs of other sizes. A network of a fixed size fails; what ran before still counts."""
        if self._other_shapes is None:
            self._other_shapes = []
            for example in at_other_sizes(self._example):
                with capture_outputs(self._modules, _shape) as seen, suppress(Exception):  # a network of a fixed size
                    _run(self._model, example)
                self._other_shapes.append(seen)
        return self._other_shapes

    def _advice(self, tokens: int) -> str:
        side = isqrt(tokens)
        prefix = tokens - side * side
        advice = "pass grid=, the sizes of the map whose positions the tokens are"
        if self._input_axes == 4 and side > 1 and prefix <= _MOST_PREFIX_TOKENS:
            first = f" after {prefix} prefix token{'s' if prefix > 1 else ''}" if prefix else ""
            advice += f", such as grid=({side}, {side}) for a square{first}"
        return advice


def outputs_by_run(
    model: nn.Module,
    targets: dict[str, nn.Module],
    example_input: Any,
    options: AnyBlockOptions | None = None,
    may_not_run: Collection[str] = (),
) -> dict[str, Output]:
    """Run the model on the example, in eval mode without gradients, and describe the output of each target.

    Args:
        model: any network, unchanged afterwards, see `Probe`.
        targets: modules by name.
        example_input: an input of the model, see `Probe`.
        options: options of the blocks, see `Probe.output`.
        may_not_run: names of targets that are left out with a warning if they do not run, unless all do not.

    Raises:
        ValueError: if a target does not run, runs more than once, or returns no tensor of a known layout.
    """
    probe = Probe(model, targets, example_input)
    return {name: probe.output(name, options or {}) for name in running(probe.outputs, targets, may_not_run)}


def running(outputs: Mapping[str, list[Any]], names: Iterable[str], may_not_run: Collection[str]) -> list[str]:
    """Return names without those that may be left out and did not run, with a warning; all if nothing would remain."""
    names = list(names)
    idle = [name for name in names if name in may_not_run and not outputs[name]]
    if not idle or len(idle) == len(names):
        return names
    warnings.warn(f"{listed(idle)}: left out, does not run on the example input", stacklevel=4)
    return [name for name in names if name not in idle]


def output_by_module(model: nn.Module, name: str, module: nn.Module, options: AnyBlockOptions) -> Output:
    """Describe the output of a convolution, a batch norm or a ResNet block without running it.

    Args:
        model: the network, whose parameters give the device and dtype of a module without any.
        name: name of the module, for messages.
        module: the module.
        options: options of the block. A layout other than "channels_first" needs a run.

    Raises:
        ValueError: if the module is of any other class. The message asks for `example_input`.
    """
    if options.get("layout", "channels_first") != "channels_first" or options.get("grid") is not None:
        raise ValueError(f"layout= and grid= at {name!r}: pass example_input=, an input of the model, to check them")
    device, dtype = placement(module, model)
    for kind, dims in _BATCH_NORMS:
        if isinstance(module, kind):
            return Output(module.num_features, dims, device, dtype)
    conv = module if isinstance(module, _CONVS) else _last_conv(module)
    if conv is None:
        raise ValueError(
            f"the output shape of {name!r} ({type(module).__name__}) is not known from the module: "
            "pass example_input=, an input of the model"
        )
    return Output(conv.out_channels, len(conv.kernel_size), device, dtype)


def placement(module: nn.Module, model: nn.Module | None = None) -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype of a module's parameters, for a block that follows it.

    The device of parameters that accelerate has offloaded is the one that runs the module.

    Args:
        module: the module.
        model: the network, whose parameters count for a module without any.
    """
    owners = [module] if model is None else [module, model]
    found = ((owner, one) for owner in owners for one in owner.parameters() if one.dtype in _FLOATS)
    owner, parameter = next(found, (module, None))
    if parameter is None:
        return torch.device("cpu"), torch.get_default_dtype()
    offloaded = execution_device(owner) if parameter.is_meta else None
    return offloaded or parameter.device, parameter.dtype


def _last_conv(module: nn.Module) -> Any:
    if (type(module).__module__, type(module).__name__) not in _RESIDUAL_BLOCKS:
        return None
    last = getattr(module, "conv3", None) or getattr(module, "conv2", None)
    convs = [child for child in last.modules() if isinstance(child, _CONVS)] if last is not None else []
    return convs[-1] if convs else None


def call(model: nn.Module, example_input: Any) -> None:
    """Run the model on an example input: a tensor, a tuple of arguments or a dict of keyword arguments."""
    if isinstance(example_input, tuple):
        model(*example_input)
    elif isinstance(example_input, dict):
        model(**example_input)
    else:
        model(example_input)


def one_map(place: str, runs: list[Any]) -> Tensor:
    """Return the one tensor that a module returned.

    Args:
        place: name and class of the module, for messages.
        runs: its outputs, one per run.

    Raises:
        ValueError: if there is not exactly one run, or the output is not one floating-point tensor of 3 to 5 axes.
    """
    if not runs:
        raise ValueError(f"{place} does not run on the example input: a block there is never applied")
    if len(runs) > 1:
        raise ValueError(
            f"{place} runs {len(runs)} times on the example input, and a block there would run every time. "
            "Choose a module that runs once, such as the module that calls it"
        )
    output = runs[0]
    if not isinstance(output, Tensor):
        raise ValueError(
            f"{place} returns a {type(output).__name__}, not a tensor: choose a module that returns one map"
        )
    if output.ndim not in (3, 4, 5):
        raise ValueError(
            f"{place} returns a tensor of {output.ndim} axes, {tuple(output.shape)}: "
            "expected (B, C, L), (B, C, H, W) or (B, C, T, H, W)"
        )
    if not output.is_floating_point():
        raise ValueError(f"{place} returns {output.dtype}: expected a floating dtype")
    return output


def _shape(output: Any) -> tuple[int, ...]:
    return tuple(output.shape) if isinstance(output, Tensor) else ()


def _run(model: nn.Module, example_input: Any) -> None:
    with eager(), unchanged(model), evaluating(model), torch.no_grad():
        call(model, example_input)
