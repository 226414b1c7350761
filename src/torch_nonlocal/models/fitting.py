"""Loading weights into a model that can differ from their source in blocks, classes and 2D or 3D kernels."""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from torch_nonlocal._common.optional import require
from torch_nonlocal._common.tensor_files import read_weights
from torch_nonlocal._common.text import listed
from torch_nonlocal.inflation.inflate import inflate_weight
from torch_nonlocal.insertion import blocks
from torch_nonlocal.insertion.attachment import CHILD
from torch_nonlocal.models.video_resnet import VideoResNet

IMAGENET = "imagenet"
_ROOM = 1 << 24  # values, such as those of a last layer that is replaced
_log = logging.getLogger("torch_nonlocal")


@dataclass(frozen=True)
class LoadReport:
    """Result of loading weights into a model.

    Attributes:
        loaded: names of the tensors that were loaded.
        inflated: names among them whose 2D kernels were inflated to 3D.
        missing: names of the model that the weights lack; they keep their values. The tensors of
            `newly_initialized` modules are not listed.
        unexpected: names of the weights that the model does not have.
        newly_initialized: modules that keep their initial weights, and why: the last layer of another number of
            classes, blocks that the weights lack.
    """

    loaded: tuple[str, ...]
    inflated: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    newly_initialized: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line, such as "9 tensors, 4 of them inflated; newly initialized: fc (7 classes in the weights, ...)"."""
        inflated = f", {len(self.inflated)} of them inflated" if self.inflated else ""
        new = ", ".join(f"{name} ({why})" for name, why in self.newly_initialized.items()) or "nothing"
        differences = [
            f"; {what} keys: {listed(names)}"
            for what, names in (("missing", self.missing), ("unexpected", self.unexpected))
            if names
        ]
        return f"{len(self.loaded)} tensors{inflated}; newly initialized: {new}{''.join(differences)}"


def load_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    strict: bool = True,
) -> LoadReport:
    """Load weights from a file into a model, in place. Nothing in the file is executed.

    Tensors are matched by name. 2D kernels are inflated where the model's are 3D. Non-local blocks that the file lacks
    keep their initial weights, and so does the last linear layer if the file has another number of classes, or none.

    Args:
        model: with its blocks; changed in place, only if everything else fits.
        path: a file that `read_weights` reads: of this package or another, of this network or its 2D counterpart.
        classes: class names of the model. If the file holds other class names, as best.pt can, the last layer keeps
            its initial weights although its size can be the same.
        strict: False allows missing and unexpected tensors; the report lists them. Shapes must fit in either case.

    Returns:
        What was loaded, inflated, missing, unexpected and newly initialized.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, holds only blocks, or does not fit; the message names the tensors and the
            model is unchanged.
        ImportError: the file is in safetensors format and safetensors is not installed.

    Example:
        >>> report = nl.load_weights(model, "resnet50.pth")
        >>> print(report)
        265 tensors, 53 of them inflated; newly initialized: fc (1000 classes in the weights, 400 in the model)
    """
    file = read_weights(path)
    if file.kind == "blocks":
        raise ValueError(f"{path} holds non-local blocks only; nl.load_blocks(model, path) loads them")
    same_classes = classes is None or file.classes in (None, tuple(classes))
    return load_tensors(model, file.tensors, source=str(path), same_classes=same_classes, strict=strict)


def load_pretrained(model: VideoResNet, weights: str | os.PathLike[str]) -> LoadReport:
    """Load the weights that a new model starts from, in place; newly initialized modules are logged as a warning.

    Args:
        model: changed in place, only if everything else fits.
        weights: "imagenet" for torchvision's ImageNet weights of the 2D ResNet, inflated; or a file, see
            `load_weights`.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `load_weights` and `imagenet_tensors`.
        OSError: the ImageNet weights cannot be downloaded.
    """
    if weights == IMAGENET:
        report = load_tensors(model, imagenet_tensors(model.depth), source=IMAGENET)
    else:
        report = load_weights(model, weights)
    if report.newly_initialized:
        _log.warning("%s: %s", weights, report)
    return report


def load_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], *, source: str, same_classes: bool = True, strict: bool = True
) -> LoadReport:
    """Load tensors by name into a model, in place; see `load_weights`.

    Args:
        model: with its blocks.
        tensors: tensors by name.
        source: name of their source, for messages.
        same_classes: False keeps the last layer's initial weights although its size can be the same.
        strict: False allows missing and unexpected tensors.

    Raises:
        ValueError: the tensors do not fit; the message names them and the model is unchanged.
    """
    own = model.state_dict()
    last = _last_linear(model)
    of_last = () if last is None else (_inside(last, "weight"), _inside(last, "bias"))
    fitted: dict[str, Tensor] = {}
    inflated: list[str] = []
    for name, tensor in tensors.items():
        if name in own and own[name].ndim == 5 and tensor.shape == own[name].shape[:2] + own[name].shape[3:]:
            tensor = inflate_weight(tensor, own[name].shape[2])
            inflated.append(name)
            if (over_time := _time_weight(name)) in own and over_time not in tensors:
                fitted[over_time] = torch.full_like(own[over_time], 1 / own[over_time].shape[2])
        if name in of_last and name in own and not (same_classes and tensor.shape == own[name].shape):
            continue
        fitted[name] = tensor

    new = _newly_initialized(model, last, fitted, tensors, same_classes)
    fresh = tuple(_inside(name, "") for name in new)
    missing = [name for name in own if name not in fitted and not name.startswith(fresh)]
    unexpected = [name for name in fitted if name not in own]
    misfits = [name for name in fitted if name in own and fitted[name].shape != own[name].shape]
    counters = [name for name in missing if name.endswith("num_batches_tracked")]  # absent in files of other projects
    if misfits or (strict and (unexpected or len(missing) > len(counters))):
        required = [name for name in missing if name not in counters]
        raise ValueError(_misfit(source, model, own, fitted, required, unexpected, misfits))
    loaded = {name: tensor for name, tensor in fitted.items() if name in own}
    model.load_state_dict({**own, **loaded})
    return LoadReport(tuple(loaded), tuple(inflated), tuple(missing), tuple(unexpected), new)


def load_exactly(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Load all tensors of a model by name, in place: for files that were saved from the same model.

    Raises:
        ValueError: a tensor is missing, unexpected or of another shape; the message names it and the model is
            unchanged.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    misfits = [name for name in tensors if name in own and tensors[name].shape != own[name].shape]
    if missing or unexpected or misfits:
        raise ValueError(_misfit(source, model, own, tensors, missing, unexpected, misfits))
    model.load_state_dict(dict(tensors))


@contextmanager
def limited_to(tensors: Mapping[str, Tensor], *, times: int = 1) -> Iterator[None]:
    """Limit the networks that this thread builds to the size of tensors from a file, with room for a last layer.

    A file names its network, and a short file can name a huge one.

    Args:
        tensors: tensors of the file.
        times: how often the network is built, such as in 2D and then in 3D.

    Raises:
        ValueError: the parameters and buffers of the networks exceed the limit.
    """
    limit = times * sum(tensor.numel() for tensor in tensors.values()) + _ROOM
    thread, built = threading.get_ident(), 0

    def count(module: nn.Module, name: str, value: Tensor | None) -> None:
        nonlocal built
        if value is not None and threading.get_ident() == thread:
            built += value.numel()
            if built > limit:
                raise ValueError(f"the network has more than {limit:,} values, and the file does not hold as many")

    handles = (register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_linear(model: nn.Module) -> str:
    """Name of a model's last linear layer, which computes the class scores.

    Raises:
        ValueError: the model has no linear layer.
    """
    name = _last_linear(model)
    if name is None:
        raise ValueError(f"{type(model).__name__} has no linear layer, expected one at its end for the class scores")
    return name


def replace_last_linear(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace a model's last linear layer by what `make` returns for it, in place.

    Raises:
        ValueError: the model has no linear layer.
    """
    name = last_linear(model)
    parent, _, child = name.rpartition(".")
    last = model.get_submodule(name)
    assert isinstance(last, nn.Linear)
    setattr(model.get_submodule(parent), child, make(last))


