"""Convert a whole network of another project to a `VideoResNet` with the same architecture."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.insertion.attachment import CHILD
from torch_nonlocal.models.network_files import text_of
from torch_nonlocal.models.registry import ARCHITECTURES
from torch_nonlocal.models.video_resnet import C2D, DEPTHS, I3D, SLOW, TimePlan, VideoResNet
from torch_nonlocal.weights.assemble import without_statistics
from torch_nonlocal.weights.foreign.source import NetworkNames, Source, Trunk


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
        if ARCHITECTURES[self.arguments["name"]] != (self.depth, self.kernel, self.time):
            return f"nl.create_model({weights!r})"
        name, *rest = (f"{key}={value!r}" for key, value in {**self.arguments, "weights": weights}.items())
        return f"nl.create_model({name.removeprefix('name=')}, {', '.join(rest)})"

    @property
    def text(self) -> str:
        """The architecture and the blocks, from which `nl.create_model` builds the network of a file."""
        options = {
            key: value for key, value in self.arguments.items() if key not in ("name", "num_classes", "non_local")
        }
        classes, places = self.arguments["num_classes"], self.arguments.get("non_local", [])
        return text_of(self.depth, self.kernel, classes, self.time, places, options)


def whole_network(
    tensors: Mapping[str, Tensor],
    source: Source,
    blocks: Mapping[str, Mapping[str, Tensor]],
    settings: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> tuple[Network | None, dict[str, str], str | None]:
    """Convert the network of a file.

    Args:
        tensors: tensors of the file by name.
        source: the source of the file.
        blocks: tensors of the converted blocks by place.
        settings: options of the converted blocks by place.
        facts: values beside the tensors.

    Returns:
        The network or None; the new names of its tensors by the old ones; and, if the file holds a network that
        torch-nonlocal does not have, the reason.
    """
    names = source.network
    if names is None:
        return None, {}, None
    renamed = {key: new for key in tensors if (new := names.rename(key, tensors))}
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
    depth, kernel, inflated = fitting
    places = set(blocks)
    strange = sorted(places - {key.rpartition(".conv1")[0] for key in state if key.endswith(".conv1.weight")})
    if strange:
        return None, {}, f"blocks at {', '.join(map(repr, strange))}, which are not residual blocks of a VideoResNet"
    try:
        time = names.time(Trunk(state["conv1.weight"].shape[2], inflated == "late", facts))
    except ValueError as error:
        return None, {}, str(error)
    name = _named(depth, kernel, time, names.suffix)
    arguments: dict[str, Any] = {"name": name, "num_classes": len(state["fc.weight"])}
    if blocks:
        common = list(settings.values())
        if any(one != common[0] for one in common[1:]):
            return None, {}, "its blocks differ in their options, and nl.create_model gives all blocks the same options"
        arguments |= {"non_local": list(blocks), **common[0]}
        state |= {f"{place}.{CHILD}.{key}": value for place, block in blocks.items() for key, value in block.items()}
    differences = _differences(depth, kernel, time, name) + names.notes
    state = {key: value.contiguous() for key, value in state.items()}
    return Network(state, arguments, time, kernel, depth, differences), renamed, None


def _add_statistics(state: dict[str, Tensor]) -> None:
    for key in [key for key in state if key.endswith(".bias") and key != "fc.bias"]:
        module = key.removesuffix(".bias")
        if f"{module}.weight" in state and f"{module}.running_mean" not in state:
            mean, variance = without_statistics(state[f"{module}.weight"])
            state |= {f"{module}.running_mean": mean, f"{module}.running_var": variance}


_INFLATED: tuple[tuple[int, str | None, str], ...] = (
    (C2D.stem_kernel, None, C2D.inflated),
    (SLOW.stem_kernel, "3x1x1", SLOW.inflated),
    (I3D.stem_kernel, "3x1x1", I3D.inflated),
    (I3D.stem_kernel, "3x3x3", I3D.inflated),
)
"""Frames of the first kernel, inflated kernel, and the residual blocks that have it."""


def _fitting(state: Mapping[str, Tensor]) -> tuple[tuple[int, str | None, str] | None, str]:
    """Depth, kernel and inflated blocks of the `VideoResNet` with these tensors, or how the nearest one differs."""
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
        for frames, kernel, inflated in _INFLATED:
            if frames != stem.shape[2]:
                continue
            ours = _shapes(depth, kernel, inflated, frames, len(classes))
            wrong = [key for key in sorted(ours.keys() | shapes.keys()) if ours.get(key) != shapes.get(key)]
            if not wrong:
                return (depth, kernel, inflated), ""
            if nearest is None or len(wrong) < len(nearest):
                nearest = wrong
                key = wrong[0]
                example = f"{key} is {shapes.get(key, 'missing')}, expected {ours.get(key, 'missing')}"
                difference = (
                    f"the nearest is a ResNet-{depth} with kernel={kernel!r}, {len(wrong)} tensors differ: {example}"
                )
    return None, difference  # pyright: ignore[reportPossiblyUnboundVariable]


def _shapes(depth: int, kernel: str | None, inflated: str, frames: int, classes: int) -> dict[str, tuple[int, ...]]:
    time = replace(SLOW if inflated == "late" else I3D, stem_kernel=frames)
    with torch.device("meta"):
        model = VideoResNet(depth, kernel=kernel, time=time, num_classes=classes)
    return {
        key: tuple(value.shape) for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")
    }


def _named(depth: int, kernel: str | None, time: TimePlan, suffix: str) -> str:
    """The name of the network in `nl.create_model`; without one of the same strides and pools, the nearest."""
    same = [name for name, found in ARCHITECTURES.items() if found == (depth, kernel, time)]
    plain = [name for name in same if "." not in name]
    own = [name for name in same if name.endswith(f".{suffix}")]
    if found := [*plain, *own, *same]:
        return found[0]
    alike = [
        (sum(getattr(time, field.name) != getattr(other[2], field.name) for field in fields(TimePlan)), name)
        for name, other in ARCHITECTURES.items()
        if other[:2] == (depth, kernel) and other[2].inflated == time.inflated and "." not in name
    ]
    return min(alike)[1]


def _differences(depth: int, kernel: str | None, time: TimePlan, name: str) -> tuple[str, ...]:
    ours = ARCHITECTURES[name][2]
    changed = [field.name for field in fields(TimePlan) if getattr(time, field.name) != getattr(ours, field.name)]
    if not changed:
        return ()
    listed = ", ".join(
        f"{field} {getattr(time, field)} in the source, {getattr(ours, field)} in {name}" for field in changed
    )
    return (
        f"no named model has the strides of the source: {listed}. The file alone gives the same network, as does "
        f"VideoResNet({depth}, kernel={kernel!r}, time={time!r}), from torch_nonlocal.models.video_resnet",
    )


def network_keys(tensors: Collection[str], names: NetworkNames) -> int:
    """Number of these keys that the networks of a source have."""
    return sum(names.rename(key, tensors) is not None for key in tensors)
