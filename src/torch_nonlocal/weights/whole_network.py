"""Convert a whole network of another project to a `VideoResNet` with the same architecture."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.insertion.attachment import CHILD
from torch_nonlocal.models.video_resnet import C2D, C2D_8X8, DEPTHS, I3D, I3D_8X8, KERNELS, TimePlan, VideoResNet
from torch_nonlocal.weights.assemble import without_statistics
from torch_nonlocal.weights.foreign.source import NetworkNames, Source


@dataclass(frozen=True)
class Network:
    """A whole network with the tensor names of a `VideoResNet`.

    Attributes:
        state: state dict, including the blocks.
        arguments: arguments of `nl.create_model` except `weights`: name, num_classes, non_local and block options.
        time: strides and pooling in time of the source's network; those of the named model can differ.
        kernel: `kernel` of `VideoResNet`: None, "3x1x1" or "3x3x3".
        depth: 50 or 101.
        differences: sentences about what the weights do not determine, such as pooling and input normalization.
    """

    state: dict[str, Tensor]
    arguments: dict[str, Any]
    time: TimePlan
    kernel: str | None
    depth: int
    differences: tuple[str, ...]

    def call(self, weights: str) -> str:
        """The `nl.create_model` call that loads the saved file, as source code."""
        name, *rest = (f"{key}={value!r}" for key, value in {**self.arguments, "weights": weights}.items())
        return f"nl.create_model({name.removeprefix('name=')}, {', '.join(rest)})"


def whole_network(
    tensors: Mapping[str, Tensor],
    source: Source,
    blocks: Mapping[str, Mapping[str, Tensor]],
    settings: Mapping[str, Mapping[str, Any]],
) -> tuple[Network | None, dict[str, str], str | None]:
    """Convert the network of a file.

    Args:
        tensors: tensors of the file by name.
        source: the source of the file.
        blocks: tensors of the converted blocks by place.
        settings: options of the converted blocks by place.

    Returns:
        The network or None; the new names of its tensors by the old ones; and, if the file holds a network that
        torch-nonlocal does not have, the reason.
    """
    names = source.network
    if names is None:
        return None, {}, None
    renamed = {key: new for key in tensors if (new := names.rename(key))}
    state: dict[str, Tensor] = {}
    for key, new in renamed.items():
        tensor = tensors[key]
        if new in state and not torch.equal(state[new], tensor):
            return None, {}, f"{key} differs from another tensor for {new}"
        state[new] = tensor
    if "conv1.weight" not in state or not any(key.startswith("layer4.") for key in state):
        return None, {}, None
    if (weight := state.get("fc.weight")) is not None and weight.ndim > 2:
        state["fc.weight"] = weight.flatten(1)  # fully convolutional networks have a 1x1x1 convolution here
    if source.affine:
        _add_statistics(state)
    fitting, why = _fitting(state)
    if fitting is None:
        return None, {}, why
    depth, kernel = fitting
    places = set(blocks)
    strange = sorted(places - {key.rpartition(".conv1")[0] for key in state if key.endswith(".conv1.weight")})
    if strange:
        return None, {}, f"blocks at {', '.join(map(repr, strange))}, which are not residual blocks of a VideoResNet"
    time = names.time(state["conv1.weight"].shape[2])
    name, ours = _named(depth, kernel, time)
    arguments: dict[str, Any] = {"name": name, "num_classes": len(state["fc.weight"])}
    if blocks:
        common = list(settings.values())
        if any(one != common[0] for one in common[1:]):
            return None, {}, "its blocks differ in their options, and nl.create_model gives all blocks the same options"
        arguments |= {"non_local": list(blocks), **common[0]}
        state |= {f"{place}.{CHILD}.{key}": value for place, block in blocks.items() for key, value in block.items()}
    differences = _differences(depth, kernel, time, name, ours) + names.notes
    state = {key: value.contiguous() for key, value in state.items()}
    return Network(state, arguments, time, kernel, depth, differences), renamed, None


def _add_statistics(state: dict[str, Tensor]) -> None:
    for key in [key for key in state if key.endswith(".bias") and key != "fc.bias"]:
        module = key.removesuffix(".bias")
        if f"{module}.weight" in state and f"{module}.running_mean" not in state:
            mean, variance = without_statistics(state[f"{module}.weight"])
            state |= {f"{module}.running_mean": mean, f"{module}.running_var": variance}


def _fitting(state: Mapping[str, Tensor]) -> tuple[tuple[int, str | None] | None, str]:
    """Depth and kernel of the `VideoResNet` with exactly these tensors, or how the nearest one differs."""
    stem, classes = state["conv1.weight"], state.get("fc.weight")
    if classes is None or stem.ndim != 5 or stem.shape[2] not in (C2D.stem_kernel, I3D.stem_kernel):
        kernels = f"{C2D.stem_kernel} or {I3D.stem_kernel}"
        return (
            None,
            f"its first kernel is {tuple(stem.shape)}; a VideoResNet has {kernels} frames there, and a last layer",
        )
    shapes = {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}
    nearest: list[str] | None = None
    for depth in DEPTHS:
        for kernel in (None, *KERNELS):
            if (kernel is None) != (stem.shape[2] == C2D.stem_kernel):
                continue
            ours = _shapes(depth, kernel, len(classes))
            wrong = [key for key in sorted(ours.keys() | shapes.keys()) if ours.get(key) != shapes.get(key)]
            if not wrong:
                return (depth, kernel), ""
            if nearest is None or len(wrong) < len(nearest):
                nearest = wrong
                key = wrong[0]
                example = f"{key} is {shapes.get(key, 'missing')}, expected {ours.get(key, 'missing')}"
                difference = (
                    f"the nearest is a ResNet-{depth} with kernel={kernel!r}, {len(wrong)} tensors differ: {example}"
                )
    return None, difference  # pyright: ignore[reportPossiblyUnboundVariable]


def _shapes(depth: int, kernel: str | None, classes: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = VideoResNet(depth, kernel=kernel, num_classes=classes)
    return {
        key: tuple(value.shape) for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")
    }


def _named(depth: int, kernel: str | None, time: TimePlan) -> tuple[str, TimePlan]:
    """The nearest name in `nl.list_models()` and its time plan."""
    keeps_time = time.stem_stride == 1
    if kernel is None:
        return (f"c2d_resnet{depth}_8x8", C2D_8X8) if keeps_time else (f"c2d_resnet{depth}", C2D)
    if kernel == "3x3x3":
        return f"i3d_resnet{depth}_3x3x3", I3D
    return (f"i3d_resnet{depth}_8x8", I3D_8X8) if keeps_time else (f"i3d_resnet{depth}", I3D)


def _differences(depth: int, kernel: str | None, time: TimePlan, name: str, ours: TimePlan) -> tuple[str, ...]:
    changed = [field.name for field in fields(TimePlan) if getattr(time, field.name) != getattr(ours, field.name)]
    if not changed:
        return ()
    listed = ", ".join(
        f"{field} {getattr(time, field)} in the source, {getattr(ours, field)} in the model" for field in changed
    )
    return (
        f"{name} differs in {listed}; the same network: "
        f"VideoResNet({depth}, kernel={kernel!r}, time={time!r}), from torch_nonlocal.models.video_resnet",
    )


def network_keys(tensors: Collection[str], names: NetworkNames) -> int:
    """Number of these keys that the networks of a source have."""
    return sum(names.rename(key) is not None for key in tensors)