def imagenet_tensors(depth: int) -> dict[str, Tensor]:
    """torchvision's ImageNet weights of a 2D ResNet; torchvision downloads them unless they are cached.

    Args:
        depth: 50 or 101.

    Raises:
        ImportError: torchvision is not installed.
        OSError: the weights are neither cached nor can be downloaded.
    """
    torchvision = require("torchvision")
    try:
        return torchvision.models.get_model(f"resnet{depth}", weights="DEFAULT").state_dict()
    except OSError as error:  # no network, unknown host, interrupted download
        raise OSError(
            f"the ImageNet weights of resnet{depth} are not on this machine, and torchvision cannot download them "
            f"({error}): copy the .pth file to this machine and give its path as the weights"
        ) from error


def _last_linear(model: nn.Module) -> str | None:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else None


def _inside(module: str, name: str) -> str:
    """Full name of a child, parameter or buffer; the root module's name is empty."""
    return f"{module}.{name}" if module else name


def _time_weight(name: str) -> str:
    """Name of the kernel over time beside a separable kernel; see `inflate`."""
    return f"{name.removesuffix('weight')}time_weight"


def _newly_initialized(
    model: nn.Module,
    last: str | None,
    fitted: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    same_classes: bool,
) -> dict[str, str]:
    new: dict[str, str] = {}
    if last is not None and _inside(last, "weight") not in fitted:
        theirs = tensors.get(_inside(last, "weight"))
        other = "" if same_classes else "other "
        there = "not in the weights" if theirs is None else f"{len(theirs)} {other}classes in the weights"
        new[last] = f"{there}, {len(model.get_submodule(last).weight)} in the model"  # pyright: ignore[reportArgumentType]
    for name in blocks(model):
        child = _inside(name, CHILD)
        if not any(key.startswith(f"{child}.") for key in tensors):
            new[child] = "identity until trained"
    return new


def _misfit(
    source: str,
    model: nn.Module,
    own: Mapping[str, Tensor],
    fitted: Mapping[str, Tensor],
    missing: Sequence[str],
    unexpected: Sequence[str],
    misfits: Sequence[str],
) -> str:
    inside = f".{CHILD}."
    if unexpected and not misfits and not missing and all(inside in name for name in unexpected):
        places = ", ".join(dict.fromkeys(name.split(inside)[0] for name in unexpected))
        return f"{source} has blocks at {places}, the model has none there; insert blocks at the same places"
    shapes = (f"{name} {tuple(fitted[name].shape)}, expected {tuple(own[name].shape)}" for name in misfits)
    parts: Iterable[tuple[str, Iterable[str]]] = (
        ("missing keys", missing),
        ("unexpected keys", unexpected),
        ("other shapes", shapes),
    )
    differences = "; ".join(f"{what}: {names}" for what, given in parts if (names := listed(given)))
    hint = "" if own.keys() & fitted.keys() else "; `nonlocal convert` reads checkpoints of other projects"
    for where, tensors, others in (("model has", own, fitted), ("weights have", fitted, own)):
        if any(_time_weight(name) in tensors and _time_weight(name) not in others for name in misfits):
            hint = f"; only the {where} separable kernels: see `separable` of nl.inflate"
            hint += ", or --temporal of `nonlocal train action`"
    return f"{source} does not fit {type(model).__name__}: {differences}{hint}"
