"""The part of a network before its global pool: maps instead of class scores."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import evaluating
from torch_nonlocal._common.plain_values import shown

_CONVS = (nn.Conv2d, nn.Conv3d)
_REDUCING = (*_CONVS, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool2d, nn.MaxPool3d)
_POOLS = ("avgpool", "global_pool", "pool")


class TimmMaps(nn.Module):
    """The maps of a timm network: images (B, 3, H, W) -> (B, C, H', W').

    Args:
        network: has `forward_features`; its pool and classifier are removed.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        network.reset_classifier(0, "")
        self.network = network
        self._is_channels_last = str(getattr(network, "output_fmt", "")) == "NHWC"  # as in Swin transformers

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps before the global pool."""
        maps = self.network.forward_features(images)
        return maps.movedim(-1, 1) if self._is_channels_last else maps


def feature_maps(model: nn.Module) -> nn.Module:
    """The part of a network before its global pool, with the modules of `model` (not copies).

    It is found by structure: timm's `forward_features`, the children before the global pool (`avgpool`), as in ResNets,
    or torchvision's `features`. Any other network must return maps itself. Names of modules stay those of the network,
    after "network." for timm's.

    Args:
        model: a network that returns scores, or maps.

    Returns:
        A module: images (B, 3, H, W) or clips (B, 3, T, H, W), as `model` takes them, -> maps with as many axes.
    """
    if hasattr(model, "forward_features") and hasattr(model, "reset_classifier"):
        return TimmMaps(model)
    children = dict(model.named_children())
    pool = next((one for one in _POOLS if one in children), None)
    if pool is None:
        if not isinstance(children.get("features"), nn.Sequential):
            return model
        before = ["features"]
    else:
        names = list(children)
        before = names[: names.index(pool)]
    return nn.Sequential(OrderedDict((one, children[one]) for one in before))


def map_channels(backbone: nn.Module, example: Tensor, name: str = "") -> int:
    """Channels of the maps that a backbone returns for an example.

    Args:
        backbone: a network.
        example: its input.
        name: its name, for messages.

    Raises:
        ValueError: it does not return one map with as many axes as the example.
    """
    try:
        with evaluating(backbone), torch.no_grad():
            found = backbone(example)
    except Exception as error:  # a network may refuse its input by any exception
        got = f"{type(error).__name__}: {shown(error)}"
    else:
        if isinstance(found, Tensor) and found.ndim == example.ndim:
            return found.shape[1]
        got = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise ValueError(
        f"network {name!r}: expected maps before its global pool for an input of {tuple(example.shape)}, got {got}; "
        "ResNets, networks with `features` or `forward_features`, and networks that return maps are accepted"
    )


def set_last_stride(backbone: nn.Module, example: Tensor, *, also: nn.Module | None = None) -> list[str]:
    """Set the last stride over height and width to 1, in place, so that the last maps are twice as high and wide.

    All convolutions that reduce the map to the smallest size are changed, such as both branches of the first residual
    block of a ResNet's last stage. Weights do not change.

    Args:
        backbone: a network of convolutions for images or clips.
        example: its input; it is run once.
        also: another copy of the network, which is changed, too; `backbone` can then be on the meta device.

    Returns:
        Names of the convolutions that were changed; empty if the last reduction is no convolution whose kernel is
        larger than its stride, such as a pool or patches, or a shortcut beside one.
    Reference: Sun et al., Beyond part models (PCB), ECCV 2018, section 3.1; Luo et al., Bag of tricks, CVPRW 2019.
    """
    sizes: dict[str, tuple[int, int]] = {}
    found = {name: one for name, one in backbone.named_modules() if isinstance(one, _REDUCING) and _stride(one) > 1}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            sizes[name] = tuple(inputs[0].shape[-2:])

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in found.items()]
    try:
        with evaluating(backbone), torch.no_grad():
            backbone(example)
    finally:
        for handle in handles:
            handle.remove()
    smallest = min(sizes.values(), default=None)
    last = {name: found[name] for name, size in sizes.items() if size == smallest}
    if not any(_overlaps(one) for one in last.values()) or not all(isinstance(one, _CONVS) for one in last.values()):
        return []
    copies = [one for one in (backbone, also) if one is not None]
    for module in (one.get_submodule(name) for one in copies for name in last):
        assert isinstance(module, _CONVS)
        setattr(module, "stride", (*module.stride[:-2], 1, 1))  # noqa: B010 (nn.Module types its attributes)
    return list(last)


def _stride(module: Any) -> int:
    stride = module.stride
    return stride if isinstance(stride, int) else min(stride[-2:])


def _overlaps(module: Any) -> bool:
    return isinstance(module, _CONVS) and module.kernel_size[-1] > module.stride[-1]
