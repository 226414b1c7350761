"""Networks by name, from several sources: what a command line can say."""

import importlib.util
from pathlib import Path

from torch import nn

from torch_nonlocal.models.packaged import efficientnet_lite0
from torch_nonlocal.models.registry import create_model

PACKAGED = "packaged"


def build(model: str, *, pretrained: bool = False) -> nn.Module:
    """A network by its name.

    Args:
        model: "packaged" (EfficientNet-Lite0 with ImageNet weights), "torchvision:NAME", "timm:NAME", "ours:NAME" (see
            `nl.list_models`) or "FILE.py:FUNCTION" (a function that returns the network; the file is run).
        pretrained: let torchvision or timm download their weights; ours are then inflated from torchvision's.

    Raises:
        ValueError: an unknown source or name, a file without that function.
        ImportError: what the model needs is not installed.
    """
    source, _, name = model.rpartition(":")
    if model == PACKAGED:
        return efficientnet_lite0()
    if source == "torchvision":
        import torchvision

        return torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None)
    if source == "timm":
        import timm

        return timm.create_model(name, pretrained=pretrained)
    if source == "ours":
        return create_model(name, weights="imagenet" if pretrained else None)
    if source.endswith(".py"):
        return _from_file(Path(source), name)
    raise ValueError(
        f"model {model!r}: expected 'packaged', 'torchvision:resnet50', 'timm:resnet50', 'ours:i3d_resnet50' "
        "or 'path/to/file.py:function'"
    )


def _from_file(path: Path, function: str) -> nn.Module:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or specification is None or specification.loader is None:
        raise ValueError(f"no Python file at {path}")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise ValueError(f"{path} has no function {function!r}")
    return getattr(module, function)()
